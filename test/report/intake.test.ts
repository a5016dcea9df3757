/** Run events through the real routes to a real PostgreSQL, and what can be read of them afterwards. */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type App, buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import { parseCertname } from '../../src/model/ids.ts';
import { reportRoutes } from '../../src/report/routes.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { until } from '../postgres/until.ts';

const REAL = readFileSync(new URL('../fixtures/report/failed-run-puppet-7.ndjson', import.meta.url), 'utf8');
const REAL_LINES = REAL.trimEnd().split('\n');

let database: FreshDatabase;
let app: App;
const heard: { channel: string; payload: string }[] = [];

beforeAll(async () => {
  database = await freshDatabase();
  const client = await database.pool.connect();
  await client.query('listen callboard_run_event');
  client.on('notification', ({ channel, payload }) => heard.push({ channel, payload: payload ?? '' }));
  app = await buildApp({
    logger: pino({ level: 'silent' }),
    identify: (request): Identity => {
      const name = request.headers['x-test-node'];
      if (typeof name === 'string')
        return { kind: 'node', certname: parseCertname(name), extensions: { pp_role: 'web' } };
      return { kind: 'operator', name: 'viewer', role: 'viewer' };
    },
    rooms: [
      reportRoutes({ db: database.db, listener: { on: () => {}, onGap: () => {} }, logger: pino({ level: 'silent' }) }),
    ],
  });
  return () => client.release();
});
afterAll(() => app.close());

/** Notifications come in the order of their commits: when this one is here, so are all before it. */
async function heardAll(): Promise<void> {
  const marker = randomUUID();
  await database.pool.query("select pg_notify('callboard_run_event', $1)", [marker]);
  await expect.poll(() => heard.some(({ payload }) => payload === marker), { timeout: 10_000 }).toBe(true);
}

function post(certname: string, run: string, body: string | Buffer | Readable, as = certname, headers = {}) {
  return app.inject({
    method: 'POST',
    url: `/node/v1/nodes/${certname}/runs/${run}/events`,
    headers: { 'x-test-node': as, 'content-type': 'application/x-ndjson', ...headers },
    payload: body,
  });
}

const get = async (url: string) => (await app.inject({ url })).json();

const line = (sequence: number, kind = 'log', data = '{}', at = '2026-11-24T10:00:00Z') =>
  `{"sequence":${sequence},"at":"${at}","kind":"${kind}","data":${data}}\n`;

async function stored(run: string): Promise<number[]> {
  const { rows } = await database.pool.query('select sequence from run_event where run = $1 order by sequence', [run]);
  return rows.map((row) => row.sequence);
}

describe('a whole run', () => {
  test('of real Puppet is stored, derived, and read back to the byte', async () => {
    const run = randomUUID();
    const answer = await post('web1.example', run, REAL);
    expect(answer.json()).toEqual({ acknowledged: REAL_LINES.length });

    expect(await get(`/api/v1/runs/${run}`)).toMatchObject({
      id: run,
      certname: 'web1.example',
      status: 'failed',
      events: REAL_LINES.length,
      summary: { resources: 15, changed: 4, failed: 1, skipped: 1, corrective: 0, noop: 1, exit_code: 6 },
    });
    const events = (await app.inject({ url: `/api/v1/runs/${run}/events` })).body;
    for (const original of REAL_LINES) {
      expect(events).toContain(original.slice(original.indexOf('"data":')));
    }
    expect(events).toContain('"big":9223372036854775807');
    expect(await get('/api/v1/nodes/web1.example')).toMatchObject({
      status: 'failed',
      last_run: run,
      run: { id: run, status: 'failed' },
      trusted_extensions: { pp_role: 'web' },
      facts: null,
    });
  });

  test('may come gzipped, in pieces that cut lines anywhere', async () => {
    const run = randomUUID();
    const zipped = gzipSync(REAL);
    const pieces = Array.from({ length: Math.ceil(zipped.length / 7) }, (_, i) => zipped.subarray(7 * i, 7 * i + 7));
    const answer = await post('web1.example', run, Readable.from(pieces), undefined, { 'content-encoding': 'gzip' });
    expect(answer.json()).toEqual({ acknowledged: REAL_LINES.length });
    expect(await stored(run)).toHaveLength(REAL_LINES.length);
  });

  test('of 5,000 events goes in chunks and tells each once', async () => {
    const run = randomUUID();
    heard.length = 0;
    const body = Array.from({ length: 5000 }, (_, i) => line(i + 1)).join('');
    expect((await post('web1.example', run, body)).json()).toEqual({ acknowledged: 5000 });
    expect(await stored(run)).toHaveLength(5000);
    const ranges = () => heard.map(({ payload }) => JSON.parse(payload)).filter((range) => range.run === run);
    await until(() => ranges().at(-1)?.to === 5000, 20_000);
    expect(ranges().length).toBeGreaterThanOrEqual(10);
    let next = 1;
    for (const { from, to, certname } of ranges()) {
      expect({ from, certname }).toEqual({ from: next, certname: 'web1.example' });
      next = to + 1;
    }
    expect(next).toBe(5001);
  });
});

