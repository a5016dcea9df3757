/** The SQL of this room, a function a statement. */
import { type RawBuilder, sql } from 'kysely';
import type { ContentHash } from '../model/ids.ts';
import { CODE_SOURCES_MAX, DEPLOY_LOG_BYTES_MAX } from '../model/limits.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';

export interface EnvironmentRow {
  name: string;
  code_policy: 'held' | 'auto';
  facts_policy: 'auto' | 'held';
  run_policy: 'do' | 'noop';
  enc_command: string | null;
  enc_interval_minutes: number;
  recompile_minutes: number;
  audit_share: number;
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
  values: Pick<
    EnvironmentRow,
    | 'code_policy'
    | 'facts_policy'
    | 'run_policy'
    | 'enc_command'
    | 'enc_interval_minutes'
    | 'recompile_minutes'
    | 'audit_share'
  >,
): Promise<void> {
  await sql`
    update environment
    set code_policy = ${values.code_policy}, facts_policy = ${values.facts_policy},
        run_policy = ${values.run_policy}, enc_command = ${values.enc_command},
        enc_interval_minutes = ${values.enc_interval_minutes},
        recompile_minutes = ${values.recompile_minutes}, audit_share = ${values.audit_share}
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

/** Ends an environment's deploys that wait or run: a newer one was asked for. Their ids. */
export async function supersedeOlder(tx: Transaction, environment: string, by: string): Promise<string[]> {
  const superseded = await rows(
    sql<{ id: string }>`
      update deploy
      set state = 'superseded', finished_at = now(),
          error = case state
            when 'queued' then 'A newer deploy was asked for before this one began'
            else 'A newer deploy was asked for while this one ran'
          end,
          log = log || 'Superseded by deploy ' || ${by} || E'\n'
      where environment = ${environment} and state in ('queued', 'running') and not trial and id <> ${by}
      returning id
    `,
    tx,
  );
  return superseded.map((deploy) => deploy.id);
}

/** From queued, or from running when an earlier attempt did not end, to running. Undefined: there is nothing to do. */
export function startDeploy(
  db: Queries,
  id: string,
): Promise<(DeployRow & { resumed: boolean; waited_ms: number }) | undefined> {
  return row(
    sql<DeployRow & { resumed: boolean; waited_ms: number }>`
      update deploy set state = 'running'
      from (select id, state = 'running' as resumed from deploy where id = ${id} for update) before
      where deploy.id = before.id and deploy.state in ('queued', 'running')
      returning deploy.*, before.resumed,
        extract(epoch from clock_timestamp() - deploy.created_at)::float * 1000 as waited_ms
    `,
    db,
  );
}

export async function requeueDeploy(db: Queries, id: string): Promise<void> {
  await sql`update deploy set state = 'queued' where id = ${id} and state = 'running'`.execute(db);
}

/** Whether a deploy still runs, as far as its row tells. */
export async function isRunning(db: Queries, id: string): Promise<boolean> {
  return (await row(sql`select from deploy where id = ${id} and state = 'running'`, db)) !== undefined;
}

/** Whether a newer request ended a deploy. */
export async function isSuperseded(db: Queries, id: string): Promise<boolean> {
  return (await row(sql`select from deploy where id = ${id} and state = 'superseded'`, db)) !== undefined;
}

/** An environment's deploys without their logs, the last asked for first. */
export function listDeploys(
  db: Queries,
  environment: string,
  before: Date | null,
  limit: number,
): Promise<Omit<DeployRow, 'log'>[]> {
  return rows(
    sql<Omit<DeployRow, 'log'>>`
      select id, environment, repo, ref, commit, code_version, state, error, requested_by, created_at, finished_at, trial
      from deploy
      where environment = ${environment} and (${before}::timestamptz is null or created_at < ${before})
      order by created_at desc limit ${limit}
    `,
    db,
  );
}

/** What of a deploy's log lies behind its first `from` characters. */
export function readDeployLog(
  db: Queries,
  id: string,
  from: number,
): Promise<(Pick<DeployRow, 'state' | 'error'> & { text: string; next: number }) | undefined> {
  return row(
    sql<Pick<DeployRow, 'state' | 'error'> & { text: string; next: number }>`
      select state, error, substr(log, ${from}::int + 1) as text, greatest(length(log), ${from}::int) as next
      from deploy where id = ${id}
    `,
    db,
  );
}

/** Adds to a deploy's log, as far as there is room. */
export async function appendDeployLog(db: Queries, id: string, text: string): Promise<void> {
  await sql`
    update deploy set log = log || ${text}
    where id = ${id} and octet_length(log) + octet_length(${text}::text) <= ${DEPLOY_LOG_BYTES_MAX}::int
  `.execute(db);
}

/** Ends a deploy that runs; nothing happens where it had ended before. */
export async function endDeploy(
  db: Queries,
  id: string,
  end: {
    state: 'done' | 'failed';
    error: string | null;
    commit?: string | undefined;
    codeVersion?: string | undefined;
  },
): Promise<void> {
  await sql`
    update deploy
    set state = ${end.state}, error = ${end.error}, commit = coalesce(${end.commit ?? null}, commit),
        code_version = ${end.codeVersion ?? null}, finished_at = now()
    where id = ${id} and state = 'running'
  `.execute(db);
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

export interface SourceRow {
  name: string;
  repo: string;
  branches: string;
  environment: string;
  /** Sealed. */
  secret: Buffer | null;
  poll_minutes: number;
  created_at: Date;
  synced_at: Date | null;
  error: string | null;
  left_out: { branch: string; reason: string }[];
}

export function listSources(db: Queries): Promise<SourceRow[]> {
  return rows(sql<SourceRow>`select * from code_source order by name limit 1000`, db);
}

export function findSource(db: Queries, name: string): Promise<SourceRow | undefined> {
  return row(sql<SourceRow>`select * from code_source where name = ${name}`, db);
}

export function lockSource(tx: Transaction, name: string): Promise<SourceRow | undefined> {
  return row(sql<SourceRow>`select * from code_source where name = ${name} for update`, tx);
}

/** Made, or changed in what is given. A new repository was never synced. */
export async function putSource(
  tx: Transaction,
  source: Pick<SourceRow, 'name' | 'repo' | 'branches' | 'environment' | 'secret' | 'poll_minutes'>,
): Promise<void> {
  await sql`
    insert into code_source (name, repo, branches, environment, secret, poll_minutes)
    values (${source.name}, ${source.repo}, ${source.branches}, ${source.environment}, ${source.secret},
      ${source.poll_minutes})
    on conflict (name) do update
      set repo = excluded.repo, branches = excluded.branches, environment = excluded.environment,
          secret = excluded.secret, poll_minutes = excluded.poll_minutes
  `.execute(tx);
}

export async function deleteSource(db: Queries, name: string): Promise<boolean> {
  return (await row(sql`delete from code_source where name = ${name} returning 1`, db)) !== undefined;
}

/** The database's clock, by which syncs are ordered. */
export async function clock(db: Queries): Promise<Date> {
  return (await row(sql<{ now: Date }>`select date_trunc('milliseconds', clock_timestamp()) as now`, db))!.now;
}

/** The source as it is now, and when that was. */
export function beginSync(db: Queries, name: string): Promise<(SourceRow & { began_at: Date }) | undefined> {
  return row(
    sql<SourceRow & { began_at: Date }>`
      select *, date_trunc('milliseconds', clock_timestamp()) as began_at from code_source where name = ${name}
    `,
    db,
  );
}

export async function endSync(
  db: Queries,
  name: string,
  beganAt: Date,
  end: { error: string | null; leftOut: SourceRow['left_out'] },
): Promise<void> {
  await sql`
    update code_source
    set synced_at = ${beganAt}, error = ${end.error}, left_out = ${JSON.stringify(end.leftOut)}::json
    where name = ${name} and (synced_at is null or synced_at <= ${beganAt})
  `.execute(db);
}

/** Jobs for sources that are due by the clock: the select that `enqueueSelected` takes. */
export function dueSyncs(): RawBuilder<unknown> {
  return sql`
    select 'sync:' || name as key, json_build_object('source', name) as payload from code_source
    where poll_minutes > 0 and (synced_at is null or synced_at <= now() - make_interval(mins => poll_minutes))
  `;
}

export interface BranchRow {
  environment: string;
  branch: string;
  commit: string;
  vanished: boolean;
}

export function listBranchesKnown(db: Queries, source: string): Promise<BranchRow[]> {
  return rows(
    sql<BranchRow>`
      select environment, branch, commit, vanished_at is not null as vanished from code_branch where source = ${source}
    `,
    db,
  );
}

/** Environments with the other source whose branch each is. */
export async function environmentsOfOthers(db: Queries, source: string): Promise<Map<string, string>> {
  const found = await rows(
    sql<{ environment: string; source: string }>`
      select environment, source from code_branch where source <> ${source} and vanished_at is null
    `,
    db,
  );
  return new Map(found.map((each) => [each.environment, each.source]));
}

/** The commits that the source's environments were last deployed from, out of its repository. */
export async function deployedCommits(db: Queries, source: string): Promise<Map<string, string>> {
  const found = await rows(
    sql<{ environment: string; commit: string }>`
      select last.environment, last.commit
      from code_source
      cross join environment
      cross join lateral (
        select environment, commit, repo from deploy
        where deploy.environment = environment.name and state = 'done' and not trial order by created_at desc limit 1
      ) last
      where code_source.name = ${source} and last.repo = code_source.repo
    `,
    db,
  );
  return new Map(found.map((each) => [each.environment, each.commit]));
}

export async function recordBranch(
  tx: Transaction,
  branch: { environment: string; source: string; branch: string; commit: string },
): Promise<void> {
  await sql`
    insert into code_branch (environment, source, branch, commit)
    values (${branch.environment}, ${branch.source}, ${branch.branch}, ${branch.commit})
    on conflict (environment) do update
      set source = excluded.source, branch = excluded.branch, commit = excluded.commit, vanished_at = null
  `.execute(tx);
}

export async function markVanished(tx: Transaction, source: string, environments: readonly string[]): Promise<void> {
  await sql`
    update code_branch set vanished_at = now()
    where source = ${source} and environment = any(${environments as string[]}::text[])
  `.execute(tx);
}

/** The branch that an environment is, with its source's repository. */
export function findEnvironmentSource(
  db: Queries,
  environment: string,
): Promise<{ repo: string; branch: string } | undefined> {
  return row(
    sql<{ repo: string; branch: string }>`
      select code_source.repo, code_branch.branch
      from code_branch join code_source on code_source.name = code_branch.source
      where code_branch.environment = ${environment} and code_branch.vanished_at is null
    `,
    db,
  );
}

export interface SourceBranchRow extends BranchRow {
  vanished_at: Date | null;
  /** The environment's deploy that was asked for last. */
  deploy: string | null;
  deploy_state: DeployRow['state'] | null;
  deploy_at: Date | null;
}

/** A source's branches with what became of them, by environment. */
export function listSourceBranches(db: Queries, source: string): Promise<SourceBranchRow[]> {
  return rows(
    sql<SourceBranchRow>`
      select code_branch.environment, code_branch.branch, code_branch.commit, code_branch.vanished_at,
        code_branch.vanished_at is not null as vanished, last.id as deploy, last.state as deploy_state,
        last.created_at as deploy_at
      from code_branch
      left join lateral (
        select id, state, created_at from deploy
        where deploy.environment = code_branch.environment and not trial order by created_at desc limit 1
      ) last on true
      where code_branch.source = ${source}
      order by code_branch.environment
    `,
    db,
  );
}

/** Sources whose hooks may be about an environment: the one whose branch it is, else those that could name it so. */
export function sourcesWithSecrets(
  db: Queries,
  environment: string,
): Promise<{ name: string; environment: string; secret: Buffer; holds: boolean }[]> {
  return rows(
    sql<{ name: string; environment: string; secret: Buffer; holds: boolean }>`
      select name, environment, secret, exists (
        select from code_branch where code_branch.source = code_source.name and code_branch.environment = ${environment}
      ) as holds
      from code_source where secret is not null order by name limit ${CODE_SOURCES_MAX}
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
