/** The SQL of this room, a function a statement. */
import { sql } from 'kysely';
import type { ContentHash } from '../model/ids.ts';
import { DEPLOY_LOG_BYTES_MAX } from '../model/limits.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';

export interface EnvironmentRow {
  name: string;
  code_policy: 'held' | 'auto';
  facts_policy: 'auto' | 'held';
  run_policy: 'do' | 'noop';
  enc_command: string | null;
  code_version: string | null;
  released_code_version: string | null;
  created_at: Date;
}

export interface DeployRow {
  id: string;
  environment: string;
  repo: string;
  ref: string;
  commit: string | null;
  code_version: string | null;
  state: 'queued' | 'running' | 'done' | 'failed' | 'superseded';
  error: string | null;
  log: string;
  requested_by: string;
  created_at: Date;
  finished_at: Date | null;
  /** Made from an uploaded working tree. */
  trial: boolean;
}

export interface CodeVersionRow {
  id: string;
  commit: string | null;
  repo: string;
  ref: string;
  file_count: number;
  byte_count: number;
  created_at: Date;
  deployed_at: Date;
  newest: boolean;
  released: boolean;
}

export function listEnvironments(db: Queries): Promise<EnvironmentRow[]> {
  return rows(sql<EnvironmentRow>`select * from environment order by name limit 1000`, db);
}

export function findEnvironment(db: Queries, name: string): Promise<EnvironmentRow | undefined> {
  return row(sql<EnvironmentRow>`select * from environment where name = ${name}`, db);
}

export async function createEnvironment(db: Queries, name: string): Promise<void> {
  await sql`insert into environment (name) values (${name}) on conflict do nothing`.execute(db);
}

/** The environment's row, held until the transaction ends: its deploys end one after another. */
export function lockEnvironment(tx: Transaction, name: string): Promise<EnvironmentRow | undefined> {
  return row(sql<EnvironmentRow>`select * from environment where name = ${name} for update`, tx);
}

export async function setEnvironmentPolicies(
  tx: Transaction,
  name: string,
  values: Pick<EnvironmentRow, 'code_policy' | 'facts_policy' | 'run_policy' | 'enc_command'>,
): Promise<void> {
  await sql`
    update environment
    set code_policy = ${values.code_policy}, facts_policy = ${values.facts_policy},
        run_policy = ${values.run_policy}, enc_command = ${values.enc_command}
    where name = ${name}
  `.execute(tx);
}

export async function setEnvironmentCode(tx: Transaction, name: string, codeVersion: string): Promise<void> {
  await sql`update environment set code_version = ${codeVersion} where name = ${name}`.execute(tx);
}

export async function insertDeploy(
  tx: Transaction,
  deploy: { environment: string; repo: string; ref: string; requestedBy: string; trial?: { id: string } },
): Promise<string> {
  const inserted = await row(
    sql<{ id: string }>`
      insert into deploy (id, environment, repo, ref, requested_by, created_at, trial)
      values (coalesce(${deploy.trial?.id ?? null}::uuid, gen_random_uuid()), ${deploy.environment}, ${deploy.repo}, ${deploy.ref},
        ${deploy.requestedBy}, clock_timestamp(), ${deploy.trial !== undefined})
      returning id
    `,
    tx,
  );
  return inserted!.id;
}

export function findDeploy(db: Queries, id: string): Promise<DeployRow | undefined> {
  return row(sql<DeployRow>`select * from deploy where id = ${id}`, db);
}

/** Marks an environment's deploys that wait as overtaken by a newer request. */
export async function supersedeQueued(tx: Transaction, environment: string, by: string): Promise<void> {
  await sql`
    update deploy
    set state = 'superseded', finished_at = now(), error = 'A newer deploy was asked for before this one began',
        log = log || 'Superseded by deploy ' || ${by} || E'\n'
    where environment = ${environment} and state = 'queued' and not trial and id <> ${by}
  `.execute(tx);
}

/** From queued, or from running when an earlier attempt did not end, to running. Undefined: there is nothing to do. */
export function startDeploy(db: Queries, id: string): Promise<(DeployRow & { resumed: boolean }) | undefined> {
  return row(
    sql<DeployRow & { resumed: boolean }>`
      update deploy set state = 'running'
      from (select id, state = 'running' as resumed from deploy where id = ${id} for update) before
      where deploy.id = before.id and deploy.state in ('queued', 'running')
      returning deploy.*, before.resumed
    `,
    db,
  );
}

export async function requeueDeploy(db: Queries, id: string): Promise<void> {
  await sql`update deploy set state = 'queued' where id = ${id} and state = 'running'`.execute(db);
}

