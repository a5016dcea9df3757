/**
 * Which deploy wins, and what happens to those that are interrupted. What is wanted: of one environment the last asked for
 * wins, and asking for it ends the others; a deploy whose server died runs again and comes to the same name; what failed for reasons
 * that may go away is tried again, and what whoever asked must mend is not.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { DEPLOY_LOG_BYTES_MAX, DEPLOY_LOOK_MS } from '../../src/model/limits.ts';
import { truthJobs } from '../../src/truth/jobs.ts';
import { findDeploy, findEnvironment } from '../../src/truth/store.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { type GitFixture, gitRepository, temporaryDirectory } from './git-fixture.ts';
import { type TruthFixture, truthFixture } from './truth-fixture.ts';

vi.setConfig({ testTimeout: 120_000 });

let database: FreshDatabase;
let truth: TruthFixture;
let repo: GitFixture;
let older: string;
let newer: string;
beforeAll(async () => {
  database = await freshDatabase();
  truth = await truthFixture(database, {}, 'file');
  repo = gitRepository(undefined, 'file');
  repo.commit({ a: 'older' });
  repo.git('tag', 'older');
  repo.commit({ a: 'newer' });
  repo.git('tag', '--annotate', '--message', 'x', 'newer');
  older = (await truth.deploy('scratch', repo.directory, 'older')).code_version!;
  newer = (await truth.deploy('scratch', repo.directory, 'newer')).code_version!;
});
beforeEach(() => {
  truth.queued.length = 0;
});
const newest = async (environment: string) => (await findEnvironment(database.db, environment))!.code_version;

test('a newer request overtakes one that still waits', async () => {
  const first = await truth.request('waiting', repo.directory, 'older');
  const second = await truth.request('waiting', repo.directory, 'newer');
  expect(await findDeploy(database.db, first)).toMatchObject({
    state: 'superseded',
    error: 'A newer deploy was asked for before this one began',
  });
  expect(await truth.run(first)).toMatchObject({ state: 'superseded', code_version: null });
  expect(await truth.run(second)).toMatchObject({ state: 'done', code_version: newer });
  expect(truth.queued).toHaveLength(1);
});

/** The deploy stops at its last look at the content store, just before its end, until it is told to go on. */
function stopping() {
  const reached = Promise.withResolvers<void>();
  const goOn = Promise.withResolvers<void>();
  const deps = {
    ...truth.deps,
    content: {
      put: truth.content.put.bind(truth.content),
      read: truth.content.read.bind(truth.content),
      get: truth.content.get.bind(truth.content),
      async missing(hashes: Parameters<typeof truth.content.missing>[0]) {
        reached.resolve();
        await goOn.promise;
        return truth.content.missing(hashes);
      },
    },
  };
  return { deps, reached: reached.promise, goOn: goOn.resolve };
}

test('an older deploy that runs is over when a newer one is asked for, and does not take the newer one back', async () => {
  const { deps, reached, goOn } = stopping();
  const first = await truth.request('late', repo.directory, 'older');
  const running = truthJobs(deps).deploy!(
    { deploy: first },
    { signal: new AbortController().signal, attempt: 1, lastAttempt: false },
  );
  await reached;
  await vi.waitFor(
    async () => {
      const live = (await findDeploy(database.db, first))!;
      expect(live.state).toBe('running');
      expect(live.log).toContain(`Commit ${repo.git('rev-parse', 'older')}\n`);
    },
    { timeout: 20_000 },
  );
  const second = await truth.request('late', repo.directory, 'newer');
  expect(await findDeploy(database.db, first)).toMatchObject({
    state: 'superseded',
    error: 'A newer deploy was asked for while this one ran',
  });
  expect((await truth.run(second)).state).toBe('done');
  goOn();
  await running;
  const ended = (await findDeploy(database.db, first))!;
  expect(ended).toMatchObject({ state: 'superseded', code_version: null });
  expect(ended.log).toContain(`Superseded by deploy ${second}\n`);
  expect(ended.log).toMatch(/Given up: a newer deploy was asked for\n$/);
  expect(await newest('late')).toBe(newer);
  expect(truth.queued.map((call) => call.codeVersion)).toEqual([newer]);
});

