import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { catalogRoutes } from '../../src/catalog/routes.ts';
import { catalogKeys } from '../../src/catalog/seal.ts';
import { catalogStore } from '../../src/catalog/store.ts';
import { openDiskContent } from '../../src/content/disk.ts';
import { guardContent } from '../../src/content/guard.ts';
import { buildApp } from '../../src/http/app.ts';
import type { Identity, Role } from '../../src/http/identity.ts';
import { catalogContents, servedCatalog } from '../../src/model/catalog.ts';
import type { Certname, ContentHash, EnvironmentName } from '../../src/model/ids.ts';
import { freshDatabase } from '../postgres/fresh.ts';

const { db, pool } = await freshDatabase();
const folder = await mkdtemp(join(tmpdir(), 'callboard-catalog-'));
afterAll(() => rm(folder, { recursive: true }));
const content = await openDiskContent({ directory: folder });
const keys = await catalogKeys({ text: Buffer.alloc(32, 1).toString('base64'), file: '', make: false });
const store = catalogStore({ keys, guardContent: (tx, hashes) => guardContent(tx, content, hashes) });
let identity: Identity;
const app = await buildApp({
  identify: () => identity,
  logger: pino({ level: 'silent' }),
  rooms: [catalogRoutes({ db, readCatalog: store.readCatalog, content })],
});

async function get(url: string, role: Role = 'viewer') {
  identity = { kind: 'operator', name: 'alice', role };
  const answer = await app.inject({ method: 'GET', url });
  return { status: answer.statusCode, text: answer.body, body: answer.json() };
}

const hashOf = (text: string) => createHash('sha256').update(text).digest('hex') as ContentHash;
const certname = 'web.example' as Certname;
const [V1, V2] = [hashOf('code 1'), hashOf('code 2')];

/** Stores a catalog whose one file has this text by source, compiled under a code version. */
async function compiled(text: string, codeVersion: string, name: Certname = certname): Promise<string> {
  await content.put(hashOf(text), Buffer.from(text));
  const canonical = `{"catalog_format":2,"classes":[],"edges":[],"environment":"production","metadata":{"/etc/motd":{"checksum":{"type":"sha256","value":"{sha256}${hashOf(text)}"},"content_uri":"puppet:///sha256/${hashOf(text)}","relative_path":null,"type":"file"}},"name":"${name}","resources":[{"parameters":{"big":12345678901234567890,"password":"pw ${text.trim()}","source":"puppet:///modules/m/motd"},"sensitive_parameters":["password"],"title":"/etc/motd","type":"File"}]}`;
  const { id, document } = servedCatalog(Buffer.from(canonical));
  await db.transaction().execute((tx) =>
    store.storeCatalog(tx, {
      id,
      certname: name,
      environment: 'production' as EnvironmentName,
      document,
      contents: catalogContents(document),
    }),
  );
  await setCompiled(codeVersion, id, null, name);
  return id;
}

async function setCompiled(codeVersion: string, catalog: string | null, error: object | null, name: string = certname) {
  await pool.query(
    `with made as (
       insert into compile (certname, environment, code_version, trigger, catalog, error, started_at)
       values ($1, 'production', $2, 'test', $3, $4, now()) returning id
     )
     insert into compiled (certname, environment, code_version, compile, catalog)
     select $1, 'production', $2, id, $3 from made
     on conflict (certname, environment, code_version) do update set compile = excluded.compile, catalog = excluded.catalog`,
    [name, codeVersion, catalog, error && JSON.stringify(error)],
  );
}

beforeAll(async () => {
  for (const id of [V1, V2])
    await pool.query("insert into code_version (id, plugins, file_count, byte_count) values ($1, 'p', 1, 1)", [id]);
  await pool.query("insert into environment (name, code_version) values ('production', $1)", [V2]);
  for (const name of [certname, 'db.example', 'new.example'])
    await pool.query(
      "insert into node (certname, environment, requested_environment) values ($1, 'production', 'production')",
      [name],
    );
});