describe('again, late, out of order', () => {
  test('the same events sent again change nothing and tell nobody', async () => {
    const run = randomUUID();
    await post('web1.example', run, REAL);
    const before = await get(`/api/v1/runs/${run}`);
    await heardAll();
    heard.length = 0;
    const answers = await Promise.all(Array.from({ length: 4 }, () => post('web1.example', run, REAL)));
    for (const answer of answers) expect(answer.json()).toEqual({ acknowledged: REAL_LINES.length });
    expect(await get(`/api/v1/runs/${run}`)).toEqual(before);
    expect(await stored(run)).toHaveLength(REAL_LINES.length);
    await heardAll();
    expect(heard.filter(({ payload }) => payload.includes(run))).toEqual([]);
  });

  test('many streams of one run at once count each event once', async () => {
    const run = randomUUID();
    const parts = Array.from({ length: 6 }, (_, i) => REAL_LINES.slice(i * 3, i * 3 + 16).join('\n'));
    await Promise.all([...parts, REAL].map((part) => post('web1.example', run, part)));
    expect((await post('web1.example', run, '')).json()).toEqual({ acknowledged: REAL_LINES.length });
    expect(await get(`/api/v1/runs/${run}`)).toMatchObject({
      events: REAL_LINES.length,
      status: 'failed',
      summary: { resources: 15, changed: 4, failed: 1, skipped: 1, corrective: 0, noop: 1, exit_code: 6 },
    });
  });

  test('behind a gap events are stored but not acknowledged; the gap closed, all of them are', async () => {
    const run = randomUUID();
    expect((await post('web1.example', run, line(3) + line(2))).json()).toEqual({ acknowledged: 0 });
    expect((await post('web1.example', run, line(6) + line(7))).json()).toEqual({ acknowledged: 0 });
    expect((await post('web1.example', run, line(1))).json()).toEqual({ acknowledged: 3 });
    expect((await post('web1.example', run, line(5))).json()).toEqual({ acknowledged: 3 });
    expect((await post('web1.example', run, line(4))).json()).toEqual({ acknowledged: 7 });
    expect(await stored(run)).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });

  test('a gap of thousands closes in one answer', async () => {
    const run = randomUUID();
    const rest = Array.from({ length: 1500 }, (_, i) => line(i + 2)).join('');
    expect((await post('web1.example', run, rest)).json()).toEqual({ acknowledged: 0 });
    expect((await post('web1.example', run, line(1))).json()).toEqual({ acknowledged: 1501 });
  });

  test('an empty body asks how far the run is known', async () => {
    expect((await post('web1.example', randomUUID(), '')).json()).toEqual({ acknowledged: 0 });
  });

  test("a run that started before the node's last, delivered late, leaves the node's status", async () => {
    const [newer, older] = [randomUUID(), randomUUID()];
    await post(
      'late.example',
      newer,
      line(1, 'start', '{}', '2026-11-23T12:00:00Z') + line(2, 'end', '{"status":"changed"}'),
    );
    await post(
      'late.example',
      older,
      line(1, 'start', '{}', '2026-11-23T09:00:00Z') + line(2, 'end', '{"status":"failed"}'),
    );
    expect(await get('/api/v1/nodes/late.example')).toMatchObject({ status: 'changed', last_run: newer });
    const { runs } = await get('/api/v1/runs?certname=late.example');
    expect(runs.map((run: { id: string }) => run.id)).toEqual([newer, older]);
  });

  test('an event while the run is under way shows it running', async () => {
    const run = randomUUID();
    await post('running.example', run, line(1, 'start', '{"noop":true}'));
    expect(await get('/api/v1/nodes/running.example')).toMatchObject({ status: 'running', run: { noop: true } });
    expect((await get('/api/v1/runs?status=running&certname=running.example')).runs).toHaveLength(1);
  });

  test('a clock that is years ahead does not hold the top of the list', async () => {
    const run = randomUUID();
    await post('ahead.example', run, line(1, 'start', '{}', '2999-01-01T00:00:00Z'));
    const { started_at } = await get(`/api/v1/runs/${run}`);
    expect(Date.parse(started_at)).toBeLessThanOrEqual(Date.now() + 1000);
  });
});

