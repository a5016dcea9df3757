import { existsSync, readdirSync, readFileSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { sql } from 'kysely';
import { expect, test } from 'vitest';
import type { EnvironmentName } from '../../src/model/ids.ts';
import { row, rows } from '../../src/postgres/database.ts';
import { listCode } from '../../src/truth/store.ts';
import { requestTrial, trialJobs } from '../../src/truth/trials.ts';
import { freshDatabase } from '../postgres/fresh.ts';
import { type GitFixture, gitRepository } from './git-fixture.ts';
import { truthFixture } from './truth-fixture.ts';

const database = await freshDatabase();
const { db } = database;
const production = 'production' as EnvironmentName;
const CONTEXT = { signal: new AbortController().signal, attempt: 1, lastAttempt: true };

function bundleOf(repo: GitFixture): Buffer {
  repo.git('branch', '--force', 'trial');
  repo.git('bundle', 'create', '--quiet', '.git/trial.bundle', 'refs/heads/trial');
  return readFileSync(join(repo.directory, '.git/trial.bundle'));
}

test('a trial is compiled, and is never the newest code', async () => {
  const truth = await truthFixture(database);
  const repo = gitRepository();
  repo.commit({ 'manifests/site.pp': 'notify { "a": }' });
  const pushed = await truth.deploy('production', repo.directory);
  expect(pushed).toMatchObject({ state: 'done', trial: false });

  repo.commit({ 'manifests/site.pp': 'notify { "b": }' });
  const upload = (bundle: Buffer) =>
    requestTrial(truth.deps, { environment: production, requestedBy: 'operator ci', bundle: Readable.from([bundle]) });
  const trial = await truth.run(await upload(bundleOf(repo)));
  expect(trial).toMatchObject({ state: 'done', trial: true, requested_by: 'operator ci' });
  expect(trial.code_version).not.toBe(pushed.code_version);
  expect(truth.queued.map((each) => [each.codeVersion, each.trigger])).toEqual([
    [pushed.code_version, `code version ${pushed.code_version!.slice(0, 12)} deployed`],
    [trial.code_version, `trial of code ${trial.code_version!.slice(0, 12)}`],
  ]);
  const newest = await row(sql<{ code_version: string }>`select code_version from environment`, db);
  expect(newest!.code_version).toBe(pushed.code_version);
  expect((await listCode(db, 'production', 10)).map((each) => each.id)).toEqual([pushed.code_version]);

  // A deploy that was asked for before the trial, and ends after it, is not overtaken by it.
  const waiting = await truth.request('production', repo.directory);
  repo.commit({ 'manifests/site.pp': 'notify { "c": }' });
  await truth.run(await upload(bundleOf(repo)));
  expect((await truth.run(waiting)).state).toBe('done');

  const files = () => readdirSync(join(truth.state, 'git')).filter((name) => /^[0-9a-f]{64}/.test(name)).length;
  const bundles = () => readdirSync(join(truth.state, 'git/trials')).filter((name) => name.endsWith('.bundle'));
  const before = files();
  for (const name of bundles()) utimesSync(join(truth.state, 'git/trials', name), 0, 0);
  await trialJobs(truth.deps).trials!({}, CONTEXT);
  expect(bundles()).toEqual([]);
  expect(before - files()).toBe(4);
  expect(await rows(sql`select * from trial`, db)).toHaveLength(2);
  await sql`update trial set expires_at = now() - interval '1 second'`.execute(db);
  await trialJobs(truth.deps).trials!({}, CONTEXT);
  expect(await rows(sql`select * from trial`, db)).toEqual([]);
});

test('what is no bundle, is too large, or has no environment, is refused and leaves nothing', async () => {
  const truth = await truthFixture(database);
  const wish = (bundle: Buffer, bytesMax?: number) =>
    requestTrial(truth.deps, {
      environment: production,
      requestedBy: 'operator ci',
      bundle: Readable.from([bundle]),
      ...(bytesMax ? { bytesMax } : {}),
    });
  await expect(wish(Buffer.from('# v2 git bundle\n'))).rejects.toMatchObject({ code: 'ENVIRONMENT_NOT_FOUND' });
  await sql`insert into environment (name) values ('production')`.execute(db);
  await expect(wish(Buffer.from('PK'))).rejects.toMatchObject({ code: 'TRIAL_INVALID' });
  await expect(wish(Buffer.alloc(0))).rejects.toMatchObject({ code: 'TRIAL_INVALID' });
  await expect(wish(Buffer.alloc(2000), 1000)).rejects.toMatchObject({ code: 'BODY_TOO_LARGE' });
  expect(existsSync(join(truth.state, 'git/trials')) && readdirSync(join(truth.state, 'git/trials'))).toEqual([]);
  expect(await rows(sql`select * from deploy`, db)).toEqual([]);

  const broken = await truth.run(await wish(Buffer.from('# v2 git bundle\nnothing of the kind\n')));
  expect(broken).toMatchObject({ state: 'failed', code_version: null });
  await sql`update deploy set state = 'queued'`.execute(db);
  await sql`insert into deploy (environment, repo, ref, requested_by, trial)
    select 'production', 'r', 'trial', 'x', true from generate_series(1, 19)`.execute(db);
  await expect(wish(Buffer.from('# v2 git bundle\n'))).rejects.toMatchObject({ code: 'BUSY' });
});
