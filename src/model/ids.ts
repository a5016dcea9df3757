/**
 * The names of things. Each kind of id has its own type, so that a catalog's hash cannot be passed where a content's
 * is meant; the parsers are the only way to make one from outside input.
 */
import { CallboardError } from './errors.ts';

declare const brand: unique symbol;
type Branded<Name extends string> = string & { readonly [brand]: Name };

/** A node's name: the common name of its certificate, lower case, as Puppet allows it. */
export type Certname = Branded<'Certname'>;
/** Lower-case hex SHA-256 of some bytes in the content store. */
export type ContentHash = Branded<'ContentHash'>;
/** Lower-case hex SHA-256 of a catalog's canonical form: the catalog's id and its `version`. */
export type CatalogHash = Branded<'CatalogHash'>;
/** Lower-case hex SHA-256 of a code version's tree manifest (see `tree.ts`). */
export type CodeVersionHash = Branded<'CodeVersionHash'>;
/** An environment's name as Puppet allows it. */
export type EnvironmentName = Branded<'EnvironmentName'>;
/** A run's id: a UUID that the node gives. */
export type RunId = Branded<'RunId'>;

const SHA256 = /^[0-9a-f]{64}$/;
const CERTNAME = /^[a-z0-9][a-z0-9._-]{0,252}$/;
const ENVIRONMENT = /^[a-z0-9_]{1,100}$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function parseCertname(value: string): Certname {
  if (!CERTNAME.test(value) || value.includes('..')) throw new CallboardError('CERTNAME_INVALID', { value });
  return value as Certname;
}

export function parseEnvironmentName(value: string): EnvironmentName {
  if (!ENVIRONMENT.test(value)) throw new CallboardError('ENVIRONMENT_NAME_INVALID', { value });
  return value as EnvironmentName;
}

export function parseContentHash(value: string): ContentHash {
  if (!SHA256.test(value)) throw new CallboardError('HASH_INVALID', { value });
  return value as ContentHash;
}

export function parseCatalogHash(value: string): CatalogHash {
  if (!SHA256.test(value)) throw new CallboardError('HASH_INVALID', { value });
  return value as CatalogHash;
}

export function parseCodeVersionHash(value: string): CodeVersionHash {
  if (!SHA256.test(value)) throw new CallboardError('HASH_INVALID', { value });
  return value as CodeVersionHash;
}

export function parseRunId(value: string): RunId {
  if (!UUID.test(value)) throw new CallboardError('RUN_ID_INVALID', { value });
  return value as RunId;
}