/** Whether a deploy that was asked for later has already made its environment's newest code version. Trials make none. */
export async function isOvertaken(db: Queries, deploy: Pick<DeployRow, 'id' | 'environment'>): Promise<boolean> {
  const found = await row(
    sql<{ overtaken: boolean }>`
      select exists (
        select from deploy newer, deploy this
        where this.id = ${deploy.id} and newer.environment = this.environment and newer.state = 'done'
          and not newer.trial and not this.trial
          and (newer.created_at, newer.id) > (this.created_at, this.id)
      ) as overtaken
    `,
    db,
  );
  return found!.overtaken;
}

/** Adds to a deploy's log, as far as there is room. */
export async function appendDeployLog(db: Queries, id: string, text: string): Promise<void> {
  await sql`
    update deploy set log = log || ${text}
    where id = ${id} and octet_length(log) + octet_length(${text}::text) <= ${DEPLOY_LOG_BYTES_MAX}::int
  `.execute(db);
}

/** Ends a deploy that runs, in one of three ways. False: it had ended before. */
export async function endDeploy(
  db: Queries,
  id: string,
  end: {
    state: 'done' | 'failed' | 'superseded';
    error: string | null;
    commit?: string | undefined;
    codeVersion?: string | undefined;
  },
): Promise<boolean> {
  const ended = await rows(
    sql`
      update deploy
      set state = ${end.state}, error = ${end.error}, commit = coalesce(${end.commit ?? null}, commit),
          code_version = ${end.codeVersion ?? null}, finished_at = now()
      where id = ${id} and state = 'running'
      returning id
    `,
    db,
  );
  return ended.length === 1;
}

export async function insertCodeVersion(
  tx: Transaction,
  version: { id: string; plugins: string; files: number; bytes: number },
): Promise<void> {
  await sql`
    insert into code_version (id, plugins, file_count, byte_count)
    values (${version.id}, ${version.plugins}, ${version.files}, ${version.bytes})
    on conflict do nothing
  `.execute(tx);
}

/** Whoever stores references holds this lock shared until its transaction ends; the collector takes it alone. */
export async function lockReferences(tx: Transaction): Promise<void> {
  await sql`select pg_advisory_xact_lock_shared(7231002)`.execute(tx);
}

export async function insertReferences(
  tx: Transaction,
  holder: string,
  contents: readonly ContentHash[],
): Promise<void> {
  await sql`
    insert into content_reference (holder, content)
    select ${holder}, content from unnest(${contents as ContentHash[]}::text[]) as content
    on conflict do nothing
  `.execute(tx);
}

/** An environment's code versions with their last deploy, the last deployed first. */
export function listCode(db: Queries, environment: string, limit: number): Promise<CodeVersionRow[]> {
  return rows(
    sql<CodeVersionRow>`
      select code_version.id, last.commit, last.repo, last.ref, code_version.file_count, code_version.byte_count,
             code_version.created_at, last.finished_at as deployed_at,
             code_version.id = environment.code_version as newest,
             code_version.id is not distinct from environment.released_code_version as released
      from (
        select distinct on (code_version) code_version, commit, repo, ref, finished_at, created_at
        from deploy
        where environment = ${environment} and state = 'done' and not trial
        order by code_version, created_at desc
      ) last
      join code_version on code_version.id = last.code_version
      join environment on environment.name = ${environment}
      order by last.created_at desc
      limit ${limit}
    `,
    db,
  );
}

/** Keeps a trial's code version for this long, counted from now. */
export async function insertTrial(
  tx: Transaction,
  environment: string,
  codeVersion: string,
  keptMs: number,
): Promise<void> {
  await sql`
    insert into trial (environment, code_version, expires_at)
    values (${environment}, ${codeVersion}, now() + ${keptMs}::bigint * interval '1 millisecond')
    on conflict (environment, code_version) do update set expires_at = excluded.expires_at
  `.execute(tx);
}

/** How many went. */
export async function forgetTrials(db: Queries): Promise<number> {
  return (await rows(sql`delete from trial where expires_at < now() returning 1`, db)).length;
}

/** Trials of an environment that are not made yet. */
export async function countTrialsWaiting(db: Queries, environment: string): Promise<number> {
  const found = await row(
    sql<{ waiting: number }>`
      select count(*)::int as waiting from deploy
      where environment = ${environment} and trial and state in ('queued', 'running')
    `,
    db,
  );
  return found!.waiting;
}

/** Those of these deploys that still have to be made. */
export async function selectDeploysOpen(db: Queries, ids: readonly string[]): Promise<string[]> {
  const found = await rows(
    sql<{ id: string }>`select id from deploy where id = any(${ids}::uuid[]) and state in ('queued', 'running')`,
    db,
  );
  return found.map(({ id }) => id);
}
