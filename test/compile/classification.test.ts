/**
 * ENCs asked again, with real programs and real PostgreSQL. Wanted: a node is asked about when somebody wants it or when it is
 * due; an answer that differs queues the node's compiles, and any other queues nothing.
 */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { classificationJobs } from '../../src/compile/classification-jobs.ts';
import { classificationRoutes } from '../../src/compile/classification-routes.ts';
import { type App, buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import { ENC_AT_ONCE_MAX } from '../../src/model/limits.ts';
import { askEnc } from '../../src/truth/enc.ts';
import { freshDatabase } from '../postgres/fresh.ts';

vi.setConfig({ testTimeout: 60_000 });

const WHO: Record<string, Identity> = {
  viewer: { kind: 'operator', name: 'vera', role: 'viewer' },
  deployer: { kind: 'operator', name: 'dora', role: 'deployer' },
};
const { pool, db } = await freshDatabase();
const CODE = 'c'.repeat(64);

let folder: string;
let app: App;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'callboard-enc-'));
  // Answers what stands in a file of the node's name; says who it was asked about, and how many ask at once.
  writeFileSync(
    join(folder, 'enc'),
    `#!/bin/sh\ntouch "${folder}/asking/$1"\nls "${folder}/asking" | wc -l > "${folder}/at-once/$1"\nrm "${folder}/asking/$1"\n` +
      `echo "$1" >> "${folder}/asked"\nexec cat "${folder}/answers/$1"\n`,
  );
  chmodSync(join(folder, 'enc'), 0o755);
  app = await buildApp({
    identify: (request) => WHO[String(request.headers['x-who'])] ?? { kind: 'anonymous' },
    logger: pino({ level: 'silent' }),
    rooms: [classificationRoutes({ db })],
  });
});
afterAll(async () => {
  await app.close();
  rmSync(folder, { recursive: true });
});

beforeEach(async () => {
  for (const name of ['answers', 'asking', 'at-once']) {
    rmSync(join(folder, name), { recursive: true, force: true });
    mkdirSync(join(folder, name));
  }
  rmSync(join(folder, 'asked'), { force: true });
  await pool.query('truncate compiled, compile, enc_answer, node, environment, fact_document, code_version cascade');
  await pool.query('delete from graphile_worker._private_jobs');
  await pool.query('insert into code_version values ($1, $2, 1, 1, now())', [CODE, 'd'.repeat(64)]);
  await pool.query("insert into fact_document values ('f', '{}')");
  for (const [name, enc] of [
    ['production', join(folder, 'enc')],
    ['staging', null],
  ])
    await pool.query('insert into environment (name, enc_command, code_version) values ($1, $2, $3)', [
      name,
      enc,
      CODE,
    ]);
});

const answer = (certname: string, text: string) => writeFileSync(join(folder, 'answers', certname), text);
/** A node that was asked about, as its compile left it. */
async function node(certname: string, text = 'classes: []\n', environment = 'production'): Promise<void> {
  answer(certname, text);
  await pool.query(
    "insert into node (certname, environment, requested_environment, facts, created_at) values ($1, $2, $2, 'f', now())",
    [certname, environment],
  );
}
const age = (minutes: number) =>
  pool.query('update enc_answer set wanted_at = null, asked_at = now() - make_interval(mins => $1)', [minutes]);
const run = (signal = new AbortController().signal) =>
  classificationJobs({ db, logger: pino({ level: 'silent' }), askEnc }).classify!(
    {},
    { signal, attempt: 1, lastAttempt: true },
  );
const asked = async (): Promise<string[]> => {
  const file = join(folder, 'asked');
  try {
    return readFileSync(file, 'utf8').trim().split('\n').sort();
  } catch {
    return [];
  } finally {
    rmSync(file, { force: true });
  }
};
const queued = async (): Promise<[string, string][]> =>
  (
    await pool.query<{ certname: string; trigger: string }>(`
      select payload ->> 'certname' as certname, payload ->> 'trigger' as trigger
      from graphile_worker._private_jobs as job
      join graphile_worker._private_tasks as task on task.id = job.task_id
      where task.identifier = 'compile' order by 1`)
  ).rows.map(({ certname, trigger }) => [certname, trigger]);
const refresh = async (body: object, who = 'deployer') => {
  const response = await app.inject({
    method: 'POST',
    url: '/api/v1/enc/refresh',
    headers: { 'x-who': who },
    payload: body,
  });
  return { status: response.statusCode, body: response.json() };
};

/** What compiles leave: every node asked about once, with the answer that its catalog was compiled with. */
async function compileAll(): Promise<void> {
  await refresh({});
  await run();
  await pool.query(
    `insert into compile (certname, environment, code_version, trigger, enc_hash, error, started_at)
     select node.certname, node.environment, $1, 'test', enc_answer.hash, '{}', now()
     from node left join enc_answer using (certname)`,
    [CODE],
  );
  await pool.query(
    `insert into compiled (certname, environment, code_version, compile)
     select certname, environment, code_version, id from compile`,
  );
  await pool.query('delete from graphile_worker._private_jobs');
  await asked();
}

