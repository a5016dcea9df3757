/** The watch over a real socket, fed by real notifications of a real PostgreSQL. */
import { randomUUID } from 'node:crypto';
import { connect } from 'node:net';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type App, buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import { parseCertname } from '../../src/model/ids.ts';
import { type Listener, notify, startListener } from '../../src/postgres/listen.ts';
import { reportRoutes } from '../../src/report/routes.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { until } from '../postgres/until.ts';

const logger = pino({ level: 'silent' });
let database: FreshDatabase;
let listener: Listener;
let app: App;
let address: string;

beforeAll(async () => {
  database = await freshDatabase();
  listener = await startListener(database.url, logger);
  app = await buildApp({
    logger,
    identify: (request): Identity => {
      const name = request.headers['x-test-node'];
      if (typeof name === 'string') return { kind: 'node', certname: parseCertname(name), extensions: {} };
      return { kind: 'operator', name: 'viewer', role: 'viewer' };
    },
    rooms: [reportRoutes({ db: database.db, listener, logger })],
  });
  address = await app.listen({ port: 0, host: '127.0.0.1' });
});
afterAll(async () => {
  await app.close();
  await listener.close();
});

interface Seen {
  id: string | undefined;
  event: string;
  // biome-ignore lint/suspicious/noExplicitAny: whatever the stream says
  data: any;
  at: number;
}

const stops: (() => void)[] = [];
afterEach(() => {
  for (const stop of stops.splice(0)) stop();
});

/** A watcher's events as they come. */
async function watch(query = ''): Promise<{ seen: Seen[]; ended: Promise<void>; stop: () => void }> {
  const abort = new AbortController();
  stops.push(() => abort.abort());
  const response = await fetch(`${address}/api/v1/watch${query}`, { signal: abort.signal });
  expect(response.headers.get('content-type')).toContain('text/event-stream');
  const seen: Seen[] = [];
  const read = async (): Promise<void> => {
    let text = '';
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const fields = Object.fromEntries(
          text
            .slice(0, end)
            .split('\n')
            .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 2)]),
        );
        text = text.slice(end + 2);
        if (fields.event) {
          seen.push({ id: fields.id, event: fields.event, data: JSON.parse(fields.data ?? ''), at: performance.now() });
        }
      }
    }
  };
  return { seen, ended: read().catch(() => {}), stop: () => abort.abort() };
}

const line = (sequence: number, data = '{}') =>
  `{"sequence":${sequence},"at":"2026-11-24T10:00:00Z","kind":"resource","data":${data}}\n`;

async function post(certname: string, run: string, body: string): Promise<number> {
  const response = await fetch(`${address}/node/v1/nodes/${certname}/runs/${run}/events`, {
    method: 'POST',
    headers: { 'x-test-node': certname, 'content-type': 'application/x-ndjson' },
    body,
  });
  return ((await response.json()) as { acknowledged: number }).acknowledged;
}

test('events of the fleet come as they are stored, each once, in order, filtered as asked', async () => {
  const [mine, other] = [randomUUID(), randomUUID()];
  const all = await watch();
  const ofNode = await watch('?certname=a.example');
  const ofRun = await watch(`?run=${other}`);
  await post('a.example', mine, line(1, '{"title":"x",\r"n":9223372036854775807}') + line(2));
  await post('b.example', other, line(1));
  await post('b.example', other, line(2) + line(3));
  const ids = (watcher: { seen: Seen[] }) => watcher.seen.map((event) => event.id);
  await until(() => all.seen.length === 5, 20_000);
  await until(() => ofRun.seen.length === 3, 20_000);
  expect(ids(ofNode)).toEqual([`${mine}:1`, `${mine}:2`]);
  expect(ids(ofRun)).toEqual([`${other}:1`, `${other}:2`, `${other}:3`]);
  expect(ids(all).sort()).toEqual([...ids(ofNode), ...ids(ofRun)].sort());
  expect(ofNode.seen[0]).toMatchObject({
    event: 'run_event',
    data: { certname: 'a.example', run: mine, sequence: 1, kind: 'resource', data: { title: 'x' } },
  });
});

