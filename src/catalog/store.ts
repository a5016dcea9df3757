/**
 * Catalogs by their ids: stored once, sealed, and never altered (P3). A catalog and what it names become visible together
 * (P4): storing happens in the caller's transaction, after the guard has seen every content.
 */
import { sql } from 'kysely';
import { type Catalog, checkedCatalogId } from '../model/catalog.ts';
import { CallboardError } from '../model/errors.ts';
import type { CatalogHash, Certname, ContentHash, EnvironmentName } from '../model/ids.ts';
import { CATALOG_BYTES_MAX } from '../model/limits.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';
import { type CatalogKeys, openSealed, seal, unzipped } from './seal.ts';
import { semanticHash } from './semantic.ts';

export interface NewCatalog {
  id: CatalogHash;
  certname: Certname;
  environment: EnvironmentName;
  /** The served document, whole. */
  document: Buffer;
  /** What its metadata names: `catalogContents(document)`. */
  contents: ContentHash[];
}

export interface CatalogStore {
  /** True when it is new; an identical recompile stores nothing. Throws when a content is not there. */
  storeCatalog(tx: Transaction, catalog: NewCatalog): Promise<boolean>;
  /** The document as JSON. Throws CATALOG_NOT_FOUND, CATALOG_CORRUPT. */
  readCatalog(db: Queries, id: CatalogHash): Promise<Buffer>;
  /** Its gzip as it can be served, without unpacking. Throws the same. */
  readCatalogGzip(db: Queries, id: CatalogHash): Promise<Buffer>;
}

export interface CatalogStoreDeps {
  keys: CatalogKeys;
  /** Holds the collector off until the transaction ends, and throws when one of the contents is not kept. */
  guardContent(tx: Transaction, contents: ContentHash[]): Promise<void>;
}

export function catalogStore(deps: CatalogStoreDeps): CatalogStore {
  async function storeCatalog(tx: Transaction, catalog: NewCatalog): Promise<boolean> {
    await deps.guardContent(tx, catalog.contents);
    if (await isStored(tx, catalog.id)) return false;
    if (catalog.document.length > CATALOG_BYTES_MAX)
      throw new CallboardError('BODY_TOO_LARGE', { max: CATALOG_BYTES_MAX });
    const resourceCount = checked(catalog).resources.length;
    const sealed = await seal(deps.keys, catalog.id, catalog.document);
    const isNew = await insertCatalog(tx, catalog, sealed, resourceCount, semanticHash(catalog.document));
    if (isNew) await insertReferences(tx, catalog.id, catalog.contents);
    return isNew;
  }

  async function readCatalogGzip(db: Queries, id: CatalogHash): Promise<Buffer> {
    const found = await sealedDocument(db, id);
    if (!found) throw new CallboardError('CATALOG_NOT_FOUND', { catalog: id });
    return openSealed(deps.keys, id, found);
  }

  return {
    storeCatalog,
    readCatalogGzip,
    readCatalog: async (db, id) => unzipped(await readCatalogGzip(db, id)),
  };
}

/** A catalog that is not what its caller says is a broken invariant, and must not become visible. */
function checked(catalog: NewCatalog): Catalog {
  const parsed: Catalog = JSON.parse(catalog.document.toString('utf8'));
  if (checkedCatalogId(catalog.document) !== catalog.id) throw new Error(`catalog ${catalog.id} has other bytes`);
  if (parsed.name !== catalog.certname || parsed.environment !== catalog.environment)
    throw new Error(
      `catalog ${catalog.id} is of ${parsed.name} in ${parsed.environment}, not of ${catalog.certname} in ${catalog.environment}`,
    );
  if (!Array.isArray(parsed.resources)) throw new Error(`catalog ${catalog.id} has no resources`);
  return parsed;
}

async function isStored(tx: Transaction, id: CatalogHash): Promise<boolean> {
  return (await row(sql`select 1 from catalog where id = ${id}`, tx)) !== undefined;
}

/** A rival that stores the same id at the same time is waited for; one of the two is new. */
async function insertCatalog(
  tx: Transaction,
  catalog: NewCatalog,
  sealed: Buffer,
  resourceCount: number,
  semantic: string,
): Promise<boolean> {
  const inserted = await row(
    sql`
      insert into catalog (id, certname, environment, document, document_bytes, resource_count, semantic)
      values (
        ${catalog.id}, ${catalog.certname}, ${catalog.environment}, ${sealed}, ${catalog.document.length}, ${resourceCount},
        ${semantic})
      on conflict (id) do nothing
      returning id
    `,
    tx,
  );
  return inserted !== undefined;
}

async function insertReferences(tx: Transaction, id: CatalogHash, contents: ContentHash[]): Promise<void> {
  if (contents.length === 0) return;
  await sql`
    insert into content_reference (holder, content)
    select ${id}, content from unnest(${contents}::text[]) as named (content)
    on conflict do nothing
  `.execute(tx);
}

async function sealedDocument(db: Queries, id: CatalogHash): Promise<Buffer | undefined> {
  return (await row<{ document: Buffer }>(sql`select document from catalog where id = ${id}`, db))?.document;
}

/** What a node's catalogs are compared by. */
export interface NodeCatalogs {
  environment: string;
  released_catalog: CatalogHash | null;
  released_code_version: string | null;
  /** The environment's newest, and whether the node was compiled under it; the catalog is null where that failed. */
  newest_code_version: string | null;
  compiled: boolean;
  candidate: CatalogHash | null;
  error: string | null;
}

/** Undefined where there is no such node. */
export async function nodeCatalogs(db: Queries, certname: Certname): Promise<NodeCatalogs | undefined> {
  return row<NodeCatalogs>(
    sql`
      select n.environment, n.released_catalog, n.released_code_version, e.code_version as newest_code_version,
        k.certname is not null as compiled, k.catalog as candidate, p.error ->> 'message' as error
      from node n
        left join environment e on e.name = n.environment
        left join compiled k on (k.certname, k.environment, k.code_version) = (n.certname, n.environment, e.code_version)
        left join compile p on p.id = k.compile
      where n.certname = ${certname}
    `,
    db,
  );
}

/** The node's catalogs that begin with `prefix`, two at most, each with the code version it was last compiled under. */
export async function nodeCatalogsByPrefix(
  db: Queries,
  certname: Certname,
  prefix: string,
): Promise<{ id: CatalogHash; code_version: string | null }[]> {
  return rows(
    sql`
      select c.id, (
        select k.code_version from compile k
        where k.certname = c.certname and k.catalog = c.id
        order by k.finished_at desc
        limit 1
      ) as code_version
      from catalog c
      where c.certname = ${certname} and starts_with(c.id, ${prefix})
      limit 2
    `,
    db,
  );
}