describe('refusals', () => {
  test("another node's name in the path, or another node's run", async () => {
    const run = randomUUID();
    await post('web1.example', run, line(1));
    expect((await post('web1.example', run, line(2), 'evil.example')).statusCode).toBe(403);
    expect((await post('evil.example', run, line(2))).json()).toMatchObject({ code: 'ACCESS_DENIED' });
    expect((await post('evil.example', run, '')).json()).toMatchObject({ code: 'ACCESS_DENIED' });
    expect(await stored(run)).toEqual([1]);
  });

  test('a line that is no event: those before it are stored, it is named, and nothing after it is', async () => {
    const run = randomUUID();
    const answer = await post('web1.example', run, `${line(1)}${line(2)}{"sequence":3,\n${line(4)}`);
    expect(answer.statusCode).toBe(400);
    expect(answer.json()).toMatchObject({ code: 'EVENT_INVALID', message: expect.stringContaining('Line 3') });
    expect(await stored(run)).toEqual([1, 2]);
  });

  test('a run id that is none, a line and a sequence beyond the limits', async () => {
    const run = randomUUID();
    expect((await post('web1.example', 'x', line(1))).json()).toMatchObject({ code: 'RUN_ID_INVALID' });
    const long = line(1, 'log', `{"message":"${'x'.repeat(1024 * 1024)}"}`);
    expect((await post('web1.example', run, long)).json()).toMatchObject({ code: 'LINE_TOO_LONG' });
    expect((await post('web1.example', run, line(500_001))).json()).toMatchObject({ code: 'EVENTS_TOO_MANY' });
    expect((await app.inject({ url: `/api/v1/runs/${run}` })).statusCode).toBe(404);
  });

  test('the lists do not answer nodes', async () => {
    for (const url of ['/api/v1/runs', '/api/v1/nodes', '/api/v1/nodes/web1.example/facts', '/api/v1/watch']) {
      const answer = await app.inject({ url, headers: { 'x-test-node': 'web1.example' } });
      expect(answer.statusCode).toBe(403);
    }
  });
});

