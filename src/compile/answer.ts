/** Checks what a compile's process answers. Code of modules runs in that process, so its word is not taken for anything. */
import { type Catalog, catalogContents } from '../model/catalog.ts';
import { READS_MAX } from '../model/limits.ts';
import type { CatalogContent, CompileError, CompileRequest, CompileWarning, Place, Reads } from './request.ts';

export interface CompileHeader {
  status: 'compiled' | 'failed';
  error?: CompileError;
  contents: CatalogContent[];
  warnings: CompileWarning[];
  cpuMs: number | null;
  /** Files of the code version that had to be parsed. */
  parsed: string[];
  /** Files of modules' code that were loaded, in their order. */
  loads: string[];
  reads: Reads | null;
}

const SHA256 = /^[0-9a-f]{64}$/;

/** Throws an Error that says what is wrong with the header. */
export function readHeader(line: Buffer): CompileHeader {
  const value = JSON.parse(String(line)) as Record<string, unknown>;
  const { status } = value;
  if (status !== 'compiled' && status !== 'failed') throw new Error(`its status is ${JSON.stringify(status)}`);
  const header: CompileHeader = {
    status,
    contents: list(value.contents).map(content),
    warnings: list(value.warnings).map((item) => ({ ...message(item), level: String(record(item).level) })),
    cpuMs: typeof value.cpu_ms === 'number' ? value.cpu_ms : null,
    parsed: list(value.parsed).map(String),
    loads: list(value.loads).slice(0, READS_MAX).map(String),
    reads: value.reads === null || value.reads === undefined ? null : readReads(record(value.reads)),
  };
  if (status === 'failed') header.error = message(value.error);
  return header;
}

const INPUT = /^(?:modules$|(?:file|kind|mode|list|glob|data|option|name) [^\n]+$)/;
const OUTSIDE = /^(?:(?:file|kind|mode|list) \/|env )/;
const ROOTS: unknown[] = ['facts', 'trusted', 'server_facts'];

/** Reads that are too many or not of the form are no reads: the compile counts as one that may depend on everything. */
function readReads(value: Record<string, unknown>): Reads | null {
  const { inputs, data } = value;
  const outside = Object.entries(record(value.outside));
  const volatile = list(value.volatile);
  const lints = list(value.lints);
  const isInput = (one: unknown) => typeof one === 'string' && INPUT.test(one);
  const isStep = (one: unknown) => typeof one === 'string' || Number.isSafeInteger(one);
  const isPath = (one: unknown) => Array.isArray(one) && ROOTS.includes(one[0]) && one.every(isStep);
  const isKnown = ([key, digest]: [string, unknown]) =>
    OUTSIDE.test(key) && (digest === null || typeof digest === 'string');
  if (!Array.isArray(inputs) || !inputs.every(isInput)) throw new Error('its inputs are not what they should be');
  if (!Array.isArray(data) || !data.every(isPath)) throw new Error('its data are not what they should be');
  if (!outside.every(isKnown)) throw new Error('what it read outside is not what it should be');
  if ([inputs, data, outside, volatile, lints].some(({ length }) => length > READS_MAX)) return null;
  return {
    inputs: inputs.map(String),
    data,
    outside: Object.fromEntries(outside) as Record<string, string | null>,
    volatile: volatile.map((item) => ({ ...place(item), reason: String(record(item).reason) })),
    lints: lints.map(message),
  };
}

/** Throws an Error unless the bytes are a catalog of this node, and every content that it names is declared. */
export function checkCatalog(canonical: Buffer, header: CompileHeader, request: CompileRequest): void {
  const catalog = record(JSON.parse(String(canonical)));
  if (catalog.name !== request.certname) throw new Error(`the catalog is for ${JSON.stringify(catalog.name)}`);
  if (catalog.environment !== request.environment)
    throw new Error(`the catalog is of the environment ${JSON.stringify(catalog.environment)}`);
  if (!Array.isArray(catalog.resources) || !Array.isArray(catalog.edges))
    throw new Error('the catalog has no resources');
  const declared = new Set<string>(header.contents.map((item) => item.hash));
  for (const hash of catalogContents(catalog as unknown as Catalog)) {
    if (!declared.has(hash)) throw new Error(`the catalog names the content ${hash}, which was not declared`);
    declared.delete(hash);
  }
  if (declared.size > 0) throw new Error(`contents were declared that the catalog does not name: ${[...declared][0]}`);
}

function content(item: unknown): CatalogContent {
  const { hash, size, path } = record(item);
  if (typeof hash !== 'string' || !SHA256.test(hash)) throw new Error(`it names the content ${JSON.stringify(hash)}`);
  if (typeof size !== 'number' || !Number.isSafeInteger(size)) throw new Error(`content ${hash} has no size`);
  return typeof path === 'string' ? { hash, size, path } : { hash, size };
}

function message(item: unknown): CompileError {
  return { message: String(record(item).message), ...place(item) };
}

function place(item: unknown): Place {
  const { file, line } = record(item);
  return { file: typeof file === 'string' ? file : null, line: typeof line === 'number' ? line : null };
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('an object was expected');
  return value as Record<string, unknown>;
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}