// The promise is 250 ms for 99 of 100 on a machine that is not overloaded: bench/report measures that. Here, whatever the load,
// most events must come by notification, which takes milliseconds, and not by anything that waits or polls.
test('events posted one by one are seen within 250 ms', async () => {
  const run = randomUUID();
  const watcher = await watch(`?run=${run}`);
  const sent: number[] = [];
  for (let sequence = 1; sequence <= 150; sequence += 1) {
    sent.push(performance.now());
    await post('a.example', run, line(sequence));
  }
  await until(() => watcher.seen.length === 150, 20_000);
  const delays = watcher.seen.map((event, i) => event.at - sent[i]!).sort((a, b) => a - b);
  expect(delays[75]!).toBeLessThan(250);
});

test('a thousand events at once reach a watcher whole and in order', async () => {
  const run = randomUUID();
  const watcher = await watch(`?run=${run}`);
  await post('a.example', run, Array.from({ length: 1200 }, (_, i) => line(i + 1)).join(''));
  await until(() => watcher.seen.length === 1200, 20_000);
  expect(watcher.seen.map((event) => event.data.sequence)).toEqual(Array.from({ length: 1200 }, (_, i) => i + 1));
});

test('compiles, deploys and releases are told; a watcher of one node hears its compiles only', async () => {
  const all = await watch();
  const ofNode = await watch('?certname=b.example');
  const [compile, deploy, release] = [randomUUID(), randomUUID(), randomUUID()];
  await database.pool.query(`
    insert into code_version (id, plugins, file_count, byte_count) values ('v', 'p', 1, 1);
    insert into environment (name) values ('production');
    insert into node (certname, environment, requested_environment) values ('c.example', 'production', 'production');
    insert into compile (id, certname, environment, code_version, trigger, error, started_at)
      values ('${compile}', 'c.example', 'production', 'v', 'facts changed', '{"message":"no"}', now());
    insert into deploy (id, environment, repo, ref, requested_by) values ('${deploy}', 'production', '/r', 'main', 'op');
    insert into release (id, kind, environment, requested_by) values ('${release}', 'release', 'production', 'op');
  `);
  for (const [kind, id] of [
    ['compile', compile],
    ['deploy', deploy],
    ['release', release],
    ['deploy', randomUUID()],
  ] as const) {
    await notify(database.db, 'callboard_progress', { kind, id });
  }
  await until(() => all.seen.length === 3, 20_000);
  expect(all.seen.map((event) => [event.event, event.data.id]).sort()).toEqual([
    ['compile', compile],
    ['deploy', deploy],
    ['release', release],
  ]);
  expect(all.seen.find((event) => event.event === 'compile')!.data).toMatchObject({
    certname: 'c.example',
    error: { message: 'no' },
  });
  expect(ofNode.seen).toEqual([]);
});

test('events stored while the listening connection was lost arrive when it is back', async () => {
  const run = randomUUID();
  const watcher = await watch(`?run=${run}`);
  await post('a.example', run, line(1));
  await until(() => watcher.seen.length === 1, 20_000);
  await database.pool.query(
    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'callboard listener' and datname = current_database()",
  );
  await post('a.example', run, line(2) + line(3));
  await until(() => new Set(watcher.seen.map((event) => event.data.sequence)).size === 3, 20_000);
});

describe('a watcher', () => {
  test('that does not read is cut off, and the others go on', async () => {
    const { hostname, port } = new URL(address);
    const run = randomUUID();
    const stuck = connect(Number(port), hostname);
    stuck.write(`GET /api/v1/watch?run=${run} HTTP/1.1\r\nhost: x\r\n\r\n`);
    const closed = new Promise<void>((resolve) => stuck.on('close', () => resolve()));
    stuck.on('error', () => {});
    await new Promise<void>((resolve) => stuck.once('data', () => resolve()));
    stuck.pause();
    const watcher = await watch(`?run=${run}`);
    // More than the kernel's buffers on both sides of the socket and ours together.
    const filler = JSON.stringify({ message: 'x'.repeat(500_000) });
    let sequence = 0;
    for (; sequence < 60 && app.streams.count === 2; sequence += 1)
      await post('a.example', run, line(sequence + 1, filler));
    await until(() => watcher.seen.length === sequence, 20_000);
    // Of the two, only the reader is left.
    await until(() => app.streams.count === 1, 20_000);
    stuck.resume();
    await closed;
  });

  test('that leaves is forgotten', async () => {
    await until(() => app.streams.count === 0, 20_000);
    const watcher = await watch();
    expect(app.streams.count).toBe(1);
    watcher.stop();
    await watcher.ended;
    await until(() => app.streams.count === 0, 20_000);
  });
});
