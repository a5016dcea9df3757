import { gunzipSync } from 'node:zlib';
import pino from 'pino';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type App, buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import type { Certname } from '../../src/model/ids.ts';
import { startListener } from '../../src/postgres/listen.ts';
import { pin, release } from '../../src/release/pointers.ts';
import { releaseRoutes } from '../../src/release/routes.ts';
import { listsTag, serveRoutes, takesGzip } from '../../src/release/serve.ts';
import { freshDatabase } from '../postgres/fresh.ts';
import { catalogs, fleet, sha256 } from './fleet.ts';

const database = await freshDatabase();
const { db, pool } = database;
const made = fleet(database);
const logger = pino({ level: 'silent' });
const listener = await startListener(database.url, logger);
afterAll(() => listener.close());

/** Statements on the database of this file, by the pool's own count. */
let statements = 0;
pool.on('acquire', () => statements++);
let identity: Identity = { kind: 'anonymous' };
let isListening = true;
const app: App = await buildApp({
  // Requests that are under way together say for themselves who they are.
  identify: ({ headers }) =>
    headers['x-node'] ? { kind: 'node', certname: headers['x-node'] as Certname, extensions: {} } : identity,
  logger,
  // fetch leaves connections on which it asked nothing, and a server waits for those.
  stopTimeMs: 500,
  rooms: [
    releaseRoutes({ db, queue: made.queue }),
    serveRoutes({ db, listener, isListening: () => isListening, readCatalogGzip: catalogs.readCatalogGzip }),
  ],
});
await app.listen({ host: '127.0.0.1', port: 0 });
const { port } = app.server.address() as { port: number };
afterAll(() => app.close());

const asNode = (certname: string) => {
  identity = { kind: 'node', certname: certname as Certname, extensions: {} };
};
async function getCatalog(certname: string, headers: Record<string, string> = {}) {
  asNode(certname);
  return app.inject({ method: 'GET', url: `/node/v1/nodes/${certname}/catalog`, headers });
}
async function releaseTo(nodes: string[] | 'all', codeVersion?: string) {
  return release(db, made.queue, { environment: 'production', codeVersion, nodes, requestedBy: 'test' });
}
/** Waits for a state, with a deadline. */
async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Every notification sent before this is heard when it returns: they come in order. */
const marks = new Set<string>();
listener.on('callboard_progress', ({ id }) => marks.add(id));
let markNumber = 0;
async function heardAll(): Promise<void> {
  const id = `mark ${++markNumber}`;
  await pool.query("select pg_notify('callboard_progress', $1)", [JSON.stringify({ kind: 'release', id })]);
  await until('the mark', () => marks.has(id));
}

let v1: Awaited<ReturnType<typeof made.code>>;
let nodeNumber = 0;
let certname = '';
beforeAll(async () => {
  await made.environment('production');
  v1 = await made.code('production', 'serve 1');
});
beforeEach(async () => {
  isListening = true;
  await made.code('production', 'serve 1');
  certname = `n${++nodeNumber}.example`;
  await made.node(certname);
});

test('the released catalog comes with its tag, and costs no body when the node has it', async () => {
  const { catalog } = await made.compile(certname, v1, 'hello');
  await releaseTo([certname]);
  const plugins = sha256('plugins serve 1');
  const etag = `"${catalog}.${plugins}.do"`;
  const headers = {
    etag,
    'callboard-catalog': catalog,
    'callboard-code-version': v1,
    'callboard-plugins': plugins,
    'callboard-run-mode': 'do',
  };
  const answer = await getCatalog(certname);
  expect(answer.statusCode).toBe(200);
  expect(answer.headers).toMatchObject({ ...headers, 'content-type': 'application/json; charset=utf-8' });
  expect(answer.headers).not.toHaveProperty('content-encoding');
  expect(answer.headers).not.toHaveProperty('callboard-run-request');
  expect(answer.json()).toMatchObject({ name: certname, version: catalog, environment: 'production' });

  const zipped = await getCatalog(certname, { 'accept-encoding': 'gzip, deflate' });
  expect(zipped.headers['content-encoding']).toBe('gzip');
  expect(gunzipSync(zipped.rawPayload).equals(answer.rawPayload)).toBe(true);

  const unchanged = await getCatalog(certname, { 'if-none-match': etag });
  expect(unchanged.statusCode).toBe(304);
  expect(unchanged.rawPayload).toHaveLength(0);
  expect(unchanged.headers).toMatchObject(headers);
  expect((await getCatalog(certname, { 'if-none-match': `"other", W/${etag}` })).statusCode).toBe(304);
  expect((await getCatalog(certname, { 'if-none-match': '"other"' })).statusCode).toBe(200);
});