test('what JSON allows and databases do not love is stored: NUL and lone surrogates escaped, deep nesting, odd keys', async () => {
  const run = randomUUID();
  const data = String.raw`{"a":"\u0000\ud800","__proto__":1e400,"n":-0.0,"k":{"":[[[[{"x":12345678901234567890}]]]]}}`;
  expect((await post('web1.example', run, line(1, 'resource', data))).json()).toEqual({ acknowledged: 1 });
  expect((await app.inject({ url: `/api/v1/runs/${run}/events` })).body).toContain(`"data":${data}`);
});

test('a run that takes up a request closes it, another node cannot', async () => {
  await post('wish.example', randomUUID(), line(1));
  const { rows } = await database.pool.query(
    "insert into run_request (certname, mode, requested_by) values ('wish.example', 'do', 'op') returning id",
  );
  const request = rows[0].id;
  await post('thief.example', randomUUID(), line(1, 'start', `{"request":"${request}"}`));
  const taken = async () =>
    (await database.pool.query('select run from run_request where id = $1', [request])).rows[0].run;
  expect(await taken()).toBeNull();
  const run = randomUUID();
  await post('wish.example', run, line(1, 'start', `{"request":"${request}"}`));
  expect(await taken()).toBe(run);
  expect(await get(`/api/v1/runs/${run}`)).toMatchObject({ request });
  // No UUID: no request, but the events are taken.
  const odd = await post('wish.example', randomUUID(), line(1, 'start', '{"request":"x"}'));
  expect(odd.json()).toEqual({ acknowledged: 1 });
});

