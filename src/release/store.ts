/**
 * The statements behind pointers. Whoever moves a pointer holds, in this order, the lock of the environment (shared for one
 * node, exclusive for many) and the row lock of the node, and reads only after both: under READ COMMITTED a statement that
 * waited for a row lock still sees everything else as it was before the wait.
 */
import { sql } from 'kysely';
import type { CatalogHash, Certname, CodeVersionHash, EnvironmentName } from '../model/ids.ts';
import { RUN_REQUEST_TIME_MAX_MS } from '../model/limits.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';
import type {
  CompileResult,
  EnvironmentState,
  Move,
  MoveCause,
  NodeState,
  ReleaseCandidate,
  RollbackCandidate,
} from './policy.ts';

/** First key of the advisory locks of environments; the second is a hash of the name. */
const ENVIRONMENT_LOCK = 7_231_003;

/** Keeps releases and rollbacks of the environment out until the transaction ends. */
export async function shareEnvironment(tx: Transaction, environment: string): Promise<void> {
  await sql`select pg_advisory_xact_lock_shared(${ENVIRONMENT_LOCK}::int, hashtext(${environment}))`.execute(tx);
}

/** Keeps every move of pointers in the environment out until the transaction ends. */
export async function lockEnvironment(tx: Transaction, environment: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(${ENVIRONMENT_LOCK}::int, hashtext(${environment}))`.execute(tx);
}

/**
 * Locks nodes in the order of their names; undefined locks all of the environment. The weaker row lock, since rows that
 * only refer to a node (a compile that ends) need not wait.
 */
export async function lockNodes(tx: Transaction, environment: string, certnames?: readonly string[]): Promise<void> {
  await sql`
    with locked as materialized (
      select certname from node
      where environment = ${environment} and ${certnames ? sql`certname = any(${certnames}::text[])` : sql`true`}
      order by certname
      for no key update
    )
    select count(*) from locked
  `.execute(tx);
}

/** Locks one node, whatever its environment; its environment, or undefined where there is no such node. */
export async function lockNode(tx: Transaction, certname: Certname): Promise<EnvironmentName | undefined> {
  const found = await row<{ environment: EnvironmentName }>(
    sql`select environment from node where certname = ${certname} for no key update`,
    tx,
  );
  return found?.environment;
}

export async function nodeEnvironment(db: Queries, certname: Certname): Promise<EnvironmentName | undefined> {
  const found = await row<{ environment: EnvironmentName }>(
    sql`select environment from node where certname = ${certname}`,
    db,
  );
  return found?.environment;
}

export async function environmentState(db: Queries, environment: string): Promise<EnvironmentState | undefined> {
  return row<EnvironmentState>(
    sql`
      select code_policy, facts_policy, code_version, released_code_version
      from environment where name = ${environment}
    `,
    db,
  );
}

export async function nodeState(db: Queries, certname: Certname): Promise<NodeState | undefined> {
  return row<NodeState>(
    sql`
      select n.certname, n.environment, n.released_catalog, n.released_code_version, n.pinned,
        c.environment as released_environment
      from node n left join catalog c on c.id = n.released_catalog
      where n.certname = ${certname}
    `,
    db,
  );
}

/** Code versions that were deployed to the environment and begin with `prefix`; two at most. */
export async function codeVersionsByPrefix(
  db: Queries,
  environment: string,
  prefix: string,
): Promise<CodeVersionHash[]> {
  const found = await rows<{ id: CodeVersionHash }>(
    sql`
      select id from (
        select code_version as id from deploy where environment = ${environment} and state = 'done'
        union
        select code_version from environment where name = ${environment}
      ) deployed
      where starts_with(id, ${prefix})
      limit 2
    `,
    db,
  );
  return found.map(({ id }) => id);
}

/** The nodes of an environment, each with the last compile of the code version; those named, or all. */
export async function releaseCandidates(
  tx: Transaction,
  environment: string,
  codeVersion: CodeVersionHash,
  certnames: readonly string[] | undefined,
): Promise<ReleaseCandidate[]> {
  return rows<ReleaseCandidate>(
    sql`
      select n.certname, n.environment, n.released_catalog, n.released_code_version, n.pinned,
        c.environment as released_environment, n.facts is not null as has_facts,
        k.certname is not null as compiled, k.catalog as candidate,
        p.error ->> 'message' as error, k.facts is distinct from n.facts as stale
      from node n
        left join catalog c on c.id = n.released_catalog
        left join compiled k on (k.certname, k.environment, k.code_version) = (n.certname, n.environment, ${codeVersion})
        left join compile p on p.id = k.compile
      where n.environment = ${environment}
        and ${certnames ? sql`n.certname = any(${certnames}::text[])` : sql`true`}
      order by n.certname
    `,
    tx,
  );
}

/** The nodes of an environment, each with its last move that a rollback can undo; those named, or all. */
export async function rollbackCandidates(
  tx: Transaction,
  environment: string,
  certnames: readonly string[] | undefined,
): Promise<RollbackCandidate[]> {
  return rows<RollbackCandidate>(
    sql`
      select n.certname, n.environment, n.released_catalog, n.released_code_version, n.pinned,
        c.environment as released_environment, last.move as last_move
      from node n
        left join catalog c on c.id = n.released_catalog
        left join lateral (
          select json_build_object(
            'previous_catalog', m.previous_catalog,
            'previous_code_version', m.previous_code_version,
            'previous_environment', (select environment from catalog where id = m.previous_catalog),
            'undone', exists (
              select from pointer_move u where u.certname = m.certname and u.id > m.id and u.cause = 'rollback'
            )
          ) as move
          from pointer_move m
          where m.certname = n.certname and m.cause in ('release', 'code')
          order by m.id desc
          limit 1
        ) last on true
      where n.environment = ${environment}
        and ${certnames ? sql`n.certname = any(${certnames}::text[])` : sql`true`}
      order by n.certname
    `,
    tx,
  );
}

export async function insertRelease(
  tx: Transaction,
  release: {
    kind: 'release' | 'rollback' | 'pin' | 'unpin';
    environment: string;
    codeVersion: CodeVersionHash | null;
    requestedBy: string;
  },
): Promise<string> {
  const made = await row<{ id: string }>(
    sql`
      insert into release (kind, environment, code_version, requested_by)
      values (${release.kind}, ${release.environment}, ${release.codeVersion}, ${release.requestedBy})
      returning id
    `,
    tx,
  );
  return made!.id;
}

/** Moves pointers, each with a row that tells where it stood before. The nodes must be locked. */
export async function movePointers(
  tx: Transaction,
  cause: MoveCause,
  release: string | null,
  moves: readonly Move[],
): Promise<void> {
  if (moves.length === 0) return;
  await sql`
    with target as (
      select * from unnest(
        ${moves.map((move) => move.certname)}::text[],
        ${moves.map((move) => move.catalog)}::text[],
        ${moves.map((move) => move.code_version)}::text[]
      ) as target (certname, catalog, code_version)
    ), told as (
      insert into pointer_move
        (certname, cause, release, previous_catalog, previous_code_version, catalog, code_version)
      select certname, ${cause}, ${release}::uuid, n.released_catalog, n.released_code_version,
        target.catalog, target.code_version
      from target join node n using (certname)
      order by certname
    )
    update node n
    set released_catalog = target.catalog, released_code_version = target.code_version, released_at = now()
    from target
    where n.certname = target.certname
  `.execute(tx);
}

/** Whether the node does the same under a catalog as under its released one: see `CompileResult.same`. */
export async function doesTheSame(
  db: Queries,
  certname: Certname,
  catalog: CatalogHash,
  codeVersion: CodeVersionHash,
): Promise<boolean> {
  const found = await row<{ same: boolean | null }>(
    sql`
      select (n.released_catalog = ${catalog} or released.semantic = candidate.semantic) and v.plugins = w.plugins as same
      from node n
        join catalog released on released.id = n.released_catalog
        join catalog candidate on candidate.id = ${catalog}
        join code_version v on v.id = n.released_code_version
        join code_version w on w.id = ${codeVersion}
      where n.certname = ${certname}
    `,
    db,
  );
  return found?.same === true;
}

/** The released catalogs of these nodes are of another code version from here on. */
export async function moveAlong(
  tx: Transaction,
  certnames: readonly Certname[],
  codeVersion: CodeVersionHash,
): Promise<void> {
  await sql`
    update node set released_code_version = ${codeVersion} where certname = any(${certnames}::text[])
  `.execute(tx);
}

export async function setReleasedCodeVersion(
  tx: Transaction,
  environment: string,
  codeVersion: CodeVersionHash,
): Promise<void> {
  await sql`
    update environment set released_code_version = ${codeVersion}
    where name = ${environment} and released_code_version is distinct from ${codeVersion}
  `.execute(tx);
}

/** True when it was not held before. */
export async function holdCode(tx: Transaction, environment: string): Promise<boolean> {
  const held = await row(
    sql`update environment set code_policy = 'held' where name = ${environment} and code_policy <> 'held' returning 1`,
    tx,
  );
  return held !== undefined;
}

export async function setPinned(tx: Transaction, certname: Certname, pinned: boolean): Promise<void> {
  await sql`update node set pinned = ${pinned} where certname = ${certname}`.execute(tx);
}

/**
 * The node's catalogs that begin with `prefix`, two at most, each with the code version it was last compiled under; where
 * the node's own code version gave it too, that one.
 */
export async function catalogsByPrefix(
  db: Queries,
  certname: Certname,
  prefix: string,
): Promise<{ id: CatalogHash; environment: string; code_version: CodeVersionHash | null }[]> {
  return rows(
    sql`
      select c.id, c.environment, (
        select k.code_version from (
          select code_version, finished_at from compile where certname = c.certname and catalog = c.id
          union all
          select code_version, null from compiled where certname = c.certname and catalog = c.id
        ) as k
        order by k.code_version is not distinct from n.released_code_version desc, k.finished_at desc nulls last
        limit 1
      ) as code_version
      from catalog c join node n using (certname)
      where c.certname = ${certname} and starts_with(c.id, ${prefix})
      limit 2
    `,
    db,
  );
}

/** Nodes of an environment with their last results there under the code versions that a policy may move them to. */
export async function nodesWithCompiles(
  tx: Transaction,
  environment: string,
  certname?: Certname,
): Promise<(NodeState & { compiles: CompileResult[] })[]> {
  return rows(
    sql`
      select n.certname, n.environment, n.released_catalog, n.released_code_version, n.pinned,
        c.environment as released_environment,
        (
          select coalesce(json_agg(json_build_object(
            'environment', k.environment, 'codeVersion', k.code_version, 'catalog', k.catalog,
            'same', coalesce(
              (k.catalog = n.released_catalog or candidate.semantic = c.semantic) and v.plugins = released.plugins, false)
            )), '[]')
          from compiled k
            left join catalog candidate on candidate.id = k.catalog
            join code_version v on v.id = k.code_version
          where (k.certname, k.environment) = (n.certname, n.environment)
            and k.code_version in (n.released_code_version, e.released_code_version, e.code_version)
        ) as compiles
      from node n
        join environment e on e.name = n.environment
        left join catalog c on c.id = n.released_catalog
        left join code_version released on released.id = n.released_code_version
      where n.environment = ${environment} and ${certname ? sql`n.certname = ${certname}` : sql`true`}
      order by n.certname
    `,
    tx,
  );
}

/** What a node is answered with. */
export interface ServedPointer {
  certname: string;
  catalog: CatalogHash | null;
  code_version: CodeVersionHash | null;
  plugins: string | null;
  /** Of the environment that the catalog was compiled in. */
  run_policy: 'do' | 'noop' | null;
  /** The oldest wish to run that is neither taken nor expired. */
  request: string | null;
  request_mode: 'noop' | 'do' | 'policy' | null;
  requested_at: Date | null;
}

/** The pointers of many nodes at once; nodes that are not known are left out. */
export async function servedPointers(db: Queries, certnames: readonly string[]): Promise<ServedPointer[]> {
  return rows<ServedPointer>(
    sql`
      select n.certname, n.released_catalog as catalog, n.released_code_version as code_version, v.plugins, e.run_policy,
        r.id as request, r.mode as request_mode, r.requested_at
      from node n
        left join code_version v on v.id = n.released_code_version
        left join catalog c on c.id = n.released_catalog
        left join environment e on e.name = c.environment
        left join lateral (
          select id, mode, requested_at from run_request
          where certname = n.certname and run is null
            and requested_at > now() - ${RUN_REQUEST_TIME_MAX_MS}::int * interval '1 millisecond'
          order by requested_at, id
          limit 1
        ) r on true
      where n.certname = any(${certnames}::text[])
    `,
    db,
  );
}

/**
 * The plugins a node's facts and runs need: those of its released code version, else of its environment's, else of the
 * newest code. `unknown`: the environment of a node that has not sent facts yet.
 */
export async function pluginsOf(db: Queries, certname: Certname, unknown: string): Promise<string | undefined> {
  const found = await row<{ plugins: string }>(
    sql`
      select v.plugins
      from (select ${certname}::text as certname) asked
        left join node n using (certname)
        left join environment e on e.name = coalesce(n.environment, ${unknown})
        join code_version v on v.id = coalesce(n.released_code_version, e.released_code_version, e.code_version)
    `,
    db,
  );
  return found?.plugins;
}

export interface HistoryEntry {
  id: number;
  moved_at: Date;
  cause: MoveCause;
  release: string | null;
  requested_by: string | null;
  catalog: CatalogHash;
  code_version: CodeVersionHash;
  commit: string | null;
  previous_catalog: CatalogHash | null;
  previous_code_version: CodeVersionHash | null;
}

/** A node's moves before the one with id `before`, newest first. The commit is that of the environment's last deploy of the version. */
export async function pointerHistory(
  db: Queries,
  certname: Certname,
  page: { before: number | undefined; limit: number },
): Promise<HistoryEntry[]> {
  return rows<HistoryEntry>(
    sql`
      select m.id, m.moved_at, m.cause, m.release, r.requested_by, m.catalog, m.code_version, d.commit,
        m.previous_catalog, m.previous_code_version
      from pointer_move m
        left join release r on r.id = m.release
        left join catalog c on c.id = m.catalog
        left join lateral (
          select commit from deploy
          where environment = c.environment and code_version = m.code_version and created_at <= m.moved_at
          order by created_at desc
          limit 1
        ) d on true
      where m.certname = ${certname} and ${page.before === undefined ? sql`true` : sql`m.id < ${page.before}`}
      order by m.id desc
      limit ${page.limit}
    `,
    db,
  );
}

export interface RunRequestMade {
  certname: Certname;
  environment: string;
  id: string;
  /** An equal wish was open already, and stands for this one. */
  existed: boolean;
}

/** A wish for each known node, unless an equal one is open. */
export async function insertRunRequests(
  tx: Transaction,
  certnames: readonly string[],
  mode: 'noop' | 'do' | 'policy',
  requestedBy: string,
): Promise<RunRequestMade[]> {
  return rows<RunRequestMade>(
    sql`
      with asked as (
        select certname, environment from node where certname = any(${certnames}::text[])
      ), open as (
        select distinct on (certname) certname, id from run_request
        where certname = any(${certnames}::text[]) and run is null and mode = ${mode}
          and requested_at > now() - ${RUN_REQUEST_TIME_MAX_MS}::int * interval '1 millisecond'
        order by certname, requested_at
      ), made as (
        insert into run_request (certname, mode, requested_by)
        select certname, ${mode}, ${requestedBy} from asked where certname not in (select certname from open)
        returning certname, id
      )
      select certname, environment, coalesce(made.id, open.id) as id, open.id is not null as existed
      from asked left join made using (certname) left join open using (certname)
      order by certname
    `,
    tx,
  );
}