test('P5: a compiled catalog that nobody released is not served', async () => {
  const none = await getCatalog(certname);
  expect(none.statusCode).toBe(404);
  expect(none.json()).toMatchObject({ code: 'CATALOG_NOT_RELEASED' });
  await made.compile(certname, v1, 'not released');
  const still = await getCatalog(certname);
  expect(still.statusCode).toBe(404);
  expect(still.headers['callboard-plugins']).toBe(sha256('plugins serve 1'));
});

test('P9: a node is served nothing of another', async () => {
  await made.compile(certname, v1, 'mine');
  await releaseTo([certname]);
  for (const what of ['catalog', 'plugins', 'wakeups']) {
    asNode('other.example');
    const url = `/node/v1/nodes/${certname}/${what}`;
    expect((await app.inject({ method: 'GET', url })).statusCode, what).toBe(403);
    identity = { kind: 'operator', name: 'alice', role: 'admin' };
    expect((await app.inject({ method: 'GET', url })).statusCode, what).toBe(403);
    identity = { kind: 'anonymous' };
    expect((await app.inject({ method: 'GET', url })).statusCode, what).toBe(401);
  }
});

test('P1: however often nodes ask, no job is made and nothing is asked of the database twice', async () => {
  await made.compile(certname, v1, 'hammered');
  await releaseTo([certname]);
  await heardAll();
  const etag = (await getCatalog(certname)).headers.etag as string;
  const jobs = async () => (await pool.query('select count(*)::int as n from graphile_worker.jobs')).rows[0].n;
  const compiles = async () => (await pool.query('select count(*)::int as n from compile')).rows[0].n;
  const [jobsBefore, compilesBefore] = [await jobs(), await compiles()];
  const before = statements;
  for (let index = 0; index < 500; index++)
    expect((await getCatalog(certname, { 'if-none-match': etag })).statusCode).toBe(304);
  for (let index = 0; index < 100; index++) expect((await getCatalog(certname)).statusCode).toBe(200);
  expect(statements - before).toBe(0);
  const herd = await Promise.all(
    Array.from({ length: 300 }, () => app.inject({ method: 'GET', url: `/node/v1/nodes/${certname}/plugins` })),
  );
  expect(herd.every((answer) => answer.json().plugins === sha256('plugins serve 1'))).toBe(true);
  asNode('nobody.example');
  const strangers = Array.from({ length: 100 }, () =>
    app.inject({ method: 'GET', url: '/node/v1/nodes/nobody.example/catalog' }),
  );
  expect((await Promise.all(strangers)).every((answer) => answer.statusCode === 404)).toBe(true);
  expect([await jobs(), await compiles()]).toEqual([jobsBefore, compilesBefore]);
});

test('whatever moves the pointer, the next answer after the notification is the new one', async () => {
  const one = await made.compile(certname, v1, 'one');
  await releaseTo([certname]);
  expect((await getCatalog(certname)).headers['callboard-catalog']).toBe(one.catalog);
  const two = await made.compile(certname, v1, 'two');
  await heardAll();
  expect((await getCatalog(certname)).headers['callboard-catalog']).toBe(two.catalog);
  await pin(db, { certname: certname as Certname, catalog: one.catalog!, requestedBy: 'test' });
  await heardAll();
  expect((await getCatalog(certname)).headers['callboard-catalog']).toBe(one.catalog);
});

