/**
 * Sensitive values out, everything else as it is. Puppet marks them in two ways: a parameter that is Sensitive as a whole
 * stands in clear and is named in `sensitive_parameters`; one inside another value is `{"__ptype":"Sensitive", …}`.
 */
import type { Catalog, CatalogResource } from '../model/catalog.ts';
import { isRawNumber, parseExactly } from './exact.ts';

/** What stands in the place of a secret, as Puppet itself writes it. */
export const REDACTED = 'Sensitive [value redacted]';

/** The document for whoever may look and not know. Its numbers stay as they were written. */
export function redactedCatalog(document: Buffer): string {
  const catalog = parseExactly<Catalog>(document);
  return JSON.stringify({ ...catalog, resources: catalog.resources.map(redactedResource) });
}

/** One resource without its secrets. */
export function redactedResource(resource: CatalogResource): CatalogResource {
  if (!resource.parameters) return resource;
  const entries = Object.entries(resource.parameters).map(
    ([name, value]) => [name, isSensitive(resource, name) ? REDACTED : redactedValue(value)] as const,
  );
  return { ...resource, parameters: Object.fromEntries(entries) as CatalogResource['parameters'] & object };
}

/** Whether a parameter is secret as a whole. */
export function isSensitive(resource: CatalogResource, parameter: string): boolean {
  return resource.sensitive_parameters?.includes(parameter) ?? false;
}

/** The value without the secrets inside it. */
export function redactedValue(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || isRawNumber(value)) return value;
  if (Array.isArray(value)) return value.map(redactedValue);
  if ((value as { __ptype?: unknown }).__ptype === 'Sensitive') return { __ptype: 'Sensitive', __pvalue: REDACTED };
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, redactedValue(each)]));
}

/** Whether there is a secret anywhere inside. */
export function holdsSecret(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || isRawNumber(value)) return false;
  if ((value as { __ptype?: unknown }).__ptype === 'Sensitive') return true;
  return Object.values(value).some(holdsSecret);
}
