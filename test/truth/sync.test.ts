/** Syncs of code sources with real git repositories and real PostgreSQL. */
import { renameSync } from 'node:fs';
import { sql } from 'kysely';
import { beforeAll, expect, test, vi } from 'vitest';
import { truthJobs } from '../../src/truth/jobs.ts';
import { requestDeploy } from '../../src/truth/request.ts';
import {
  findDeploy,
  findEnvironment,
  findSource,
  listDeploys,
  listSourceBranches,
  putSource,
} from '../../src/truth/store.ts';
import { queueDueSyncs } from '../../src/truth/sync.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { gitRepository } from './git-fixture.ts';
import { type TruthFixture, truthFixture } from './truth-fixture.ts';

vi.setConfig({ testTimeout: 60_000 });

let database: FreshDatabase;
let truth: TruthFixture;
beforeAll(async () => {
  database = await freshDatabase();
  truth = await truthFixture(database, {}, 'file');
});

const source = (name: string, repo: string, more: { branches?: string; environment?: string; poll?: number } = {}) =>
  database.db.transaction().execute((tx) =>
    putSource(tx, {
      name,
      repo,
      branches: more.branches ?? '*',
      environment: more.environment ?? `${name}_{branch}`,
      secret: null,
      poll_minutes: more.poll ?? 0,
    }),
  );
const sync = (name: string, signal = new AbortController().signal) =>
  truthJobs(truth.deps).sync!({ source: name }, { signal, attempt: 1, lastAttempt: true });
/** The deploys of an environment, the last first, as far as git names them. */
const asked = async (environment: string) =>
  (await listDeploys(database.db, environment, null, 10)).map(({ ref, requested_by, state }) => ({
    ref,
    requested_by,
    state,
  }));
const branches = async (name: string) =>
  (await listSourceBranches(database.db, name)).map(({ environment, branch, commit, vanished }) => ({
    environment,
    branch,
    commit,
    vanished,
  }));

test('the branches that match become environments, and only those that moved are deployed again', async () => {
  const repo = gitRepository();
  const first = repo.commit({ a: '1' });
  repo.git('branch', 'feature/One');
  repo.git('branch', 'other');
  await source('sea', repo.directory, { branches: 'main feature/*' });
  await sync('sea');
  expect(await branches('sea')).toEqual([
    { environment: 'sea_feature_one', branch: 'feature/One', commit: first, vanished: false },
    { environment: 'sea_main', branch: 'main', commit: first, vanished: false },
  ]);
  expect(await asked('sea_main')).toEqual([{ ref: 'main', requested_by: 'code source sea', state: 'queued' }]);
  const [deploy] = await listDeploys(database.db, 'sea_main', null, 1);
  expect(await truth.run(deploy!.id)).toMatchObject({ state: 'done', commit: first });

  await sync('sea');
  expect(await asked('sea_main')).toHaveLength(1);
  const second = repo.commit({ a: '2' });
  await sync('sea');
  expect(await asked('sea_main')).toMatchObject([{ state: 'queued' }, { state: 'done' }]);
  expect(await asked('sea_feature_one')).toHaveLength(1);
  expect(await branches('sea')).toMatchObject([{ commit: first }, { commit: second }]);
});

test('a push while the last one is still deployed supersedes it', async () => {
  const repo = gitRepository();
  repo.commit({ a: '1' });
  await source('quick', repo.directory);
  await sync('quick');
  repo.commit({ a: '2' });
  await sync('quick');
  expect(await asked('quick_main')).toMatchObject([{ state: 'queued' }, { state: 'superseded' }]);
});

test('a branch that vanishes is told, and its environment is left as it is', async () => {
  const repo = gitRepository();
  repo.commit({ a: '1' });
  repo.git('branch', 'short');
  await source('bay', repo.directory);
  await sync('bay');
  const [deploy] = await listDeploys(database.db, 'bay_short', null, 1);
  await truth.run(deploy!.id);
  repo.git('branch', '-D', 'short');
  await sync('bay');
  expect(await branches('bay')).toMatchObject([
    { environment: 'bay_main', vanished: false },
    { environment: 'bay_short', vanished: true },
  ]);
  expect((await findEnvironment(database.db, 'bay_short'))!.code_version).not.toBeNull();
  await expect(
    requestDeploy(truth.deps, { environment: 'bay_short', requestedBy: 'operator test' }),
  ).rejects.toMatchObject({ code: 'CODE_SOURCE_MISSING' });
  repo.git('branch', 'short');
  await sync('bay');
  expect(await branches('bay')).toMatchObject([{ vanished: false }, { vanished: false }]);
});

