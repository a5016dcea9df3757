/** Streams of events over real sockets: they begin at once, live, end with the app, and do not wait for slow readers. */
import { Agent, get, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import pino from 'pino';
import { afterEach, expect, test, vi } from 'vitest';
import { type App, buildApp } from '../../src/http/app.ts';
import { type EventStream, openStream } from '../../src/http/sse.ts';

let app: App;
afterEach(() => app.close());

async function start(streamsMax = 10): Promise<{ streams: EventStream[]; open: () => Promise<IncomingMessage> }> {
  const streams: EventStream[] = [];
  app = await buildApp({
    logger: pino({ enabled: false }),
    identify: () => ({ kind: 'anonymous' }),
    streamsMax,
    stopTimeMs: 5000,
    rooms: [
      (app) => {
        app.get('/stream', { config: { access: 'public' } }, (_, reply) => {
          reply.header('callboard-x', 'y');
          streams.push(openStream(reply));
        });
        app.get(
          '/slow',
          { config: { access: 'public' } },
          () => new Promise((done) => setTimeout(() => done('late'), 300)),
        );
      },
    ],
  });
  await app.listen({ port: 0, host: '127.0.0.1' });
  const { port } = app.server.address() as AddressInfo;
  const open = () =>
    new Promise<IncomingMessage>((resolve, reject) =>
      get({ port, path: '/stream', agent: false }, resolve).on('error', reject),
    );
  return { streams, open };
}

function follow(response: IncomingMessage): { text: string; ended: boolean } {
  const seen = { text: '', ended: false };
  response.setEncoding('utf8').on('data', (chunk) => {
    seen.text += chunk;
  });
  response.on('close', () => {
    seen.ended = true;
  });
  response.on('error', () => {});
  return seen;
}

test('begins at once, and sends events with their data in one or many lines', async () => {
  const { streams, open } = await start();
  const response = await open();
  expect(response.headers).toMatchObject({ 'content-type': 'text/event-stream; charset=utf-8', 'callboard-x': 'y' });
  const seen = follow(response);
  expect(streams[0]!.send('catalog', { a: 'x\ny' })).toBe(true);
  streams[0]!.send('log', 'one\ntwo\r\nthree', '7');
  await vi.waitFor(() =>
    expect(seen.text).toBe(
      ':\n\nevent: catalog\ndata: {"a":"x\\ny"}\n\nid: 7\nevent: log\ndata: one\ndata: two\ndata: three\n\n',
    ),
  );
  response.destroy();
});

test('tells whoever holds it that its reader left, once, and takes nothing more', async () => {
  const { streams, open } = await start();
  const response = await open();
  const closed = vi.fn();
  streams[0]!.onClose(closed);
  response.destroy();
  await vi.waitFor(() => expect(closed).toHaveBeenCalledTimes(1));
  expect(app.streams.count).toBe(0);
  expect(streams[0]!.send('catalog', {})).toBe(false);
  streams[0]!.close();
  expect(closed).toHaveBeenCalledTimes(1);
  const late = vi.fn();
  streams[0]!.onClose(late);
  expect(late).toHaveBeenCalledTimes(1);
});

test('cuts off a reader that does not read, after a bounded buffer', async () => {
  const { streams, open } = await start();
  const response = await open();
  response.pause();
  const data = 'x'.repeat(100_000);
  let sent = 0;
  while (streams[0]!.send('log', data) && sent < 1000) {
    sent++;
    await new Promise((done) => setImmediate(done));
  }
  expect(streams[0]!.closed).toBe(true);
  // Some of it waits in the kernel's buffers, and the most of the rest is our limit of 1 MiB.
  expect(sent * data.length).toBeLessThan(30_000_000);
  expect(app.streams.count).toBe(0);
});

test('refuses more than its number, and has room again when one left', async () => {
  const { streams, open } = await start(2);
  const first = await open();
  await open();
  expect((await open()).statusCode).toBe(503);
  expect(streams).toHaveLength(2);
  first.destroy();
  await vi.waitFor(async () => expect((await open()).statusCode).toBe(200));
});

test('each stream hears a heartbeat within 15 s, from one timer', async () => {
  const { open } = await start();
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  const seen = [follow(await open()), follow(await open()), follow(await open())];
  const timers = vi.getTimerCount();
  vi.advanceTimersByTime(15_000);
  vi.useRealTimers();
  expect(timers).toBe(1);
  for (const each of seen) await vi.waitFor(() => expect(each.text).toBe(':\n\n:\n\n'));
});

test('closing ends streams, lets requests finish, and refuses new ones', async () => {
  const { open } = await start();
  const { port } = app.server.address() as AddressInfo;
  const seen = follow(await open());
  const agent = new Agent({ keepAlive: true });
  const slow = new Promise<string>((resolve) =>
    get({ port, path: '/slow', agent }, (response) => {
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () => resolve(text));
    }),
  );
  await new Promise((done) => setTimeout(done, 100));
  const began = performance.now();
  await app.close();
  expect(await slow).toBe('late');
  expect(performance.now() - began).toBeLessThan(4500);
  await vi.waitFor(() => expect(seen.ended).toBe(true));
  await expect(open()).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  agent.destroy();
});

test('closing ends after its time what does not end by itself', async () => {
  app = await buildApp({
    logger: pino({ enabled: false }),
    identify: () => ({ kind: 'anonymous' }),
    stopTimeMs: 200,
    rooms: [(app) => void app.get('/never', { config: { access: 'public' } }, () => new Promise(() => {}))],
  });
  await app.listen({ port: 0, host: '127.0.0.1' });
  const { port } = app.server.address() as AddressInfo;
  const broken = new Promise((resolve) => get({ port, path: '/never' }).on('error', resolve));
  await new Promise((done) => setTimeout(done, 100));
  await app.close();
  expect(await broken).toMatchObject({ code: 'ECONNRESET' });
});