test('the last asked for counts even when it fails', async () => {
  const { deps, reached, goOn } = stopping();
  const first = await truth.request('failing', repo.directory, 'older');
  const running = truthJobs(deps).deploy!(
    { deploy: first },
    { signal: new AbortController().signal, attempt: 1, lastAttempt: false },
  );
  await reached;
  expect(await truth.deploy('failing', repo.directory, 'nowhere')).toMatchObject({ state: 'failed' });
  goOn();
  await running;
  expect(await findDeploy(database.db, first)).toMatchObject({ state: 'superseded' });
  expect(await newest('failing')).toBeNull();
});

test('a deploy in the middle of its work gives up soon after a newer one is asked for, and ends what it started', async () => {
  const place = temporaryDirectory('hanging');
  const hanging = gitRepository();
  hanging.commit({ Puppetfile: `File.write('${place}/pid', Process.pid.to_s)\nsleep 300\n` });
  const first = await truth.request('hanging', hanging.directory);
  const running = truth.run(first, { lastAttempt: false });
  const pid = await vi.waitFor(
    () => {
      const text = readFileSync(join(place, 'pid'), 'utf8');
      expect(text).toMatch(/^\d+$/);
      return Number(text);
    },
    { timeout: 60_000 },
  );
  const asked = performance.now();
  const second = await truth.request('hanging', repo.directory, 'newer');
  expect(await running).toMatchObject({ state: 'superseded' });
  console.log(`a superseded deploy gave up after ${Math.round(performance.now() - asked)} ms`);
  expect(performance.now() - asked).toBeLessThan(15_000);
  await vi.waitFor(() => expect(() => process.kill(pid, 0)).toThrow(), { timeout: 20_000 });
  expect(await truth.run(second)).toMatchObject({ state: 'done', code_version: newer });
});

test('going back to older code is a deploy like any other', async () => {
  await truth.deploy('back', repo.directory, 'newer');
  await truth.deploy('back', repo.directory, 'older');
  expect(await newest('back')).toBe(older);
});

test('a reference may be a branch, a tag, a full name or a commit, whole or cut; a branch counts before a tag', async () => {
  const commit = repo.git('rev-parse', 'older');
  for (const ref of ['refs/tags/older', commit, commit.slice(0, 10)]) {
    expect(await truth.deploy('refs', repo.directory, ref)).toMatchObject({ commit, code_version: older });
  }
  expect(await truth.deploy('refs', repo.directory, 'HEAD')).toMatchObject({ code_version: newer });
  repo.git('branch', 'both', 'older');
  repo.git('tag', 'both', 'newer');
  expect(await truth.deploy('refs', repo.directory, 'both')).toMatchObject({ code_version: older });
  // A branch that was thrown away and made anew elsewhere.
  repo.git('branch', '--force', 'both', 'newer');
  expect(await truth.deploy('refs', repo.directory, 'both')).toMatchObject({ code_version: newer });
  // A commit that no branch or tag reaches any more is still in the mirror.
  repo.git('checkout', '--quiet', '-b', 'gone');
  const gone = repo.commit({ a: 'gone' });
  await truth.deploy('refs', repo.directory, 'gone');
  repo.git('checkout', '--quiet', 'main');
  repo.git('branch', '-D', 'gone');
  expect(await truth.deploy('refs', repo.directory, gone)).toMatchObject({ state: 'done', commit: gone });
});

test('a deploy whose server was killed runs again from the start', async () => {
  const id = await truth.request('killed', repo.directory, 'newer');
  await sql`update deploy set state = 'running', log = E'Fetching\n' where id = ${id}`.execute(database.db);
  const deploy = await truth.run(id);
  expect(deploy).toMatchObject({ state: 'done', code_version: newer });
  expect(deploy.log).toMatch(/^Fetching\nBegun again: the server that ran this deploy had stopped\n/);
  // And a second delivery of the same job does nothing.
  expect(await truth.run(id)).toEqual(deploy);
  expect(truth.queued).toHaveLength(1);
});

test('a server that stops leaves the deploy queued, and its job to whoever comes next', async () => {
  const id = await truth.request('stopping', repo.directory, 'newer');
  const stop = new AbortController();
  stop.abort(new Error('the server stops'));
  await expect(truth.run(id, { signal: stop.signal, lastAttempt: false })).rejects.toThrow('the server stops');
  expect(await findDeploy(database.db, id)).toMatchObject({ state: 'queued', error: null });
  expect(await truth.run(id)).toMatchObject({ state: 'done', code_version: newer });
});

