/** The statements of the compile room. */
import { type RawBuilder, sql } from 'kysely';
import type { CatalogHash, Certname, CodeVersionHash } from '../model/ids.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';
import type { WantedRow } from './read-set-store.ts';
import type { CompileError, CompileWarning } from './request.ts';

/** First key of the advisory locks under which results of one node follow one another; the second is a hash of its name. */
const RESULT_LOCK = 7_231_004;

/** What a compile starts from, as it is now. */
export interface NodeInputs {
  environment: string;
  facts_hash: string;
  facts: string;
  volatile_facts: string | null;
  trusted_extensions: Record<string, string>;
  /** The same as text. */
  extensions: string;
  /** Code versions that somebody may want catalogs of: the environment's newest, the one released to the node, and trials. */
  wanted: CodeVersionHash[];
  read_at: Date;
}

/** Undefined where there is no such node, or it has sent no facts. */
export function readInputs(db: Queries, certname: Certname): Promise<NodeInputs | undefined> {
  return row(
    sql<NodeInputs>`
      select node.environment, fact_document.hash as facts_hash, fact_document.document as facts, node.volatile_facts,
        node.trusted_extensions, node.trusted_extensions::text as extensions, clock_timestamp() as read_at,
        array(
          select wanted.code_version from (${wantedCompiles()}) as wanted where wanted.certname = node.certname
          union select trial.code_version from trial where trial.environment = node.environment and trial.expires_at > now()
        ) as wanted
      from node join fact_document on fact_document.hash = node.facts
      where node.certname = ${certname}
    `,
    db,
  );
}

/** What nodes say about themselves now, and their certificates say about them. */
export function readNodeData(
  db: Queries,
  certnames: readonly string[],
): Promise<{ certname: Certname; facts: string; volatile_facts: string | null; extensions: string }[]> {
  return rows(
    sql<{ certname: Certname; facts: string; volatile_facts: string | null; extensions: string }>`
      select node.certname, fact_document.document as facts, node.volatile_facts, node.trusted_extensions::text as extensions
      from node join fact_document on fact_document.hash = node.facts
      where node.certname = any(${certnames}::text[])
    `,
    db,
  );
}

/** The catalogs that nodes want, each with what its last compile read of the node; without one nothing is known. */
export function wantedRows(db: Queries, certnames: readonly string[]): Promise<WantedRow[]> {
  return rows(
    sql<WantedRow>`
      select wanted.certname, wanted.environment, wanted.code_version, read_set.data, compiled.data_digest,
        compiled.catalog, environment.audit_share as share, coalesce(compiled.volatile, true) as volatile
      from (${wantedCompiles()}) as wanted
      join environment on environment.name = wanted.environment
      left join compiled on (compiled.certname, compiled.environment, compiled.code_version)
        = (wanted.certname, wanted.environment, wanted.code_version)
      left join read_set on read_set.id = compiled.read_set
      where wanted.certname = any(${certnames}::text[])
      order by wanted.certname
    `,
    db,
  );
}

/** Whether somebody may want an environment's catalogs under a code version. */
export async function isWantedVersion(
  db: Queries,
  environment: string,
  codeVersion: CodeVersionHash,
): Promise<boolean> {
  const found = await row(
    sql`
      select 1 from environment where name = ${environment} and code_version = ${codeVersion}
      union all
      select 1 from trial where environment = ${environment} and code_version = ${codeVersion} and expires_at > now()
    `,
    db,
  );
  return found !== undefined;
}

/** Undefined where the environment is not there. */
export async function readEncCommand(
  db: Queries,
  environment: string,
): Promise<{ enc_command: string | null } | undefined> {
  return row(sql<{ enc_command: string | null }>`select enc_command from environment where name = ${environment}`, db);
}

/**
 * Nodes with the code versions that they want catalogs of, as a select of certname, environment, code_version. The version
 * released to a node counts only in the environment it was released in: a node that came over joins at the environment's.
 */