test('a database that goes away in the middle loses nothing that was acknowledged', async () => {
  const run = randomUUID();
  let acknowledged = 0;
  for (let round = 0; round < 10; round += 1) {
    const body = Array.from({ length: 400 }, (_, i) => line(acknowledged + i + 1)).join('');
    const answers = await Promise.all([
      post('web2.example', run, body),
      database.pool.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()
         and pid <> pg_backend_pid() and query not like 'listen%'`,
      ),
    ]);
    if (answers[0].statusCode === 200) acknowledged = answers[0].json().acknowledged;
    expect((await stored(run)).length).toBeGreaterThanOrEqual(acknowledged);
  }
  expect(acknowledged).toBeGreaterThan(0);
  const { rows } = await database.pool.query('select last_sequence, event_count from run where id = $1', [run]);
  expect(rows[0]).toEqual({ last_sequence: (await stored(run)).length, event_count: (await stored(run)).length });
});

describe('lists', () => {
  test('of runs are paged by key: each run once, the last started first', async () => {
    const ids = Array.from({ length: 7 }, () => randomUUID());
    for (const [i, id] of ids.entries()) {
      await post('pages.example', id, line(1, 'start', '{}', `2026-11-20T10:00:00.00000${Math.floor(i / 3)}Z`));
    }
    const seen: string[] = [];
    let after = '';
    for (;;) {
      const page = await get(`/api/v1/runs?certname=pages.example&limit=2${after}`);
      seen.push(...page.runs.map((run: { id: string }) => run.id));
      if (page.next === null) break;
      after = `&after=${encodeURIComponent(page.next)}`;
    }
    expect([...seen].sort()).toEqual([...ids].sort());
    expect(seen[0]).toBe(ids[6]);
    expect((await app.inject({ url: '/api/v1/runs?after=x' })).json()).toMatchObject({ code: 'REQUEST_INVALID' });
  });

  test('of events are paged by sequence and kind', async () => {
    const run = randomUUID();
    await post(
      'pages.example',
      run,
      Array.from({ length: 5 }, (_, i) => line(i + 1, i % 2 ? 'resource' : 'log')).join(''),
    );
    const first = await get(`/api/v1/runs/${run}/events?limit=2`);
    expect([first.events.map((event: { sequence: number }) => event.sequence), first.next]).toEqual([[1, 2], 2]);
    const last = await get(`/api/v1/runs/${run}/events?limit=3&after=2`);
    expect([last.events.length, last.next]).toEqual([3, null]);
    expect((await get(`/api/v1/runs/${run}/events?kind=resource`)).events).toHaveLength(2);
    expect((await app.inject({ url: `/api/v1/runs/${randomUUID()}/events` })).statusCode).toBe(404);
  });

  test('of nodes tell status, pointers, candidate and the last compile', async () => {
    await database.pool.query(`
      insert into code_version (id, plugins, file_count, byte_count) values ('v1', 'p', 1, 1), ('v2', 'p', 1, 1);
      insert into environment (name, code_version, released_code_version) values ('shown', 'v2', 'v1');
      insert into fact_document (hash, document) values
        ('f1', '{"a":1.0,"memory":{"system":{"total":"1"}},"big":9223372036854775807}');
      insert into node (certname, environment, requested_environment, facts, volatile_facts, facts_at) values
        ('s1.example', 'shown', 'shown', 'f1', '{"memory":{"system":{"used":"2"}},"uptime":"1 day"}', now()),
        ('s2.example', 'shown', 'shown', 'f1', '{}', now()), ('s3.example', 'shown', 'shown', null, null, null);
      insert into catalog (id, certname, environment, document, document_bytes, resource_count) values
        ('c1', 's1.example', 'shown', '', 1, 1), ('c2', 's1.example', 'shown', '', 1, 1);
      insert into compile (id, certname, environment, code_version, trigger, catalog, error, started_at) values
        ('00000000-0000-0000-0000-00000000000a', 's1.example', 'shown', 'v2', 'facts changed', 'c2', null, now()),
        ('00000000-0000-0000-0000-00000000000b', 's2.example', 'shown', 'v2', 'facts changed', null,
         '{"message":"no","file":"/x.pp","line":3}', now());
      insert into compiled (certname, environment, code_version, compile, catalog) values
        ('s1.example', 'shown', 'v2', '00000000-0000-0000-0000-00000000000a', 'c2'),
        ('s2.example', 'shown', 'v2', '00000000-0000-0000-0000-00000000000b', null);
      update node set released_catalog = 'c1', released_code_version = 'v1', released_at = now() where certname = 's1.example';
    `);
    await post('s1.example', randomUUID(), line(1, 'start', '{}') + line(2, 'end', '{"status":"unchanged"}'));
    const { nodes } = await get('/api/v1/nodes?environment=shown');
    expect(nodes).toMatchObject([
      {
        certname: 's1.example',
        status: 'unchanged',
        released_catalog: 'c1',
        candidate_catalog: 'c2',
        candidate_code_version: 'v2',
        candidate_differs: true,
        compile_failed: false,
      },
      { certname: 's2.example', status: null, candidate_catalog: null, candidate_differs: false, compile_failed: true },
      { certname: 's3.example', facts_at: null, compile_failed: false },
    ]);
    expect((await get('/api/v1/nodes?environment=shown&status=never')).nodes).toHaveLength(2);
    const page = await get('/api/v1/nodes?environment=shown&limit=2');
    expect((await get(`/api/v1/nodes?environment=shown&after=${page.next}`)).nodes).toMatchObject([
      { certname: 's3.example' },
    ]);
    expect(await get('/api/v1/nodes/s2.example')).toMatchObject({
      facts: 'f1',
      last_compile: { trigger: 'facts changed', error: { message: 'no', file: '/x.pp', line: 3 }, catalog: null },
      run: null,
    });

    const facts = await app.inject({ url: '/api/v1/nodes/s1.example/facts' });
    expect(facts.body).toBe(
      '{"a":1.0,"memory":{"system":{"total":"1","used":"2"}},"big":9223372036854775807,"uptime":"1 day"}',
    );
    expect(facts.headers['content-type']).toContain('application/json');
    expect((await get('/api/v1/nodes/s3.example/facts')).code).toBe('FACTS_NOT_FOUND');
    expect((await get('/api/v1/nodes/none.example')).code).toBe('NODE_NOT_FOUND');
  });
});