test('somebody wants the ENC asked: only nodes whose answer differs are compiled', async () => {
  for (const name of ['a', 'b', 'c']) await node(`${name}.example`);
  await node('d.example', '', 'staging');
  await compileAll();
  answer('b.example', 'classes: [web]\n');
  expect(await refresh({ certnames: ['a.example', 'b.example', 'd.example', 'nobody.example'] })).toEqual({
    status: 202,
    body: { nodes: 2, left_out: ['d.example', 'nobody.example'] },
  });
  await run();
  expect(await asked()).toEqual(['a.example', 'b.example']);
  expect(await queued()).toEqual([['b.example', "the ENC's answer changed"]]);
  const stored = await pool.query("select answer from enc_answer where certname = 'b.example'");
  expect(stored.rows).toEqual([{ answer: 'classes: [web]\n' }]);
  // Run twice, it asks nobody.
  await run();
  expect(await asked()).toEqual([]);
});

test('nodes are asked about when they are due by the clock, as their environment says', async () => {
  for (const name of ['a', 'b']) await node(`${name}.example`);
  await compileAll();
  await age(29);
  await run();
  expect(await asked()).toEqual([]);
  answer('a.example', 'classes: [web]\n');
  await age(31);
  await run();
  expect(await asked()).toEqual(['a.example', 'b.example']);
  expect(await queued()).toEqual([['a.example', "the ENC's answer changed"]]);
  await pool.query('update environment set enc_interval_minutes = 0');
  await age(10_000);
  await run();
  expect(await asked()).toEqual([]);
  await refresh({ environment: 'production' });
  await run();
  expect(await asked()).toEqual(['a.example', 'b.example']);
});

test('a catalog that was compiled with an older answer is noticed, though the stored answer is the new one', async () => {
  await node('a.example');
  await compileAll();
  answer('a.example', 'classes: [web]\n');
  await refresh({});
  await run();
  await pool.query('delete from graphile_worker._private_jobs');
  // The compile that was queued has not happened: to look again finds the same.
  await refresh({});
  await run();
  expect(await queued()).toEqual([['a.example', "the ENC's answer changed"]]);
});

test('an ENC that moves a node queues its compiles where it is then', async () => {
  await node('a.example');
  await compileAll();
  answer('a.example', 'environment: staging\n');
  await refresh({});
  await run();
  expect(await queued()).toEqual([['a.example', 'the ENC put it into staging']]);
  const { rows } = await pool.query('select environment from node');
  expect(rows).toEqual([{ environment: 'staging' }]);
});

test('an ENC that fails changes nothing, and the others are asked about all the same', async () => {
  for (const name of ['a', 'b']) await node(`${name}.example`);
  await compileAll();
  rmSync(join(folder, 'answers', 'a.example'));
  answer('b.example', 'classes: [web]\n');
  await refresh({});
  await run();
  expect(await asked()).toEqual(['a.example', 'b.example']);
  expect(await queued()).toEqual([['b.example', "the ENC's answer changed"]]);
  const { rows } = await pool.query("select answer from enc_answer where certname = 'a.example'");
  expect(rows).toEqual([{ answer: 'classes: []\n' }]);
});

test('many nodes are asked about, a few at once', async () => {
  for (let n = 0; n < 60; n += 1) await node(`n${n}.example`);
  await refresh({});
  await run();
  expect(await asked()).toHaveLength(60);
  expect(await queued()).toHaveLength(60);
  const atOnce = readdirSync(join(folder, 'at-once')).map((name) =>
    Number(readFileSync(join(folder, 'at-once', name), 'utf8')),
  );
  expect(Math.max(...atOnce)).toBeLessThanOrEqual(ENC_AT_ONCE_MAX);
});

test('a server that stops in the middle loses nothing', async () => {
  for (let n = 0; n < 20; n += 1) await node(`n${n}.example`);
  await refresh({});
  const stop = new AbortController();
  stop.abort(new Error('the server stops'));
  await expect(run(stop.signal)).rejects.toThrow('the server stops');
  await run();
  expect(await asked()).toHaveLength(20);
});

test('the refusals', async () => {
  expect(await refresh({}, 'viewer')).toMatchObject({ status: 403 });
  expect(await refresh({ environment: 'absent' })).toMatchObject({
    status: 404,
    body: { code: 'ENVIRONMENT_NOT_FOUND' },
  });
  expect(await refresh({ certnames: ['Not One'] })).toMatchObject({ status: 400, body: { code: 'CERTNAME_INVALID' } });
  expect(await refresh({ certnames: [] })).toMatchObject({ status: 400, body: { code: 'REQUEST_INVALID' } });
  expect(await refresh({ nodes: ['a'] })).toMatchObject({ status: 400, body: { code: 'REQUEST_INVALID' } });
});