export function wantedCompiles(): RawBuilder<unknown> {
  return sql`
    select distinct n.certname, n.environment, v.code_version
    from node n
    join environment e on e.name = n.environment
    left join catalog c on c.id = n.released_catalog and c.environment = n.environment
    cross join lateral unnest(array[
      e.code_version,
      case when c.id is null then e.released_code_version else n.released_code_version end
    ]) as v (code_version)
    where n.facts is not null and v.code_version is not null
  `;
}

/** The select that `enqueueSelected` takes, from one of certname, environment, code_version. */
export function asJobs(compiles: RawBuilder<unknown>, trigger: string): RawBuilder<unknown> {
  return sql`
    select 'compile:' || environment || ':' || code_version || ':' || certname as key,
      json_build_object(
        'certname', certname, 'environment', environment, 'code_version', code_version, 'trigger', ${trigger}::text
      ) as payload
    from (${compiles}) as compiles
  `;
}

/** Results of the node's compiles are written one after another from here on to the end of the transaction. */
export async function lockResults(tx: Transaction, certname: Certname): Promise<void> {
  await sql`select pg_advisory_xact_lock(${RESULT_LOCK}::int, hashtext(${certname}))`.execute(tx);
}

export async function nodeEnvironment(db: Queries, certname: Certname): Promise<string | undefined> {
  const found = await row<{ environment: string }>(sql`select environment from node where certname = ${certname}`, db);
  return found?.environment;
}

/** The node's facts and extensions as they are, and stay until the transaction ends. */
export function lockNodeData(
  tx: Transaction,
  certname: Certname,
): Promise<{ facts: string; extensions: string } | undefined> {
  return row(
    sql<{ facts: string; extensions: string }>`
      select facts, trusted_extensions::text as extensions from node where certname = ${certname} for no key update
    `,
    tx,
  );
}

export interface NewCompile {
  certname: Certname;
  environment: string;
  codeVersion: CodeVersionHash;
  trigger: string;
  facts: string;
  encHash: string | null;
  catalog: CatalogHash | null;
  error: CompileError | null;
  warnings: CompileWarning[];
  startedAt: Date;
  cpuMs: number | null;
  /** node.trusted_extensions as text. */
  extensions: string;
  base: string;
  /** Null where what it read is not known. */
  read: { readSet: number; dataDigest: string; outside: Record<string, string | null> } | null;
  volatile: VolatileReason[];
}

/** Why a catalog may be another at any time. */
export interface VolatileReason {
  reason: string;
  file: string | null;
  line: number | null;
}

/** The new row's id. */
export async function insertCompile(tx: Transaction, compile: NewCompile): Promise<string> {
  const inserted = await row<{ id: string }>(
    sql`
      insert into compile
        (certname, environment, code_version, trigger, facts, enc_hash, catalog, error, warnings, started_at,
         finished_at, cpu_ms, base, read_set, outside, volatile)
      values (
        ${compile.certname}, ${compile.environment}, ${compile.codeVersion}, ${compile.trigger}, ${compile.facts},
        ${compile.encHash}, ${compile.catalog}, ${compile.error && JSON.stringify(compile.error)}::json,
        ${JSON.stringify(compile.warnings)}::json, ${compile.startedAt}, clock_timestamp(), ${compile.cpuMs},
        ${compile.base}, ${compile.read?.readSet ?? null}, ${outsideText(compile)}::json,
        ${JSON.stringify(compile.volatile)}::json)
      returning id
    `,
    tx,
  );
  return inserted!.id;
}

function outsideText(compile: NewCompile): string | null {
  const outside = compile.read?.outside ?? {};
  return Object.keys(outside).length > 0 ? JSON.stringify(outside) : null;
}

