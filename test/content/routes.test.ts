import { mkdtemp, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type DiskContent, openDiskContent } from '../../src/content/disk.ts';
import { rememberGrants } from '../../src/content/grants.ts';
import { parseRange } from '../../src/content/range.ts';
import { contentRoutes } from '../../src/content/routes.ts';
import { type App, buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import type { Certname } from '../../src/model/ids.ts';
import { bytesOf, hashOf, streamOf } from '../contract/content.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';

const DEPLOYER: Identity = { kind: 'operator', name: 'dora', role: 'deployer' };
const node = (certname: string): Identity => ({ kind: 'node', certname: certname as Certname, extensions: {} });

let database: FreshDatabase;
let directory: string;
let store: DiskContent;
let app: App;
/** Who the next requests come from: inject() has no TLS connection to take it from. */
let identity: Identity = DEPLOYER;

beforeAll(async () => {
  database = await freshDatabase();
  directory = await mkdtemp(join(tmpdir(), 'callboard-content-'));
  store = await openDiskContent({ directory, fsync: false });
  const grants = rememberGrants(database.db);
  app = await buildApp({
    logger: pino({ enabled: false }),
    identify: () => identity,
    rooms: [contentRoutes({ store, mayRead: grants.mayRead })],
  });
});
afterAll(async () => {
  await app.close();
  await rm(directory, { recursive: true });
});

const small = bytesOf(1000);
const large = bytesOf(900_000);
const path = (bytes: Buffer) => `/content/v1/sha256/${hashOf(bytes)}`;

async function put(bytes: Buffer, headers: Record<string, string> = {}) {
  identity = DEPLOYER;
  return app.inject({
    method: 'PUT',
    url: path(bytes),
    payload: streamOf(bytes),
    headers: { 'transfer-encoding': 'chunked', ...headers },
  });
}

async function get(bytes: Buffer, headers: Record<string, string> = {}) {
  return app.inject({ method: 'GET', url: path(bytes), headers });
}

describe('for a deployer', () => {
  test('puts, tells, and gives back content of any size and content type', async () => {
    for (const bytes of [small, large, Buffer.alloc(0)]) {
      for (const [headers, status] of [
        [{ 'content-type': 'application/json' }, 201],
        [{ 'content-type': 'text/x-anything; charset=latin1' }, 200],
      ] as const) {
        const stored = await put(bytes, headers);
        expect(stored.statusCode).toBe(status);
        expect(stored.json()).toEqual({ hash: hashOf(bytes), size: bytes.length, existed: status === 200 });
      }
      const answer = await get(bytes);
      expect(answer.statusCode).toBe(200);
      expect(answer.rawPayload.equals(bytes)).toBe(true);
      expect(answer.headers).toMatchObject({
        etag: `"${hashOf(bytes)}"`,
        'cache-control': 'private, max-age=31536000, immutable',
        'content-length': String(bytes.length),
        'accept-ranges': 'bytes',
      });
      const head = await app.inject({ method: 'HEAD', url: path(bytes) });
      expect(head.statusCode).toBe(200);
      expect(head.headers['content-length']).toBe(String(bytes.length));
      expect(head.rawPayload.length).toBe(0);
    }
  });

  test('answers 304 to whoever has it, but only for content that is there', async () => {
    await put(large);
    for (const tag of [`"${hashOf(large)}"`, `W/"${hashOf(large)}"`, '*', `"x", "${hashOf(large)}"`]) {
      const answer = await get(large, { 'if-none-match': tag });
      expect([answer.statusCode, answer.rawPayload.length]).toEqual([304, 0]);
    }
    expect((await get(large, { 'if-none-match': '"other"' })).statusCode).toBe(200);
    const absent = bytesOf(10, 99);
    expect((await get(absent, { 'if-none-match': `"${hashOf(absent)}"` })).statusCode).toBe(404);
  });

  test('gives one range with 206, ignores what is not one, and answers 416 outside', async () => {
    for (const bytes of [small, large]) {
      await put(bytes);
      for (const [range, start, end] of [
        ['bytes=0-0', 0, 1],
        ['bytes=10-19', 10, 20],
        ['bytes=500-', 500, bytes.length],
        ['bytes=-7', bytes.length - 7, bytes.length],
        ['bytes=900-99999999', 900, bytes.length],
      ] as const) {
        const answer = await get(bytes, { range });
        expect(answer.statusCode).toBe(206);
        expect(answer.headers['content-range']).toBe(`bytes ${start}-${end - 1}/${bytes.length}`);
        expect(answer.headers['content-length']).toBe(String(end - start));
        expect(answer.rawPayload.equals(bytes.subarray(start, end))).toBe(true);
      }
      for (const range of ['bytes=0-1,5-6', 'lines=1-2', 'bytes=5-2', 'bytes=-']) {
        const answer = await get(bytes, { range });
        expect([range, answer.statusCode, answer.rawPayload.length]).toEqual([range, 200, bytes.length]);
      }
      for (const range of [`bytes=${bytes.length}-`, 'bytes=-0']) {
        const answer = await get(bytes, { range });
        expect(answer.statusCode).toBe(416);
        expect(answer.headers['content-range']).toBe(`bytes */${bytes.length}`);
        expect(answer.json().code).toBe('RANGE_INVALID');
      }
    }
  });

  test('honours If-Range for its own tag only', async () => {
    await put(large);
    const range = 'bytes=1-2';
    expect((await get(large, { range, 'if-range': `"${hashOf(large)}"` })).statusCode).toBe(206);
    expect((await get(large, { range, 'if-range': '"other"' })).statusCode).toBe(200);
    expect((await get(large, { range, 'if-range': `W/"${hashOf(large)}"` })).statusCode).toBe(200);
  });

  test('refuses wrong bytes, compressed bytes, too many bytes, and a name that is no hash', async () => {
    const wrong = await app.inject({ method: 'PUT', url: path(bytesOf(5, 3)), payload: 'wrong' });
    expect([wrong.statusCode, wrong.json().code]).toEqual([422, 'CONTENT_MISMATCH']);
    const zipped = await put(bytesOf(5, 3), { 'content-encoding': 'gzip' });
    expect([zipped.statusCode, zipped.json().code]).toEqual([415, 'ENCODING_UNSUPPORTED']);
    const huge = await put(bytesOf(5, 3), { 'content-length': String(5 * 2 ** 30) });
    expect([huge.statusCode, huge.json().code]).toEqual([413, 'BODY_TOO_LARGE']);
    for (const name of ['abc', hashOf(small).toUpperCase(), `${hashOf(small)}0`, '..%2f..%2fetc%2fpasswd']) {
      const answer = await app.inject({ method: 'GET', url: `/content/v1/sha256/${name}` });
      expect([answer.statusCode, answer.json().code]).toEqual([400, 'HASH_INVALID']);
    }
    expect((await get(bytesOf(5, 3))).statusCode).toBe(404);
  });

  test('answers damaged content with 500 and never with bytes, until it is put again', async () => {
    for (const bytes of [bytesOf(2000, 7), bytesOf(2_000_000, 7)]) {
      await put(bytes);
      expect((await get(bytes)).statusCode).toBe(200);
      await new Promise((over) => setTimeout(over, 25)); // it may be given from memory for 20 ms
      await truncate(join(directory, hashOf(bytes).slice(0, 2), hashOf(bytes)), 1500);
      const answer = await get(bytes);
      expect([answer.statusCode, answer.json().code]).toEqual([500, 'CONTENT_CORRUPT']);
      expect(answer.headers['cache-control']).toBeUndefined();
      expect((await get(bytes)).statusCode).toBe(404);
      expect((await put(bytes)).statusCode).toBe(201);
      expect((await get(bytes)).rawPayload.equals(bytes)).toBe(true);
    }
  });
});

describe('for others', () => {
  const catalogFile = Buffer.from('a file of web’s catalog');
  const oldFile = Buffer.from('a file of the catalog that web ran before');
  const pluginFile = Buffer.from('a plugin of the environment');
  const strangePlugin = Buffer.from('a plugin of another environment');
  const candidateFile = Buffer.from('a file of a catalog that is not released');

  beforeAll(async () => {
    for (const bytes of [catalogFile, oldFile, pluginFile, strangePlugin, candidateFile]) await put(bytes);
    const { pool } = database;
    await pool.query(`
      insert into code_version (id, plugins, file_count, byte_count) values
        ('code1', 'plugins1', 1, 1), ('code2', 'plugins2', 1, 1);
      insert into environment (name, code_version) values ('production', 'code1'), ('other', 'code2');
      insert into node (certname, environment, requested_environment) values
        ('web', 'production', 'production'), ('db', 'other', 'other');
      insert into catalog (id, certname, environment, document, document_bytes, resource_count) values
        ('now', 'web', 'production', '', 0, 0), ('before', 'web', 'production', '', 0, 0),
        ('candidate', 'web', 'production', '', 0, 0);
      insert into pointer_move (certname, cause, catalog, code_version) values
        ('web', 'join', 'before', 'code1'), ('web', 'facts', 'now', 'code1');
      update node set released_catalog = 'now', released_code_version = 'code1' where certname = 'web'`);
    for (const [holder, bytes] of [
      ['now', catalogFile],
      ['before', oldFile],
      ['candidate', candidateFile],
      ['plugins1', pluginFile],
      ['plugins2', strangePlugin],
    ] as const) {
      await pool.query('insert into content_reference values ($1, $2)', [holder, hashOf(bytes)]);
    }
  });

  test('a node reads what its released catalogs, now and before, and its plugins name, and nothing else', async () => {
    identity = node('web');
    for (const bytes of [catalogFile, oldFile, pluginFile, catalogFile]) {
      expect((await get(bytes)).rawPayload.equals(bytes)).toBe(true);
      expect((await app.inject({ method: 'HEAD', url: path(bytes) })).statusCode).toBe(200);
    }
    for (const bytes of [candidateFile, strangePlugin, bytesOf(3, 55)]) {
      for (const method of ['GET', 'HEAD'] as const) {
        const answer = await app.inject({ method, url: path(bytes), headers: { 'if-none-match': '*' } });
        expect(answer.statusCode).toBe(403);
      }
    }
  });

  test('another node reads none of it', async () => {
    identity = node('db');
    for (const bytes of [catalogFile, oldFile, pluginFile, candidateFile]) {
      const answer = await get(bytes);
      expect([answer.statusCode, answer.json().code]).toEqual([403, 'ACCESS_DENIED']);
    }
    expect((await get(strangePlugin)).statusCode).toBe(200);
  });

  test('a node that has no facts yet reads the plugins it needs for them, and no catalog’s file', async () => {
    identity = node('newcomer');
    expect((await get(pluginFile)).statusCode).toBe(200);
    expect((await get(catalogFile)).statusCode).toBe(403);
  });

  test('a release lets a node read at once what it was refused before', async () => {
    identity = node('web');
    expect((await get(candidateFile)).statusCode).toBe(403);
    await database.pool.query(
      `update node set released_catalog = 'candidate' where certname = 'web' returning certname`,
    );
    expect((await get(candidateFile)).statusCode).toBe(200);
    await database.pool.query(`update node set released_catalog = 'now' where certname = 'web'`);
  });

  test('a viewer reads no content, and only deployers put', async () => {
    for (const other of [{ kind: 'operator', name: 'vera', role: 'viewer' }, node('web')] as const) {
      identity = other;
      const stored = await app.inject({ method: 'PUT', url: path(small), payload: small });
      expect(stored.statusCode).toBe(403);
    }
    identity = { kind: 'operator', name: 'vera', role: 'viewer' };
    expect((await get(catalogFile)).statusCode).toBe(403);
    identity = { kind: 'anonymous' };
    expect((await get(catalogFile)).statusCode).toBe(401);
  });
});

test('reads a Range header as RFC 9110 says', () => {
  expect(parseRange(undefined, 10)).toBeUndefined();
  expect(parseRange('bytes=0-', 10)).toEqual({ start: 0, length: 10 });
  expect(parseRange('BYTES= 2-3 ', 10)).toEqual({ start: 2, length: 2 });
  expect(parseRange('bytes=-20', 10)).toEqual({ start: 0, length: 10 });
  expect(parseRange('bytes=0-', 0)).toBe('outside');
  expect(parseRange('bytes=-5', 0)).toBe('outside');
  expect(parseRange('bytes=9999999999999999-', 10)).toBeUndefined();
});
