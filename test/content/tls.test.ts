/** What only a real connection shows: streams that break off, bodies without a type, and what is left open afterwards. */
import { mkdtemp, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { request } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import pino from 'pino';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Authority, makeAuthority } from '../../bench/authority.ts';
import { type DiskContent, openDiskContent } from '../../src/content/disk.ts';
import { contentRoutes } from '../../src/content/routes.ts';
import { type App, buildApp } from '../../src/http/app.ts';
import { bytesOf, hashOf, streamOf } from '../contract/content.ts';

let directory: string;
let authority: Authority;
let store: DiskContent;
let app: App;
let port: number;
let tls: { ca: Buffer; cert: Buffer; key: Buffer };

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'callboard-content-tls-'));
  authority = await makeAuthority(join(directory, 'ca'), 'deployer');
  const read = (path: string) => readFile(path);
  const { files } = authority;
  tls = { ca: await read(files.ca), cert: await read(files.clientCert), key: await read(files.clientKey) };
  store = await openDiskContent({ directory: join(directory, 'content'), fsync: false });
  app = await buildApp({
    logger: pino({ enabled: false }),
    identify: () => ({ kind: 'operator', name: 'dora', role: 'deployer' }),
    tls: {
      ca: await read(files.ca),
      cert: await read(files.serverCert),
      key: await read(files.serverKey),
      requestCert: true,
    },
    rooms: [contentRoutes({ store, mayRead: () => false })],
  });
  await app.listen({ host: '127.0.0.1', port: 0 });
  port = (app.server.address() as AddressInfo).port;
});
afterAll(async () => {
  await app.close();
  await rm(directory, { recursive: true });
});

function ask(method: string, hash: string, headers: Record<string, string> = {}) {
  return request({ ...tls, host: 'localhost', port, method, path: `/content/v1/sha256/${hash}`, headers });
}

/** Files of the store that this process has open. */
async function openFiles(): Promise<string[]> {
  const links = await Promise.all(
    (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')),
  );
  return links.filter((link) => link.startsWith(join(directory, 'content')));
}

test('takes a chunked body without a content type, and gives a large one back whole', async () => {
  const bytes = bytesOf(5_000_000);
  const put = ask('PUT', hashOf(bytes));
  const stored = new Promise<number>((answered, failed) => {
    put.on('response', (response) => {
      response.resume();
      answered(response.statusCode!);
    });
    put.on('error', failed);
  });
  streamOf(bytes, 100_000).pipe(put);
  expect(await stored).toBe(201);
  const got = await new Promise<Buffer>((answered, failed) => {
    ask('GET', hashOf(bytes))
      .on('response', (response) => answered(buffer(response)))
      .on('error', failed)
      .end();
  });
  expect(got.equals(bytes)).toBe(true);
  expect(await openFiles()).toEqual([]);
});

test('keeps nothing of an upload that breaks off, and closes what it had open', async () => {
  const bytes = bytesOf(3_000_000, 5);
  const put = ask('PUT', hashOf(bytes), { 'content-length': String(bytes.length) });
  put.on('error', () => {});
  put.write(bytes.subarray(0, 1_000_000));
  await vi.waitFor(async () => expect(await openFiles()).toHaveLength(1), 5000);
  put.destroy();
  await vi.waitFor(async () => expect(await openFiles()).toEqual([]), 5000);
  expect(await readdir(join(directory, 'content/incoming'))).toEqual([]);
  expect(await store.missing([hashOf(bytes)])).toEqual([hashOf(bytes)]);
});

test('closes the file of a download that the receiver gives up', async () => {
  const bytes = bytesOf(30_000_000, 6);
  await store.put(hashOf(bytes), bytes);
  await new Promise<void>((over) => {
    const get = ask('GET', hashOf(bytes));
    get.on('error', () => {});
    get.on('response', (response) => {
      response.once('data', () => {
        get.destroy();
        over();
      });
    });
    get.end();
  });
  await vi.waitFor(async () => expect(await openFiles()).toEqual([]), 5000);
});