test('a catalog is shown whole to an admin and without its secrets to others', async () => {
  const id = await compiled('first\n', V1);
  const admin = await get(`/api/v1/catalogs/${id}`, 'admin');
  expect(admin.text).toBe((await store.readCatalog(db, id as never)).toString());
  expect(admin.text).toContain('"password":"pw first"');
  for (const role of ['viewer', 'deployer'] as const) {
    const { text, body } = await get(`/api/v1/catalogs/${id}`, role);
    expect(text).not.toContain('pw first');
    expect(body.resources[0].parameters.password).toBe('Sensitive [value redacted]');
    expect(text).toContain('"big":12345678901234567890');
  }
  expect(await get(`/api/v1/catalogs/${'0'.repeat(64)}`)).toMatchObject({
    status: 404,
    body: { code: 'CATALOG_NOT_FOUND' },
  });
  expect(await get('/api/v1/catalogs/xyz')).toMatchObject({ status: 400, body: { code: 'HASH_INVALID' } });
});

test('P9: a node reads catalogs and differences by no door but its own', async () => {
  const id = await compiled('first\n', V1);
  identity = { kind: 'node', certname, extensions: {} };
  for (const url of [`/api/v1/catalogs/${id}`, `/api/v1/nodes/${certname}/diff`])
    expect((await app.inject({ method: 'GET', url })).statusCode).toBe(403);
});

test('the difference between released and candidate, with the texts of file sources', async () => {
  const released = await compiled('first\n', V1);
  await pool.query('update node set released_catalog = $1, released_code_version = $2 where certname = $3', [
    released,
    V1,
    certname,
  ]);
  expect(await get(`/api/v1/nodes/${certname}/diff`)).toMatchObject({
    status: 404,
    body: { code: 'CANDIDATE_MISSING' },
  });
  await setCompiled(V2, null, { message: 'Syntax error at site.pp:3' });
  expect(await get(`/api/v1/nodes/${certname}/diff`)).toMatchObject({
    status: 422,
    body: { code: 'COMPILE_FAILED', message: 'Syntax error at site.pp:3' },
  });
  const candidate = await compiled('second\n', V2);
  const { status, body, text } = await get(`/api/v1/nodes/${certname}/diff`);
  expect(status).toBe(200);
  expect(body).toMatchObject({
    certname,
    environment: 'production',
    from: { catalog: released, code_version: V1 },
    to: { catalog: candidate, code_version: V2 },
    identical: false,
    counts: { added: 0, removed: 0, changed: 1, position_only: 0 },
  });
  expect(body.resources[0].contents).toEqual([
    {
      path: '/etc/motd',
      change: 'changed',
      from: { kind: 'text', size: 6, hash: hashOf('first\n') },
      to: { kind: 'text', size: 7, hash: hashOf('second\n') },
      diff: '@@ -1,1 +1,1 @@\n-first\n+second\n',
    },
  ]);
  expect(body.resources[0].parameters).toEqual([{ name: 'password', change: 'changed', sensitive: true }]);
  expect(text).not.toMatch(/pw (first|second)/);

  const back = await get(`/api/v1/nodes/${certname}/diff?from=${candidate.slice(0, 10)}&to=released`);
  expect(back.body.resources[0].contents[0].diff).toBe('@@ -1,1 +1,1 @@\n-second\n+first\n');
  const all = await get(`/api/v1/nodes/${certname}/diff?from=none`);
  expect(all.text).toContain('"to":12345678901234567890');
  expect(all.body).toMatchObject({ from: null, counts: { added: 1 } });
  expect((await get(`/api/v1/nodes/${certname}/diff?from=candidate`)).body.identical).toBe(true);
});

test('a node is compared with its own catalogs only', async () => {
  const others = await compiled('of db\n', V1, 'db.example' as Certname);
  const foreign = await get(`/api/v1/nodes/${certname}/diff?from=${others}`);
  expect(foreign).toMatchObject({ status: 404, body: { code: 'CATALOG_NOT_FOUND' } });
  expect((await get('/api/v1/nodes/nobody.example/diff')).body.code).toBe('NODE_NOT_FOUND');
  expect((await get('/api/v1/nodes/new.example/diff?to=released')).body.code).toBe('CATALOG_NOT_RELEASED');
  expect((await get(`/api/v1/nodes/${certname}/diff?from=../x`)).status).toBe(400);
});