test('what may go away by itself is tried again, and fails in the end with its reason', async () => {
  const broken = {
    ...truth.deps,
    async queueAffected() {
      throw new Error('the database is away');
    },
  };
  const id = await truth.request('flaky', repo.directory, 'newer');
  const run = (lastAttempt: boolean) =>
    truthJobs(broken).deploy!({ deploy: id }, { signal: new AbortController().signal, attempt: 1, lastAttempt });
  await expect(run(false)).rejects.toThrow('the database is away');
  expect(await findDeploy(database.db, id)).toMatchObject({ state: 'queued' });
  expect(await newest('flaky')).toBeNull();
  await expect(run(true)).rejects.toThrow('the database is away');
  expect(await findDeploy(database.db, id)).toMatchObject({ state: 'failed', error: 'the database is away' });
});

test('content that is collected between storing and the end is noticed, and the next attempt stores it again', async () => {
  // The collector strikes after everything was stored: the last look, inside the transaction, finds a file missing.
  let looks = 0;
  const id = await truth.request('collected', repo.directory, 'newer');
  const struck = {
    ...truth.deps,
    content: {
      put: truth.content.put.bind(truth.content),
      read: truth.content.read.bind(truth.content),
      get: truth.content.get.bind(truth.content),
      async missing(hashes: Iterable<never>) {
        looks += 1;
        const [first] = hashes;
        return looks === 1 ? [] : [first!];
      },
    },
  };
  await expect(
    truthJobs(struck).deploy!({ deploy: id }, { signal: new AbortController().signal, attempt: 1, lastAttempt: false }),
  ).rejects.toThrow('collected while they were deployed');
  expect(await newest('collected')).toBeNull();
  expect(await truth.run(id)).toMatchObject({ state: 'done', code_version: newer });
});

test('one repository deployed to many environments at once', async () => {
  const deploys = await Promise.all(
    ['p', 'q', 'r'].map((environment) => truth.deploy(environment, repo.directory, 'newer')),
  );
  for (const deploy of deploys) expect(deploy).toMatchObject({ state: 'done', code_version: newer });
});

test('a deploy that is done and still writes its log was not superseded', async () => {
  const { db } = database;
  let held: Promise<unknown> | undefined;
  const slow: TruthFixture['deps'] = {
    ...truth.deps,
    // In the transaction that ends the deploy: its row is held from then on for longer than a look takes to come by.
    async queueAffected(_tx, environment) {
      held = db.transaction().execute(async (tx) => {
        await sql`select from deploy where environment = ${environment} for update`.execute(tx);
        await sleep(2 * DEPLOY_LOOK_MS);
      });
      await expect
        .poll(async () => (await sql`select from pg_locks where not granted`.execute(db)).rows.length)
        .toBeGreaterThan(0);
    },
  };
  const id = await truth.request('unhurried', repo.directory, 'newer');
  await truthJobs(slow).deploy!(
    { deploy: id },
    { signal: new AbortController().signal, attempt: 1, lastAttempt: true },
  );
  await held;
  const deploy = (await findDeploy(db, id))!;
  expect(deploy.state).toBe('done');
  expect(deploy.log).toMatch(/is the newest of unhurried\n$/);
});

test('the log is bounded, and ends with a sentence', async () => {
  const talkative = gitRepository();
  // Each modulepath entry that is not there is a line of the log.
  talkative.commit({
    'environment.conf': `modulepath = ${Array.from({ length: 3000 }, (_, n) => `missing-${'x'.repeat(60)}-${n}`).join(':')}\n`,
  });
  const deploy = await truth.deploy('talkative', talkative.directory);
  expect(deploy.state).toBe('done');
  expect(Buffer.byteLength(deploy.log)).toBeLessThanOrEqual(DEPLOY_LOG_BYTES_MAX);
  expect(Buffer.byteLength(deploy.log)).toBeGreaterThan(DEPLOY_LOG_BYTES_MAX / 2);
  const lines = deploy.log.trimEnd().split('\n');
  expect(lines.at(-2)).toMatch(/^\d+ more lines were left out$/);
  expect(lines.at(-1)).toMatch(/is the newest of talkative$/);
});
