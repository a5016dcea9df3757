/** The statements of the compile room. */
import { type RawBuilder, sql } from 'kysely';
import type { CatalogHash, Certname, CodeVersionHash } from '../model/ids.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';
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
  /** Code versions that somebody may want catalogs of: the environment's newest, the one released to the node, and trials. */
  wanted: CodeVersionHash[];
  read_at: Date;
}

/** Undefined where there is no such node, or it has sent no facts. */
export function readInputs(db: Queries, certname: Certname): Promise<NodeInputs | undefined> {
  return row(
    sql<NodeInputs>`
      select node.environment, fact_document.hash as facts_hash, fact_document.document as facts, node.volatile_facts,
        node.trusted_extensions, clock_timestamp() as read_at,
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
}

/** The new row's id. */
export async function insertCompile(tx: Transaction, compile: NewCompile): Promise<string> {
  const inserted = await row<{ id: string }>(
    sql`
      insert into compile
        (certname, environment, code_version, trigger, facts, enc_hash, catalog, error, warnings, started_at,
         finished_at, cpu_ms)
      values (
        ${compile.certname}, ${compile.environment}, ${compile.codeVersion}, ${compile.trigger}, ${compile.facts},
        ${compile.encHash}, ${compile.catalog}, ${compile.error && JSON.stringify(compile.error)}::json,
        ${JSON.stringify(compile.warnings)}::json, ${compile.startedAt}, clock_timestamp(), ${compile.cpuMs})
      returning id
    `,
    tx,
  );
  return inserted!.id;
}

/** Makes it the node's last compile under the code version, unless one that read its inputs later was faster. */
export async function setCompiled(tx: Transaction, id: string, compile: NewCompile): Promise<boolean> {
  const set = await row(
    sql`
      insert into compiled (certname, environment, code_version, compile, catalog)
      values (${compile.certname}, ${compile.environment}, ${compile.codeVersion}, ${id}, ${compile.catalog})
      on conflict (certname, environment, code_version) do update
        set compile = excluded.compile, catalog = excluded.catalog
        where (select started_at from compile where id = compiled.compile) <= ${compile.startedAt}
      returning 1
    `,
    tx,
  );
  return set !== undefined;
}

export async function storeEncAnswer(db: Queries, certname: Certname, answer: string, hash: string): Promise<void> {
  await sql`
    insert into enc_answer (certname, answer, hash, asked_at) values (${certname}, ${answer}, ${hash}, now())
    on conflict (certname) do update set answer = excluded.answer, hash = excluded.hash, asked_at = excluded.asked_at
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

export async function nodeExists(db: Queries, certname: Certname): Promise<boolean> {
  return (await row(sql`select 1 from node where certname = ${certname}`, db)) !== undefined;
}
