/** The catalogs of a node by the names that people give: released, candidate, none, or the first digits of an id. */
import { CallboardError } from '../model/errors.ts';
import type { CatalogHash, Certname, CodeVersionHash } from '../model/ids.ts';
import type { Database } from '../postgres/database.ts';
import { type NodeCatalogs, nodeCatalogs, nodeCatalogsByPrefix } from './store.ts';

/** A catalog and the code version it came from. */
export interface Side {
  catalog: CatalogHash;
  code_version: CodeVersionHash | null;
}

export const SIDE = '^(released|candidate|none|[0-9a-f]{4,64})$';

/** Throws NODE_NOT_FOUND. */
export async function knownNode(db: Database, certname: Certname): Promise<NodeCatalogs> {
  const node = await nodeCatalogs(db, certname);
  if (!node) throw new CallboardError('NODE_NOT_FOUND', { certname });
  return node;
}

/**
 * Undefined where a node has no such catalog, and the comparison is with nothing. Throws CANDIDATE_MISSING, COMPILE_FAILED,
 * CATALOG_NOT_FOUND, and REQUEST_INVALID where digits fit several.
 */
export async function sideOf(
  db: Database,
  certname: Certname,
  node: NodeCatalogs,
  name: string,
): Promise<Side | undefined> {
  if (name === 'none') return undefined;
  if (name === 'released')
    return node.released_catalog
      ? { catalog: node.released_catalog, code_version: node.released_code_version }
      : undefined;
  if (name === 'candidate') {
    if (!node.compiled) throw new CallboardError('CANDIDATE_MISSING', { certname, environment: node.environment });
    if (!node.candidate) throw new CallboardError('COMPILE_FAILED', { reason: node.error ?? 'The compile failed' });
    return { catalog: node.candidate, code_version: node.newest_code_version };
  }
  const found = await nodeCatalogsByPrefix(db, certname, name);
  if (found.length === 0) throw new CallboardError('CATALOG_NOT_FOUND', { catalog: name });
  if (found.length > 1)
    throw new CallboardError('REQUEST_INVALID', {
      reason: `More than one catalog of ${certname} begins with '${name}'`,
    });
  return { catalog: found[0]!.id, code_version: found[0]!.code_version };
}