test('what an operator deployed by hand stays until the branch moves, and a deploy needs no repository', async () => {
  const repo = gitRepository();
  const first = repo.commit({ a: '1' });
  repo.commit({ a: '2' });
  await source('hand', repo.directory);
  await sync('hand');
  await truth.deploy('hand_main', repo.directory, first);
  await sync('hand');
  expect(await asked('hand_main')).toMatchObject([{ state: 'done', ref: first }, { state: 'superseded' }]);
  const id = await requestDeploy(truth.deps, { environment: 'hand_main', requestedBy: 'operator test' });
  expect(await findDeploy(database.db, id)).toMatchObject({ repo: repo.directory, ref: 'main', state: 'queued' });
  const other = await requestDeploy(truth.deps, { environment: 'hand_main', ref: first, requestedBy: 'operator test' });
  expect(await findDeploy(database.db, other)).toMatchObject({ repo: repo.directory, ref: first });
});

test('a repository that cannot be reached is told with its source, and nothing else changes', async () => {
  const repo = gitRepository();
  repo.commit({ a: '1' });
  await source('away', repo.directory);
  await sync('away');
  renameSync(repo.directory, `${repo.directory}-away`);
  await expect(sync('away')).rejects.toMatchObject({ code: 'CODE_SOURCE_UNREACHABLE' });
  const failed = (await findSource(database.db, 'away'))!;
  expect(failed.error).toMatch(/does not (exist|appear to be a git repository)/);
  expect(await branches('away')).toMatchObject([{ environment: 'away_main', vanished: false }]);
  renameSync(`${repo.directory}-away`, repo.directory);
  await sync('away');
  expect(await findSource(database.db, 'away')).toMatchObject({ error: null });
});

test("a repository's password is in no error", async () => {
  await source('secretive', 'http://dora:s3cret@127.0.0.1:9/x.git');
  await expect(sync('secretive')).rejects.not.toThrow('s3cret');
  expect((await findSource(database.db, 'secretive'))!.error).not.toContain('s3cret');
});

test('a source that was removed is not synced, and two syncs at once come to the same', async () => {
  await sync('nobody');
  const repo = gitRepository();
  repo.commit({ a: '1' });
  await source('twice', repo.directory);
  await Promise.all([sync('twice'), sync('twice'), sync('twice')]);
  expect(await asked('twice_main')).toHaveLength(1);
});

test('an environment that two sources could name belongs to the one that had it first', async () => {
  const repo = gitRepository();
  repo.commit({ a: '1' });
  await source('one', repo.directory, { environment: 'both' });
  await source('two', repo.directory, { environment: 'both' });
  await sync('one');
  await sync('two');
  expect(await branches('one')).toHaveLength(1);
  expect(await branches('two')).toEqual([]);
  expect((await findSource(database.db, 'two'))!.left_out).toEqual([
    { branch: 'main', reason: 'the environment both belongs to the code source one' },
  ]);
});

test('sources are synced by the clock when they are due', async () => {
  const repo = gitRepository();
  repo.commit({ a: '1' });
  await source('never', repo.directory, { poll: 0 });
  await source('often', repo.directory, { poll: 5 });
  const queued = async () =>
    (
      await sql<{ key: string }>`
        select key from graphile_worker.jobs where task_identifier = 'sync' order by key
      `.execute(database.db)
    ).rows.map((job) => job.key);
  await queueDueSyncs(database.db);
  await queueDueSyncs(database.db);
  expect(await queued()).toEqual(['sync:often']);
  await sql`delete from graphile_worker._private_jobs`.execute(database.db);
  await sync('often');
  await queueDueSyncs(database.db);
  expect(await queued()).toEqual([]);
  await sql`update code_source set synced_at = now() - interval '6 minutes' where name = 'often'`.execute(database.db);
  await queueDueSyncs(database.db);
  expect(await queued()).toEqual(['sync:often']);
});