test('a herd whose pointers all moved is served the new catalogs by few statements', async () => {
  const names = Array.from({ length: 40 }, (_, index) => `herd${index}.example`);
  for (const each of names) {
    await made.node(each);
    await made.compile(each, v1, 'old');
  }
  await releaseTo(names);
  for (const each of names) await getCatalog(each);
  const v2 = await made.code('production', 'serve 2');
  for (const each of names) await made.compile(each, v2, 'new');
  await releaseTo(names, v2);
  await heardAll();
  const before = statements;
  const answers = await Promise.all(
    names.map((each) =>
      app.inject({ method: 'GET', url: `/node/v1/nodes/${each}/catalog`, headers: { 'x-node': each } }),
    ),
  );
  expect(answers.map((answer) => answer.statusCode)).toEqual(names.map(() => 200));
  for (const [index, answer] of answers.entries()) {
    expect(answer.headers['callboard-code-version']).toBe(v2);
    expect(answer.json().name).toBe(names[index]);
  }
  // Pointers in a handful of statements; then each catalog once.
  expect(statements - before).toBeLessThan(names.length + 10);
});

test('while no notifications arrive, every question goes to the database', async () => {
  const one = await made.compile(certname, v1, 'one');
  await releaseTo([certname]);
  expect((await getCatalog(certname)).headers['callboard-catalog']).toBe(one.catalog);
  await heardAll();
  isListening = false;
  const before = statements;
  for (let index = 0; index < 5; index++) await getCatalog(certname);
  expect(statements - before).toBe(5);
});

test('the run mode is the policy of the environment, and a part of the tag', async () => {
  await made.environment('rehearsal', { run: 'noop' });
  const version = await made.code('rehearsal', 'serve 1');
  await made.node('careful.example', 'rehearsal');
  await made.compile('careful.example', version, 'careful', 'rehearsal');
  await release(db, made.queue, {
    environment: 'rehearsal',
    codeVersion: undefined,
    nodes: 'all',
    requestedBy: 'test',
  });
  const answer = await getCatalog('careful.example');
  expect(answer.headers['callboard-run-mode']).toBe('noop');
  expect(answer.headers.etag).toMatch(/\.noop"$/);
});

test('a run request stands on every answer until a run takes it up, and not for ever', async () => {
  await made.compile(certname, v1, 'to run');
  await releaseTo([certname]);
  const etag = (await getCatalog(certname)).headers.etag as string;
  identity = { kind: 'operator', name: 'alice', role: 'deployer' };
  const asked = await app.inject({
    method: 'POST',
    url: '/api/v1/run-requests',
    payload: { nodes: [certname], mode: 'noop' },
  });
  const { id } = asked.json().requests[0];
  const told = async () => {
    const answer = await getCatalog(certname, { 'if-none-match': etag });
    expect(answer.statusCode).toBe(304);
    return answer.headers['callboard-run-request'];
  };
  await until('the request is told', async () => (await told()) === `${id};mode=noop`);
  expect((await getCatalog(certname)).headers['callboard-run-request']).toBe(`${id};mode=noop`);

  // What the report room does when the run's first event comes.
  await pool.query('update run_request set run = gen_random_uuid() where id = $1', [id]);
  await pool.query("select pg_notify('callboard_run_event', $1)", [
    JSON.stringify({ certname, run: id, day: '2026-11-24', from: 1, to: 1 }),
  ]);
  await until('it is taken', async () => (await told()) === undefined);

  await pool.query(
    "insert into run_request (certname, mode, requested_by, requested_at) values ($1, 'do', 'test', $2)",
    [certname, new Date(Date.now() - 3600_000 - 1000)],
  );
  await pool.query("select pg_notify('callboard_node', $1)", [
    JSON.stringify({ environment: 'production', certnames: [certname] }),
  ]);
  await heardAll();
  expect(await told(), 'an hour is over').toBeUndefined();
});

test('plugins: of the released code, else of the environment that the node is in or says', async () => {
  const pluginsFor = async (name: string, query = '') => {
    asNode(name);
    return (await app.inject({ method: 'GET', url: `/node/v1/nodes/${name}/plugins${query}` })).json();
  };
  expect(await pluginsFor(certname)).toEqual({ plugins: sha256('plugins serve 1') });
  await made.environment('lab');
  await made.code('lab', 'lab 1');
  expect(await pluginsFor('unborn.example', '?environment=lab')).toEqual({ plugins: sha256('plugins lab 1') });
  expect(await pluginsFor('unborn.example', '?environment=nowhere')).toEqual({ plugins: null });
  await made.compile(certname, v1, 'x');
  await releaseTo([certname], v1);
  await made.code('production', 'serve 3');
  expect(await pluginsFor(certname)).toEqual({ plugins: sha256('plugins serve 1') });
  await made.code('production', 'serve 1');
});

/** Reads a stream's events as they come. */
async function wakeups(name: string) {
  asNode(name);
  const abort = new AbortController();
  const answer = await fetch(`http://127.0.0.1:${port}/node/v1/nodes/${name}/wakeups`, { signal: abort.signal });
  expect(answer.status).toBe(200);
  expect(answer.headers.get('content-type')).toContain('text/event-stream');
  const events: { event: string; data: { catalog?: string; request?: string; mode?: string } }[] = [];
  const ended = (async () => {
    let text = '';
    for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const [, event, data] = /^event: (\w+)\ndata: (.*)$/.exec(text.slice(0, end)) ?? [];
        if (event) events.push({ event, data: JSON.parse(data!) });
        text = text.slice(end + 2);
      }
    }
  })().catch(() => {});
  return { events, ended, close: () => abort.abort() };
}

