/** The job `compile` on a real PostgreSQL, with real Puppet, content on disk and the release policies behind it. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { catalogStore } from '../../src/catalog/store.ts';
import type { EncAnswer } from '../../src/compile/classification.ts';
import { type CompileJobsDeps, compileJobs } from '../../src/compile/jobs.ts';
import type { CompilePool } from '../../src/compile/pool.ts';
import { queueCompiles, queueEnvironmentCompiles } from '../../src/compile/queue.ts';
import type { CompileRequest, CompileResult } from '../../src/compile/request.ts';
import { listCompiles } from '../../src/compile/store.ts';
import { type DiskContent, openDiskContent } from '../../src/content/disk.ts';
import { guardContent } from '../../src/content/guard.ts';
import { CallboardError } from '../../src/model/errors.ts';
import type { CatalogHash, Certname, CodeVersionHash, ContentHash } from '../../src/model/ids.ts';
import type { Database } from '../../src/postgres/database.ts';
import { afterCompile } from '../../src/release/pointers.ts';
import { freshDatabase } from '../postgres/fresh.ts';
import { openPool } from '../ruby-worker/compiling.ts';
import { codeTree } from './code-tree.ts';

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const hash = (name: string) => sha256(name) as CodeVersionHash;
const N1 = 'n1.example.net' as Certname;
const V1 = hash('code version 1');
const V2 = hash('code version 2');

const { pool: database, db } = await freshDatabase();
const folder = await mkdtemp(join(tmpdir(), 'callboard-jobs-'));
afterAll(() => rm(folder, { recursive: true }));

let ruby: CompilePool;
let content: DiskContent;
let catalogs: ReturnType<typeof catalogStore>;
const directories = new Map<string, string>();
let encAnswers: Record<string, EncAnswer | Error>;

beforeAll(async () => {
  await mkdir(join(folder, 'mount'));
  await writeFile(join(folder, 'mount', 'file'), 'of a mount');
  await writeFile(join(folder, 'fileserver.conf'), `[site]\n  path ${folder}/mount\n`);
  content = await openDiskContent({ directory: join(folder, 'content'), fsync: false });
  catalogs = catalogStore({
    keys: { sealing: 1, keys: new Map([[1, randomBytes(32)]]) },
    guardContent: (tx, hashes) => guardContent(tx, content, hashes),
  });
  const site = (word: string) => ({
    'manifests/site.pp': `
      notify { 'word': message => "${word} \${facts['n']} \${getvar('enc_says')}" }
      file { '/in-code': source => 'puppet:///modules/m/file' }
      file { '/in-mount': source => 'puppet:///site/file' }
      if $facts['bad'] { fail("the facts are bad") }
      if $facts['warn'] { warning('take care') }`,
    'modules/m/files/file': `file of ${word}`,
  });
  directories.set(V1, await codeTree(site('first')));
  directories.set(V2, await codeTree(site('second')));
  for (const word of ['first', 'second'])
    await content.put(sha256(`file of ${word}`) as ContentHash, Buffer.from(`file of ${word}`));
  ruby = openPool({ fileserverConfig: join(folder, 'fileserver.conf') });
  await ruby.start();
}, 300_000);
afterAll(() => ruby?.close());

beforeEach(async () => {
  encAnswers = {};
  await database.query(`
    truncate run_request, pointer_move, release, compiled, compile, enc_answer, fact_history, node, content_reference, catalog,
      environment, deploy, fact_document, code_version cascade`);
  await database.query('delete from graphile_worker._private_jobs');
  for (const id of [V1, V2])
    await database.query('insert into code_version values ($1, $2, 1, 1, now())', [id, hash('plugins')]);
  await environment('production', { code_version: V2, released_code_version: V1 });
});

async function environment(name: string, columns: Record<string, string | null> = {}): Promise<void> {
  const all = { name, ...columns };
  await database.query(
    `insert into environment (${Object.keys(all)}) values (${Object.keys(all).map((_, index) => `$${index + 1}`)})`,
    Object.values(all),
  );
}

async function node(facts: object, certname: string = N1): Promise<void> {
  const document = JSON.stringify(facts);
  await database.query('insert into fact_document (hash, document) values ($1, $2) on conflict do nothing', [
    sha256(document),
    document,
  ]);
  await database.query(
    `insert into node (certname, environment, requested_environment, facts, facts_at) values ($1, 'production', 'production', $2, now())
     on conflict (certname) do update set facts = excluded.facts`,
    [certname, sha256(document)],
  );
}

async function queued(): Promise<{ key: string; priority: number; trigger: string }[]> {
  const { rows } = await database.query(
    "select key, priority, payload ->> 'trigger' as trigger from graphile_worker._private_jobs order by key",
  );
  return rows;
}

function handler(over: Partial<CompileJobsDeps> = {}) {
  const deps: CompileJobsDeps = {
    db,
    logger: pino({ level: 'silent' }),
    pool: ruby,
    codeDirectory: async (version) => directories.get(version)!,
    askEnc: async (command) => {
      const answer = encAnswers[command];
      if (answer instanceof Error) throw answer;
      return answer!;
    },
    content,
    storeCatalog: catalogs.storeCatalog,
    afterCompile,
    serverFacts: { servername: 'callboard' },
    base: async () => 'the base',
    ...over,
  };
  const { compile } = compileJobs(deps);
  return (codeVersion: string, environmentName = 'production', attempt = 1) =>
    compile!(
      { certname: N1, environment: environmentName, code_version: codeVersion, trigger: 'a test' },
      { signal: new AbortController().signal, attempt, lastAttempt: false },
    );
}

const last = async () => (await listCompiles(db, N1, null, 1))[0];
const state = async () =>
  (
    await database.query('select environment, released_catalog, released_code_version from node where certname = $1', [
      N1,
    ])
  ).rows[0];
const document = async (id: CatalogHash) => JSON.parse(String(await catalogs.readCatalog(db as Database, id)));

test('a node without a pointer joins at what is released; its catalog is stored with all that it names', {
  timeout: 180_000,
}, async () => {
  await node({ n: 1 });
  await handler()(V1);
  const compile = await last();
  expect(compile).toMatchObject({
    environment: 'production',
    code_version: V1,
    trigger: 'a test',
    facts: sha256('{"n":1}'),
    error: null,
    warnings: [],
  });
  expect(compile!.finished_at.getTime()).toBeGreaterThan(compile!.started_at.getTime());
  expect(await state()).toMatchObject({ released_catalog: compile!.catalog, released_code_version: V1 });
  const catalog = await document(compile!.catalog!);
  expect(catalog).toMatchObject({ name: N1, version: compile!.catalog });
  expect(await content.missing([sha256('of a mount') as ContentHash])).toEqual([]);
  const { rows } = await database.query('select content from content_reference where holder = $1', [compile!.catalog]);
  expect(rows.map((row) => row.content).sort()).toEqual([sha256('file of first'), sha256('of a mount')].sort());
});

test('the same inputs make no second catalog and no second move', { timeout: 180_000 }, async () => {
  await node({ n: 1 });
  await handler()(V1);
  const first = (await last())!.catalog;
  await handler()(V1);
  expect((await last())!.catalog).toBe(first);
  expect((await database.query('select 1 from catalog')).rowCount).toBe(1);
  expect((await database.query('select 1 from pointer_move')).rowCount).toBe(1);
  expect((await database.query('select 1 from compile')).rowCount).toBe(2);
});

test('a failed compile is a row with Puppet’s words, and the last good catalog stays', {
  timeout: 180_000,
}, async () => {
  await node({ n: 1 });
  await handler()(V1);
  const good = (await last())!.catalog;
  await node({ n: 1, bad: true, warn: true });
  await handler()(V1);
  const failed = (await last())!;
  expect(failed).toMatchObject({ catalog: null, error: { file: 'manifests/site.pp', line: 5 } });
  expect(failed.error!.message).toContain('the facts are bad');
  expect(await state()).toMatchObject({ released_catalog: good });
  const { rows } = await database.query('select compile, catalog from compiled');
  expect(rows).toEqual([{ compile: failed.id, catalog: null }]);

  await node({ n: 2, warn: true });
  await handler()(V1);
  expect(await last()).toMatchObject({ error: null, warnings: [{ level: 'warning', message: 'take care' }] });
  expect((await state()).released_catalog).not.toBe(good);
});

test('a candidate is compiled and not released', { timeout: 180_000 }, async () => {
  await node({ n: 1 });
  await handler()(V1);
  const before = await state();
  await handler()(V2);
  expect((await last())!.code_version).toBe(V2);
  expect(await state()).toEqual(before);
});

test('jobs that nobody needs any more do nothing', async () => {
  const refuse = handler({ pool: { compile: () => Promise.reject(new Error('compiled')) } });
  await refuse(V1); // no node
  await node({ n: 1 });
  await refuse(hash('an old code version'));
  await refuse(V1, 'staging'); // it is not there
  await database.query('update node set facts = null');
  await refuse(V1);
  expect(await last()).toBeUndefined();
});

test('a compile of older inputs that ends later is told, and moves nothing', { timeout: 180_000 }, async () => {
  await node({ n: 1 });
  const { promise: held, resolve: letGo } = Promise.withResolvers<void>();
  const { promise: reached, resolve: reach } = Promise.withResolvers<void>();
  const slow = handler({
    pool: {
      compile: async (request: CompileRequest): Promise<CompileResult> => {
        const result = await ruby.compile(request);
        reach();
        await held;
        return result;
      },
    },
  })(V1);
  await reached;
  await node({ n: 2 });
  await handler()(V1);
  const newer = await last();
  letGo();
  await slow;
  expect((await last())!.facts).toBe(sha256('{"n":1}'));
  expect((await database.query('select compile from compiled')).rows).toEqual([{ compile: newer!.id }]);
  expect(await state()).toMatchObject({ released_catalog: newer!.catalog });
});

test('trouble of this machine is thrown, for the queue to try again, and writes nothing', async () => {
  await node({ n: 1 });
  const trouble = new CallboardError('WORKER_FAILED', { reason: 'no Ruby' });
  await expect(handler({ pool: { compile: () => Promise.reject(trouble) } })(V1)).rejects.toBe(trouble);
  expect(await last()).toBeUndefined();
});

test('content that is not there keeps the catalog out', { timeout: 180_000 }, async () => {
  await node({ n: 1 });
  const other = await openDiskContent({ directory: join(folder, 'other'), fsync: false });
  const stores = catalogStore({
    keys: { sealing: 1, keys: new Map([[1, randomBytes(32)]]) },
    guardContent: (tx, hashes) => guardContent(tx, other, hashes),
  });
  await expect(handler({ content: other, storeCatalog: stores.storeCatalog })(V1)).rejects.toThrow('not in the store');
  expect(await last()).toBeUndefined();
  expect((await state()).released_catalog).toBeNull();
});

const answer = (text: string, environmentName?: string): EncAnswer => ({
  answer: text,
  environment: environmentName,
  hash: sha256(text),
});

test('the ENC’s answer is compiled with and kept', { timeout: 180_000 }, async () => {
  await database.query("update environment set enc_command = '/enc'");
  encAnswers['/enc'] = answer('parameters: {enc_says: hello}');
  await node({ n: 1 });
  await handler()(V1);
  const compile = (await last())!;
  expect(compile.enc_hash).toBe(sha256('parameters: {enc_says: hello}'));
  const { resources } = await document(compile.catalog!);
  expect(resources.find((one: { title: string }) => one.title === 'word').parameters.message).toBe('first 1 hello');
  expect((await database.query('select answer from enc_answer')).rows).toEqual([
    { answer: 'parameters: {enc_says: hello}' },
  ]);
});

test('an ENC that names another environment moves the node there, and its compiles with it', async () => {
  await environment('staging', { code_version: V1, enc_command: '/enc2' });
  await database.query("update environment set enc_command = '/enc' where name = 'production'");
  encAnswers = { '/enc': answer('environment: staging', 'staging'), '/enc2': answer('{}') };
  await node({ n: 1 });
  await handler()(V1);
  expect(await last()).toBeUndefined();
  expect(await state()).toMatchObject({ environment: 'staging' });
  expect(await queued()).toEqual([
    { key: `compile:staging:${V1}:${N1}`, priority: 20, trigger: 'the ENC put it into staging' },
  ]);
});

test('ENCs that send a node in a circle, or nowhere, are a failed compile', async () => {
  await environment('staging', { enc_command: '/enc2' });
  await database.query("update environment set enc_command = '/enc' where name = 'production'");
  await node({ n: 1 });
  encAnswers = { '/enc': answer('x', 'staging'), '/enc2': answer('y', 'production') };
  await handler()(V1);
  expect((await last())!.error!.message).toBe(
    "The ENCs send 'n1.example.net' round in a circle: production, staging, production",
  );
  encAnswers = { '/enc': answer('x', 'nowhere') };
  await handler()(V1);
  expect((await last())!.error!.message).toContain("into the environment 'nowhere', which is not there");
});

test('an ENC that fails is asked again, and at last its failure is the result', async () => {
  await database.query("update environment set enc_command = '/enc'");
  await node({ n: 1 });
  encAnswers['/enc'] = new CallboardError('ENC_FAILED', { reason: 'Failed to find n1 via exec: /enc returned 1' });
  await expect(handler()(V1)).rejects.toThrow('/enc returned 1');
  expect(await last()).toBeUndefined();
  await handler()(V1, 'production', 3);
  expect((await last())!.error!.message).toBe('Failed to find n1 via exec: /enc returned 1');
});

test('facts queue the newest code and the released one, once each', async () => {
  await node({ n: 1 });
  const queue = (trigger: string) => db.transaction().execute((tx) => queueCompiles(tx, N1, trigger));
  await queue('facts changed');
  await queue('facts changed again');
  const expected = [V1, V2].map((version) => ({
    key: `compile:production:${version}:${N1}`,
    priority: 20,
    trigger: 'facts changed again',
  }));
  expect(await queued()).toEqual(expected.sort((a, b) => (a.key < b.key ? -1 : 1)));

  await database.query('delete from graphile_worker._private_jobs');
  await database.query('update environment set code_version = $1', [V1]);
  await queue('facts changed');
  expect((await queued()).map((job) => job.key)).toEqual([`compile:production:${V1}:${N1}`]);
});

test('a code version released to a node in another environment is not compiled in this one', {
  timeout: 180_000,
}, async () => {
  await node({ n: 1 });
  await handler()(V1);
  await environment('staging', { code_version: V2 });
  await database.query("update node set environment = 'staging'");
  await db.transaction().execute((tx) => queueCompiles(tx, N1, 'environment changed'));
  expect((await queued()).map((job) => job.key)).toEqual([`compile:staging:${V2}:${N1}`]);
});

test('a deploy queues every node of the environment that has facts', async () => {
  await node({ n: 1 });
  await node({ n: 2 }, 'n2.example.net');
  await environment('staging');
  await database.query(
    "insert into node (certname, environment, requested_environment) values ('n3', 'production', 'production')",
  );
  await node({ n: 2 }, 'n4.example.net');
  await database.query("update node set environment = 'staging' where certname = 'n4.example.net'");
  await db.transaction().execute((tx) => queueEnvironmentCompiles(tx, 'production', V2, 'deployed'));
  expect(await queued()).toEqual(
    [N1, 'n2.example.net'].map((certname) => ({
      key: `compile:production:${V2}:${certname}`,
      priority: 30,
      trigger: 'deployed',
    })),
  );
});