/** Makes it the node's last compile under the code version, unless one that read its inputs later was faster. */
export async function setCompiled(tx: Transaction, id: string, compile: NewCompile): Promise<boolean> {
  const set = await row(
    sql`
      insert into compiled
        (certname, environment, code_version, compile, catalog, facts, extensions, enc_hash, read_set, data_digest, volatile)
      values (
        ${compile.certname}, ${compile.environment}, ${compile.codeVersion}, ${id}, ${compile.catalog}, ${compile.facts},
        ${compile.extensions}, ${compile.encHash}, ${compile.read?.readSet ?? null}, ${compile.read?.dataDigest ?? null},
        ${compile.volatile.length > 0})
      on conflict (certname, environment, code_version) do update
        set compile = excluded.compile, catalog = excluded.catalog, facts = excluded.facts, extensions = excluded.extensions,
          enc_hash = excluded.enc_hash, read_set = excluded.read_set, data_digest = excluded.data_digest,
          volatile = excluded.volatile
        where (select started_at from compile where id = compiled.compile) <= ${compile.startedAt}
      returning 1
    `,
    tx,
  );
  return set !== undefined;
}

/** `at`: when the ENC was asked; null: now. */
export async function storeEncAnswer(
  db: Queries,
  certname: Certname,
  enc: { answer: string; hash: string },
  at: Date | null = null,
): Promise<void> {
  await sql`
    insert into enc_answer (certname, answer, hash, asked_at)
    values (${certname}, ${enc.answer}, ${enc.hash}, coalesce(${at}::timestamptz, now()))
    on conflict (certname) do update set answer = excluded.answer, hash = excluded.hash,
      asked_at = greatest(enc_answer.asked_at, excluded.asked_at)
  `.execute(db);
}

/** Moves the node to another environment, if it is still where it was seen. */
export async function moveNode(tx: Transaction, certname: Certname, from: string, to: string): Promise<boolean> {
  const moved = await row(
    sql`update node set environment = ${to} where certname = ${certname} and environment = ${from} returning 1`,
    tx,
  );
  return moved !== undefined;
}

export interface CompileRow {
  id: string;
  environment: string;
  code_version: CodeVersionHash;
  trigger: string;
  facts: string | null;
  enc_hash: string | null;
  catalog: CatalogHash | null;
  error: CompileError | null;
  warnings: CompileWarning[];
  started_at: Date;
  finished_at: Date;
  cpu_ms: number | null;
}

/** A node's compiles, the last first, those before `before`. */
export function listCompiles(
  db: Queries,
  certname: Certname,
  before: Date | null,
  limit: number,
): Promise<CompileRow[]> {
  return rows(
    sql<CompileRow>`
      select id, environment, code_version, trigger, facts, enc_hash, catalog, error, warnings, started_at, finished_at, cpu_ms
      from compile
      where certname = ${certname} and (${before}::timestamptz is null or finished_at < ${before})
      order by finished_at desc limit ${limit}
    `,
    db,
  );
}

export interface QueuedCompiles {
  environment: string;
  code_version: string;
  priority: number;
  waiting: number;
  running: number;
}

/** Compiles that wait or run, by what they are for. */
export function queuedCompiles(db: Queries): Promise<QueuedCompiles[]> {
  return rows(
    sql<QueuedCompiles>`
      select job.payload ->> 'environment' as environment, job.payload ->> 'code_version' as code_version,
        min(job.priority)::int as priority,
        count(*) filter (where job.locked_at is null)::int as waiting,
        count(*) filter (where job.locked_at is not null)::int as running
      from graphile_worker._private_jobs as job
      join graphile_worker._private_tasks as task on task.id = job.task_id
      where task.identifier = 'compile'
      group by 1, 2 order by 3, 4 desc
    `,
    db,
  );
}

/** How long the last compiles took, in seconds; 50 at most. */
export async function recentSeconds(db: Queries): Promise<number[]> {
  const found = await rows<{ seconds: number }>(
    sql`
      select extract(epoch from finished_at - started_at)::float as seconds
      from compile where finished_at > now() - interval '1 day' order by finished_at desc limit 50
    `,
    db,
  );
  return found.map(({ seconds }) => seconds);
}

export async function nodeExists(db: Queries, certname: Certname): Promise<boolean> {
  return (await row(sql`select 1 from node where certname = ${certname}`, db)) !== undefined;
}