test('a waiting node is woken for a new catalog and for a run request, and others sleep on', async () => {
  const other = `other-${certname}`;
  await made.node(other);
  for (const each of [certname, other]) await made.compile(each, v1, 'one');
  await releaseTo([certname, other]);
  const mine = await wakeups(certname);
  const theirs = await wakeups(other);
  await until('both hear what there is', () => mine.events.length === 1 && theirs.events.length === 1);
  const two = await made.compile(certname, v1, 'two');
  await until('the catalog', () => mine.events.length === 2);
  expect(mine.events[1]).toEqual({ event: 'catalog', data: { catalog: two.catalog } });
  // Told as "all of production", only the node that has something new is woken.
  const three = await made.compile(certname, v1, 'three');
  await pool.query("select pg_notify('callboard_node', $1)", [JSON.stringify({ environment: 'production' })]);
  await until('the next catalog', () => mine.events.at(-1)?.data.catalog === three.catalog);
  identity = { kind: 'operator', name: 'alice', role: 'deployer' };
  await app.inject({ method: 'POST', url: '/api/v1/run-requests', payload: { nodes: [certname], mode: 'do' } });
  await until('the run', () => mine.events.at(-1)?.event === 'run');
  expect(mine.events.at(-1)!.data).toMatchObject({ mode: 'do' });
  expect(theirs.events).toHaveLength(1);

  const again = await wakeups(certname);
  await until('a stream that opens hears both at once', () => again.events.length === 2);
  await mine.ended;
  for (const stream of [again, theirs]) {
    stream.close();
    await stream.ended;
  }
});

test('the forms of If-None-Match and Accept-Encoding', () => {
  expect(listsTag('*', '"a"')).toBe(true);
  expect(listsTag('"b", "a"', '"a"')).toBe(true);
  expect(listsTag('W/"a"', '"a"')).toBe(true);
  expect(listsTag('"ab"', '"a"')).toBe(false);
  expect(listsTag('', '"a"')).toBe(false);
  const gzip = ['gzip', 'deflate, gzip;q=0.5', '*', 'GZIP', 'br;q=1.0, *;q=0.1', 'gzip;q=1.0,identity;q=0.3'];
  for (const header of gzip) expect(takesGzip(header), header).toBe(true);
  for (const header of [undefined, '', 'br', 'gzip;q=0', 'gzip; q=0.000, *', '*;q=0'])
    expect(takesGzip(header), header).toBe(false);
});
