/**
 * Catalogs by their ids: stored once, sealed, and never altered (P3). A catalog and what it names become visible together
 * (P4): storing happens in the caller's transaction, after the guard has seen every content.
 */
import { sql } from 'kysely';
import { type Catalog, checkedCatalogId } from '../model/catalog.ts';
import { CallboardError } from '../model/errors.ts';
import type { CatalogHash, Certname, CodeVersionHash, ContentHash, EnvironmentName } from '../model/ids.ts';
import { CATALOG_BYTES_MAX } from '../model/limits.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';
import type { Condition } from './conditions.ts';
import type { CompileFailure } from './plan.ts';
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
  environment: EnvironmentName;
  released_catalog: CatalogHash | null;
  released_code_version: CodeVersionHash | null;
  /** The environment's newest, and whether the node was compiled under it; the catalog is null where that failed. */
  newest_code_version: CodeVersionHash | null;
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
): Promise<{ id: CatalogHash; code_version: CodeVersionHash | null }[]> {
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

/** Undefined where there is no such environment. */
export async function environmentCode(
  db: Queries,
  environment: EnvironmentName,
): Promise<{ code_version: CodeVersionHash | null } | undefined> {
  return row(
    sql<{ code_version: CodeVersionHash | null }>`select code_version from environment where name = ${environment}`,
    db,
  );
}

/** Where a code version came from, as its last deploy to the environment says. */
export interface CodeOrigin {
  code_version: CodeVersionHash;
  commit: string | null;
  ref: string;
  trial: boolean;
  deployed_at: Date;
  requested_by: string;
}

/** Code versions of an environment, trials too, that begin with `prefix`; two at most. */
export async function codeByPrefix(db: Queries, environment: EnvironmentName, prefix: string): Promise<CodeOrigin[]> {
  return rows(
    sql<CodeOrigin>`
      select * from (
        select distinct on (code_version) code_version, commit, ref, trial, finished_at as deployed_at, requested_by
        from deploy
        where environment = ${environment} and state = 'done' and starts_with(code_version, ${prefix})
        order by code_version, trial, created_at desc
      ) deployed
      limit 2
    `,
    db,
  );
}

/** Nodes of an environment that have facts and fit all conditions. */
export async function nodesWhere(
  db: Queries,
  environment: EnvironmentName,
  conditions: readonly Condition[],
): Promise<Certname[]> {
  const wanted = conditions.map((condition) => {
    const holds =
      condition.kind === 'certname'
        ? sql`n.certname like ${condition.pattern}`
        : // PostgreSQL's text has no zero character, and refuses to look into a document that names one.
          sql`replace(d.document, '\\u0000', '\\ufffd')::json #>> ${condition.path}::text[] is not distinct from ${condition.value}::text`;
    return condition.isNot ? sql`not (${holds})` : holds;
  });
  const found = await rows(
    sql<{ certname: Certname }>`
      select n.certname from node n join fact_document d on d.hash = n.facts
      where n.environment = ${environment} and ${sql.join(wanted, sql` and `)}
      order by n.certname
    `,
    db,
  );
  return found.map(({ certname }) => certname);
}

/** The nodes that a plan is about: those named, or all of the environment that have facts. */
export interface PlanScope {
  environment: EnvironmentName;
  codeVersion: CodeVersionHash;
  certnames: readonly Certname[] | undefined;
}

function inScope({ environment, certnames }: PlanScope) {
  const named = certnames ? sql`n.certname = any(${certnames}::text[])` : sql`true`;
  return sql`n.environment = ${environment} and n.facts is not null and ${named}`;
}

export interface PlanProgress {
  total: number;
  done: number;
  queued: number;
  /** Which nodes the code version affects is still being found out. */
  deciding: boolean;
  /** How long recent compiles took; null where there were none. */
  mean_seconds: number | null;
}

/** How far the compiles of a code version are. Jobs that nobody will try again do not count. */
export async function planProgress(db: Queries, scope: PlanScope): Promise<PlanProgress> {
  const { environment, codeVersion } = scope;
  const found = await row(
    sql<PlanProgress>`
      with job as (
        select key from graphile_worker._private_jobs
        where key is not null and (is_available or locked_at is not null)
      )
      select count(*)::int as total,
        count(*) filter (where k.certname is not null and job.key is null)::int as done,
        count(job.key)::int as queued,
        exists (select from job where key = ${`affected:${environment}:${codeVersion}`}) as deciding,
        (
          select avg(extract(epoch from finished_at - started_at))::float
          from (select started_at, finished_at from compile order by finished_at desc limit 50) recent
        ) as mean_seconds
      from node n
        left join compiled k on (k.certname, k.environment, k.code_version) = (n.certname, n.environment, ${codeVersion})
        left join job on job.key = ${`compile:${environment}:${codeVersion}:`}::text || n.certname
      where ${inScope(scope)}
    `,
    db,
  );
  return found!;
}

export interface PlanNode {
  certname: Certname;
  released: CatalogHash | null;
  compiled: boolean;
  /** Null where the compile failed. */
  candidate: CatalogHash | null;
  error: CompileFailure | null;
  /** The candidate was made under an earlier code version, and holds under this one too. */
  carried_over: boolean;
  /** What a node does is the same under both. */
  same: boolean;
}

/** One page of a plan's nodes, after `after` in the order of their names. */
export async function planNodes(db: Queries, scope: PlanScope, after: string, limit: number): Promise<PlanNode[]> {
  return rows(
    sql<PlanNode>`
      select n.certname, n.released_catalog as released, k.certname is not null as compiled, k.catalog as candidate, p.error,
        p.code_version is distinct from ${scope.codeVersion} as carried_over,
        coalesce(k.catalog = n.released_catalog or c.semantic = r.semantic, false) as same
      from node n
        left join compiled k on (k.certname, k.environment, k.code_version) = (n.certname, n.environment, ${scope.codeVersion})
        left join compile p on p.id = k.compile
        left join catalog c on c.id = k.catalog
        left join catalog r on r.id = n.released_catalog
      where ${inScope(scope)} and n.certname > ${after}
      order by n.certname
      limit ${limit}
    `,
    db,
  );
}

/** Catalogs of all nodes that begin with `prefix`, two at most. */
export async function catalogsByPrefix(db: Queries, prefix: string): Promise<CatalogHash[]> {
  // Digits sort before letters: `g` ends what begins with the prefix, and the index is of use.
  const found = await rows(
    sql<{ id: CatalogHash }>`
      select id from catalog where id >= ${prefix} and id < ${`${prefix}g`} and starts_with(id, ${prefix}) limit 2
    `,
    db,
  );
  return found.map(({ id }) => id);
}

/** The compile that gave a node a catalog: the last one under the code version, else the last of all. */
export interface CompileOrigin {
  id: string;
  code_version: CodeVersionHash;
  trigger: string;
  facts: string | null;
  enc_hash: string | null;
  finished_at: Date;
  /** What it read is known. */
  traced: boolean;
  /** Paths of facts, trusted and server facts that were read; null where it is not known. */
  data: (string | number)[][] | null;
  outside: Record<string, string | null> | null;
  volatile: { reason: string; file: string | null; line: number | null }[] | null;
}

/** Undefined where its compiles are forgotten. */
export async function compileOf(
  db: Queries,
  certname: Certname,
  catalog: CatalogHash,
  codeVersion: CodeVersionHash | null,
): Promise<CompileOrigin | undefined> {
  return row(
    sql<CompileOrigin>`
      select p.id, p.code_version, p.trigger, p.facts, p.enc_hash, p.finished_at, p.read_set is not null as traced, s.data,
        p.outside, p.volatile
      from compile p
        left join read_set s on s.id = p.read_set
        left join compiled k on k.compile = p.id and k.code_version = ${codeVersion}
      where p.certname = ${certname} and p.catalog = ${catalog}
      order by k.compile is not null desc, p.finished_at desc
      limit 1
    `,
    db,
  );
}

/** What a compile read of its code version, as the texts that name it. */
export async function compileInputs(db: Queries, compile: string): Promise<string[]> {
  const found = await rows(
    sql<{ input: string }>`
      select distinct unnest(part.inputs) as input
      from compile p join read_set_part of on of.read_set = p.read_set join read_part part on part.id = of.part
      where p.id = ${compile}
      order by input
    `,
    db,
  );
  return found.map(({ input }) => input);
}

export async function factDocument(db: Queries, hash: string): Promise<string | undefined> {
  return (await row(sql<{ document: string }>`select document from fact_document where hash = ${hash}`, db))?.document;
}

export interface PastCatalog {
  id: number;
  moved_at: Date;
  cause: string;
  requested_by: string | null;
  catalog: CatalogHash;
  code_version: CodeVersionHash;
  commit: string | null;
  /** Why the catalog was compiled; null where the compile is forgotten. */
  trigger: string | null;
  previous_catalog: CatalogHash | null;
}

/** The catalogs that a node was given, the last first, those before the move `before`. */
export async function pastCatalogs(
  db: Queries,
  certname: Certname,
  page: { before: number | undefined; limit: number },
): Promise<PastCatalog[]> {
  return rows(
    sql<PastCatalog>`
      select m.id, m.moved_at, m.cause, r.requested_by, m.catalog, m.code_version, d.commit, p.trigger, m.previous_catalog
      from pointer_move m
        left join release r on r.id = m.release
        left join lateral (
          select commit from deploy
          where code_version = m.code_version and state = 'done' and created_at <= m.moved_at
            and environment = (select environment from catalog where id = m.catalog)
          order by created_at desc
          limit 1
        ) d on true
        left join lateral (
          select trigger from compile
          where certname = m.certname and catalog = m.catalog and finished_at <= m.moved_at
          order by finished_at desc
          limit 1
        ) p on true
      where m.certname = ${certname} and ${page.before === undefined ? sql`true` : sql`m.id < ${page.before}`}
      order by m.id desc
      limit ${page.limit}
    `,
    db,
  );
}

export interface DeployedCatalog {
  code_version: CodeVersionHash;
  commit: string | null;
  ref: string;
  deployed_at: Date;
  requested_by: string;
  /** The node's last catalog under it that is still kept. */
  catalog: CatalogHash | null;
  facts: string | null;
}

/** Deploys of an environment whose code is kept, the last first, each with a node's catalog under its code. */
export async function deployedCatalogs(
  db: Queries,
  environment: EnvironmentName,
  certname: Certname,
  limit: number,
): Promise<DeployedCatalog[]> {
  return rows(
    sql<DeployedCatalog>`
      select d.code_version, d.commit, d.ref, d.finished_at as deployed_at, d.requested_by, last.catalog, last.facts
      from deploy d
        left join lateral (
          select c.id as catalog, p.facts
          from (
            select k.compile as id, k.catalog, null::timestamptz as finished_at from compiled k
            where (k.certname, k.environment, k.code_version) = (${certname}, d.environment, d.code_version)
            union all
            select id, catalog, finished_at from compile
            where (certname, environment, code_version) = (${certname}, d.environment, d.code_version)
          ) made
            join catalog c on c.id = made.catalog
            join compile p on p.id = made.id
          order by made.finished_at desc nulls first
          limit 1
        ) last on true
      where d.environment = ${environment} and d.state = 'done' and not d.trial and d.code_version is not null
      order by d.created_at desc
      limit ${limit}
    `,
    db,
  );
}
