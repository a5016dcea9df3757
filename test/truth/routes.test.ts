/** The API of truth through `inject`, refusals included. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import pino from 'pino';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type App, buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import type { Certname } from '../../src/model/ids.ts';
import { truthRoutes } from '../../src/truth/routes.ts';
import { freshDatabase } from '../postgres/fresh.ts';
import { type GitFixture, gitRepository, temporaryDirectory } from './git-fixture.ts';
import { type TruthFixture, truthFixture } from './truth-fixture.ts';

vi.setConfig({ testTimeout: 60_000 });

const WHO: Record<string, Identity> = {
  viewer: { kind: 'operator', name: 'vera', role: 'viewer' },
  deployer: { kind: 'operator', name: 'dora', role: 'deployer' },
  admin: { kind: 'operator', name: 'ada', role: 'admin' },
  node: { kind: 'node', certname: 'web01' as Certname, extensions: {} },
};

let truth: TruthFixture;
let app: App;
let repo: GitFixture;
beforeAll(async () => {
  truth = await truthFixture(await freshDatabase(), {}, 'file');
  app = await buildApp({
    identify: (request) => WHO[String(request.headers['x-who'])] ?? { kind: 'anonymous' },
    logger: pino({ level: 'silent' }),
    rooms: [truthRoutes({ ...truth.deps, applyPolicies: async () => {} })],
  });
  repo = gitRepository(undefined, 'file');
  repo.commit({ a: 'a' });
});
afterAll(() => app.close());

async function call(who: string, method: 'GET' | 'PUT' | 'POST', url: string, body?: object) {
  const answer = await app.inject({ method, url, headers: { 'x-who': who }, ...(body ? { payload: body } : {}) });
  return { status: answer.statusCode, body: answer.json() };
}

test('a deploy asked for is a row and a job, and can be watched to its end', async () => {
  const asked = await call('deployer', 'POST', '/api/v1/environments/production/deploys', {
    repo: repo.directory,
    ref: 'main',
  });
  expect(asked.status).toBe(202);
  const { id } = asked.body;
  expect((await call('viewer', 'GET', `/api/v1/deploys/${id}`)).body).toMatchObject({
    id,
    environment: 'production',
    repo: repo.directory,
    state: 'queued',
    requested_by: 'operator dora',
    finished_at: null,
  });
  const jobs = await sql<{ key: string }>`
    select key from graphile_worker.jobs where task_identifier = 'deploy'
  `.execute(truth.deps.db);
  expect(jobs.rows.map((job) => job.key)).toContain(`deploy:${id}`);
  await truth.run(id);
  const done = (await call('viewer', 'GET', `/api/v1/deploys/${id}`)).body;
  const whole = (await call('viewer', 'GET', `/api/v1/deploys/${id}/log`)).body;
  expect(whole).toEqual({ state: 'done', error: null, text: done.log, next: done.log.length });
  const tail = (await call('viewer', 'GET', `/api/v1/deploys/${id}/log?from=${done.log.length - 5}`)).body;
  expect(tail).toMatchObject({ text: done.log.slice(-5), next: done.log.length });
  const { log: _, ...listed } = done;
  expect((await call('viewer', 'GET', '/api/v1/environments/production/deploys')).body.deploys).toEqual([listed]);
  expect(done).toMatchObject({ state: 'done', error: null, commit: repo.git('rev-parse', 'HEAD') });
  expect((await call('viewer', 'GET', '/api/v1/environments/production/code')).body).toEqual({
    code_versions: [
      {
        id: done.code_version,
        commit: done.commit,
        repo: repo.directory,
        ref: 'main',
        file_count: 2,
        byte_count: 1 + '{"modulepath":[]}\n'.length,
        created_at: expect.any(String),
        deployed_at: done.finished_at,
        newest: true,
        released: false,
      },
    ],
  });
  expect((await call('viewer', 'GET', '/api/v1/environments')).body.environments).toMatchObject([
    { name: 'production', code_policy: 'held', code_version: done.code_version, released_code_version: null },
  ]);
});

test("a repository's password is never shown", async () => {
  const asked = await call('deployer', 'POST', '/api/v1/environments/secretive/deploys', {
    repo: 'https://dora:s3cret@127.0.0.1:9/x.git',
  });
  const shown = await call('viewer', 'GET', `/api/v1/deploys/${asked.body.id}`);
  expect(shown.body.repo).toBe('https://dora:***@127.0.0.1:9/x.git');
  expect(JSON.stringify(shown.body)).not.toContain('s3cret');
});

test('policies are set one by one, and a changed ENC queues the compiles of the code in use', async () => {
  await truth.deploy('policies', repo.directory);
  truth.queued.length = 0;
  const set = (body: object) => call('admin', 'PUT', '/api/v1/environments/policies', body);
  expect((await set({ code_policy: 'auto' })).body).toMatchObject({ code_policy: 'auto', facts_policy: 'auto' });
  expect((await set({ facts_policy: 'held', run_policy: 'noop' })).body).toMatchObject({
    code_policy: 'auto',
    facts_policy: 'held',
    run_policy: 'noop',
    enc_command: null,
  });
  expect(truth.queued).toEqual([]);
  const enc = join(temporaryDirectory('enc'), 'enc');
  writeFileSync(enc, '#!/bin/sh\n');
  expect((await set({ enc_command: enc })).body.code).toBe('ENC_COMMAND_INVALID');
  chmodSync(enc, 0o755);
  expect((await set({ enc_command: `${enc} --now` })).body).toMatchObject({ enc_command: `${enc} --now` });
  expect(truth.queued).toMatchObject([{ environment: 'policies', trigger: 'the ENC of policies was changed' }]);
  expect((await set({ enc_command: null })).body).toMatchObject({ enc_command: null, code_policy: 'auto' });
  expect(truth.queued).toHaveLength(2);
  expect((await call('viewer', 'GET', '/api/v1/environments/policies')).body).toMatchObject({ run_policy: 'noop' });
});

test('an environment may be made before its first deploy', async () => {
  const made = await call('admin', 'PUT', '/api/v1/environments/early', { run_policy: 'noop' });
  expect(made).toMatchObject({ status: 200, body: { name: 'early', run_policy: 'noop', code_version: null } });
  expect((await call('viewer', 'GET', '/api/v1/environments/early/code')).body).toEqual({ code_versions: [] });
});

test.each([
  ['viewer', 'POST', '/api/v1/environments/production/deploys', { repo: '/x' }, 403, 'ACCESS_DENIED'],
  ['deployer', 'PUT', '/api/v1/environments/production', {}, 403, 'ACCESS_DENIED'],
  ['node', 'GET', '/api/v1/environments', undefined, 403, 'ACCESS_DENIED'],
  ['nobody', 'GET', '/api/v1/environments', undefined, 401, 'IDENTITY_MISSING'],
  ['viewer', 'GET', '/api/v1/environments/absent', undefined, 404, 'ENVIRONMENT_NOT_FOUND'],
  ['viewer', 'GET', '/api/v1/environments/absent/code', undefined, 404, 'ENVIRONMENT_NOT_FOUND'],
  ['viewer', 'GET', '/api/v1/environments/Not-One', undefined, 400, 'ENVIRONMENT_NAME_INVALID'],
  ['viewer', 'GET', '/api/v1/deploys/x', undefined, 404, 'DEPLOY_NOT_FOUND'],
  ['viewer', 'GET', '/api/v1/deploys/00000000-0000-0000-0000-000000000000', undefined, 404, 'DEPLOY_NOT_FOUND'],
  ['deployer', 'POST', '/api/v1/environments/x/deploys', { repo: 'x' }, 400, 'REPOSITORY_INVALID'],
  ['deployer', 'POST', '/api/v1/environments/x/deploys', { repo: '/x', ref: '--x' }, 400, 'GIT_REF_INVALID'],
  ['deployer', 'POST', '/api/v1/environments/x/deploys', { repo: '/x', reff: 'y' }, 400, 'REQUEST_INVALID'],
  ['deployer', 'POST', '/api/v1/environments/x/deploys', {}, 409, 'CODE_SOURCE_MISSING'],
  ['viewer', 'GET', '/api/v1/deploys/x/log', undefined, 404, 'DEPLOY_NOT_FOUND'],
  ['viewer', 'GET', '/api/v1/environments/absent/deploys', undefined, 404, 'ENVIRONMENT_NOT_FOUND'],
  ['admin', 'PUT', '/api/v1/environments/x', { code_policy: 'sometimes' }, 400, 'REQUEST_INVALID'],
  ['viewer', 'GET', '/api/v1/environments/x/code?limit=0', undefined, 400, 'REQUEST_INVALID'],
] as const)('%s %s %s %j is %i %s', async (who, method, url, body, status, code) => {
  expect(await call(who, method, url, body)).toMatchObject({ status, body: { code } });
});
