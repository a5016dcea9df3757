/** Who is let in where, over the routes of this room and one of each kind that others have. */
import { PassThrough } from 'node:stream';
import pino from 'pino';
import { Type } from 'typebox';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type App, buildApp, type Routes } from '../../src/http/app.ts';
import { type AuditEntry, auditRoutes, insertAudit } from '../../src/http/audit.ts';
import { healthRoutes } from '../../src/http/health.ts';
import { metricsRoutes, openMetrics } from '../../src/http/metrics.ts';
import { openStream } from '../../src/http/sse.ts';
import { createToken, revokeToken, Tokens } from '../../src/http/tokens.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { identifyInTests, people, proveAccess, treatment } from './access.ts';

const one: Routes = (app) => {
  const params = Type.Object({ certname: Type.String() });
  app.get('/node/v1/nodes/:certname/catalog', { config: { access: 'node' }, schema: { params } }, () => ({ ok: true }));
  app.put('/node/v1/nodes/:certname/facts', { config: { access: 'node' }, schema: { params } }, () => ({ ok: true }));
  app.get('/node/v1/nodes/:certname/wakeups', { config: { access: 'node' }, schema: { params } }, (_, reply) => {
    openStream(reply);
  });
  app.get('/content/v1/sha256/:hash', { config: { access: 'content' } }, () => ({ ok: true }));
  app.get('/api/v1/nodes/:certname', { config: { access: 'viewer' }, schema: { params } }, () => ({ ok: true }));
  app.post(
    '/api/v1/releases',
    {
      config: { access: 'deployer' },
      schema: { body: Type.Object({ environment: Type.String() }, { additionalProperties: false }) },
    },
    () => ({ ok: true }),
  );
  app.delete('/api/v1/pins/:certname', { config: { access: 'admin' }, schema: { params } }, (_, reply) =>
    reply.status(204).send(),
  );
};

let database: FreshDatabase;
let app: App;
const logged = new PassThrough();
let log = '';
beforeAll(async () => {
  database = await freshDatabase();
  logged.on('data', (chunk) => {
    log += chunk;
  });
  const metrics = openMetrics();
  app = await buildApp({
    logger: pino({ level: 'debug' }, logged),
    identify: identifyInTests(database.db),
    audit: (entry) => insertAudit(database.db, entry),
    metrics,
    rooms: [healthRoutes({ checks: {} }), metricsRoutes(metrics), auditRoutes(database), one],
  });
});
afterAll(() => app.close());

test('every route admits exactly those whom its access names', async () => {
  await proveAccess(app, database.db);
});

test('the proof sees a door that is left open, and one that is shut', async () => {
  const askers = await people(database.db);
  const open = await buildApp({
    logger: pino({ enabled: false }),
    identify: () => ({ kind: 'operator', name: 'anybody', role: 'admin' }),
    rooms: [one],
  });
  const route = { method: 'DELETE', url: '/api/v1/pins/:certname', access: 'admin' } as const;
  expect(await treatment(open, route, askers.nobody)).toBe('admitted');
  expect(await treatment(app, route, askers.viewer)).toBe(403);
  expect(await treatment(app, route, askers.nobody)).toBe(401);
  await open.close();
});

test('a route that declares no access, or is for nodes and names none, does not start', async () => {
  const start = (mount: Routes) =>
    buildApp({ logger: pino({ enabled: false }), identify: () => ({ kind: 'anonymous' }), rooms: [mount] });
  await expect(start((app) => void app.get('/open', () => 'x'))).rejects.toThrow('GET /open declares no access');
  await expect(start((app) => void app.get('/node/v1/x', { config: { access: 'node' } }, () => 'x'))).rejects.toThrow(
    'names no node',
  );
});

describe('what does not exist', () => {
  test.each([
    '/',
    '/nothing',
    '/api/v1/nodes',
    '/node/v1/nodes/%zz/catalog',
    `/node/v1/nodes/${'x'.repeat(2000)}/catalog`,
  ])('is 401 to strangers: %s', async (url) => {
    const answer = await app.inject(url);
    expect(answer.statusCode).toBe(401);
    expect(answer.json()).toMatchObject({ code: 'IDENTITY_MISSING' });
  });

  test('is 404 to anybody known, in our form', async () => {
    const { viewer } = await people(database.db);
    const answer = await app.inject({ url: '/nothing?token=secret', headers: viewer });
    expect(answer.statusCode).toBe(404);
    expect(answer.json()).toEqual({
      code: 'ROUTE_NOT_FOUND',
      message: 'There is nothing at /nothing',
      hint: expect.any(String),
    });
    expect((await app.inject({ url: '/node/v1/nodes/%zz/catalog', headers: viewer })).statusCode).toBe(400);
    // HEAD of a GET route runs no handler: it could open a stream.
    expect((await app.inject({ method: 'HEAD', url: '/api/v1/nodes/right.example', headers: viewer })).statusCode).toBe(
      404,
    );
  });
});

describe('an operator’s token', () => {
  test('is not stored, and is gone within a second after it is revoked', async () => {
    const { db } = database;
    const { token, id } = await createToken(db, { name: 'leaver', role: 'viewer', days: 1 });
    const { rows } = await database.pool.query('select * from operator_token where id = $1', [id]);
    expect(JSON.stringify(rows)).not.toContain(token.slice(3));
    const ask = async () =>
      (await app.inject({ url: '/api/v1/nodes/a', headers: { authorization: `Bearer ${token}` } })).statusCode;
    expect(await ask()).toBe(200);
    await revokeToken(db, id);
    const revokedAt = Date.now();
    await expect.poll(ask, { timeout: 10_000, interval: 20 }).toBe(401);
    expect(Date.now() - revokedAt).toBeLessThan(2500);
    await expect(revokeToken(db, id)).rejects.toMatchObject({ code: 'TOKEN_NOT_FOUND' });
  });

  test('that expires while it is remembered is refused at that moment', async () => {
    const { token } = await createToken(database.db, { name: 'brief', role: 'viewer', days: 0.5 / 86_400 });
    const tokens = new Tokens(database.db);
    expect(await tokens.identify(`Bearer ${token}`)).toMatchObject({ kind: 'operator', name: 'brief' });
    await new Promise((done) => setTimeout(done, 600));
    expect(await tokens.identify(`Bearer ${token}`)).toEqual({ kind: 'anonymous' });
  });

  test.each([
    '',
    'Bearer',
    'Bearer ',
    'Basic dXNlcjpwYXNz',
    'Bearer cb_short',
    `Bearer xx_${'x'.repeat(43)}`,
    `Bearer cb_${'x'.repeat(44)}`,
  ])('in a shape that is none is refused without a question to the database: %s', async (authorization) => {
    const tokens = new Tokens(null as never);
    expect(tokens.identify(authorization)).toEqual({ kind: 'anonymous' });
  });

  test('decides alone: a bad one is not saved by a good certificate', async () => {
    const url = '/node/v1/nodes/right.example/catalog';
    expect((await app.inject({ url, headers: { 'test-certificate': 'right.example' } })).statusCode).toBe(200);
    const both = { 'test-certificate': 'right.example', authorization: `Bearer cb_${'y'.repeat(43)}` };
    expect((await app.inject({ url, headers: both })).statusCode).toBe(401);
  });

  test('made up by the thousand takes no more than its share of the database', async () => {
    const tokens = new Tokens(database.db);
    const all = await Promise.allSettled(
      Array.from({ length: 500 }, (_, n) =>
        (async () => tokens.identify(`Bearer cb_${String(n).padStart(43, '0')}`))(),
      ),
    );
    const refused = all.filter((each) => each.status === 'rejected');
    expect(refused.length).toBe(500 - 32);
    expect(refused[0]).toMatchObject({ reason: { code: 'BUSY' } });
  });
});

describe('the audit', () => {
  const entries = async () =>
    (await database.pool.query<AuditEntry>('select operator, action, target, status from audit order by id')).rows;

  test('holds every change an operator asked for before its answer leaves, refused ones too, and nothing else', async () => {
    await database.pool.query('delete from audit');
    const { viewer, deployer, admin, nobody } = await people(database.db);
    const payload = { environment: 'production' };
    await app.inject({ method: 'POST', url: '/api/v1/releases?x=secret', headers: deployer, payload });
    expect(await entries()).toEqual([
      { operator: 'deployer', action: 'POST /api/v1/releases', target: '/api/v1/releases', status: 200 },
    ]);
    await app.inject({ method: 'POST', url: '/api/v1/releases', headers: viewer, payload });
    await app.inject({ method: 'POST', url: '/api/v1/releases', headers: deployer, payload: { wrong: 1 } });
    await app.inject({ method: 'DELETE', url: '/api/v1/pins/a.example', headers: admin });
    await app.inject({ method: 'POST', url: '/api/v1/releases', headers: nobody, payload });
    await app.inject({ url: '/api/v1/nodes/a.example', headers: viewer });
    await app.inject({
      method: 'PUT',
      url: '/node/v1/nodes/right.example/facts',
      headers: { 'test-certificate': 'right.example' },
    });
    expect((await entries()).slice(1)).toEqual([
      { operator: 'viewer', action: 'POST /api/v1/releases', target: '/api/v1/releases', status: 403 },
      { operator: 'deployer', action: 'POST /api/v1/releases', target: '/api/v1/releases', status: 400 },
      { operator: 'admin', action: 'DELETE /api/v1/pins/:certname', target: '/api/v1/pins/a.example', status: 204 },
    ]);
  });

  test('is read by admins, newest first, page by page', async () => {
    const { admin } = await people(database.db);
    const seen: number[] = [];
    let before: number | null = null;
    do {
      const answer = await app.inject({
        url: `/api/v1/audit?limit=3${before ? `&before=${before}` : ''}`,
        headers: admin,
      });
      expect(answer.statusCode).toBe(200);
      const page = answer.json() as { entries: { id: number; at: string }[]; next: number | null };
      seen.push(...page.entries.map((entry) => entry.id));
      before = page.next;
    } while (before);
    expect(seen).toEqual([...seen].sort((a, b) => b - a));
    expect(seen.length).toBe((await entries()).length);
    expect((await app.inject({ url: '/api/v1/audit?limit=0', headers: admin })).statusCode).toBe(400);
    expect((await app.inject({ url: '/api/v1/audit?who=x', headers: admin })).statusCode).toBe(400);
  });

  test('that cannot be written does not turn a change that was made into a failure', async () => {
    const deaf = await buildApp({
      logger: pino({ level: 'error' }, logged),
      identify: identifyInTests(database.db),
      audit: () => Promise.reject(new Error('disk full')),
      rooms: [one],
    });
    const { admin } = await people(database.db);
    expect((await deaf.inject({ method: 'DELETE', url: '/api/v1/pins/a.example', headers: admin })).statusCode).toBe(
      204,
    );
    expect(log).toContain('the audit log cannot be written');
    await deaf.close();
  });
});

test('a database that is away is 503 and told to come back, not the caller’s fault; a bug is 500 and tells nothing', async () => {
  const failing = async (error: Error) => {
    const one = await buildApp({
      logger: pino({ enabled: false }),
      identify: () => ({ kind: 'operator', name: 'anybody', role: 'admin' }),
      rooms: [
        (app) =>
          void app.get('/fails', { config: { access: 'viewer' } }, () => {
            throw error;
          }),
      ],
    });
    const answer = await one.inject('/fails');
    await one.close();
    return { status: answer.statusCode, ...answer.json() };
  };
  for (const code of ['ECONNRESET', 'ECONNREFUSED', '57P01', '08006']) {
    expect(await failing(Object.assign(new Error('gone'), { code }))).toMatchObject({
      status: 503,
      code: 'DATABASE_UNREACHABLE',
    });
  }
  const bug = await failing(new Error('secret in a message'));
  expect(bug).toMatchObject({ status: 500, code: 'UNEXPECTED' });
  expect(JSON.stringify(bug)).not.toContain('secret');
});

test('the log tells who asked for what and how it went, and no secret', async () => {
  const { viewer } = await people(database.db);
  log = '';
  await app.inject({ url: '/api/v1/nodes/a.example?token=hush-query', headers: viewer });
  await app.inject({ url: '/nothing?token=hush-query', headers: { ...viewer, cookie: 'hush-cookie' } });
  await app.inject({ url: '/node/v1/nodes/right.example/catalog', headers: { 'test-certificate': 'right.example' } });
  const lines = log
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(lines).toEqual([
    expect.objectContaining({
      level: 30,
      method: 'GET',
      route: '/api/v1/nodes/:certname',
      status: 200,
      identity: 'operator viewer',
      node: 'a.example',
      request: expect.any(String),
      ms: expect.any(Number),
    }),
    expect.objectContaining({ level: 30, route: '(none)', status: 404, identity: 'operator viewer' }),
    // What a fleet does all day is told only to those who ask for it.
    expect.objectContaining({
      level: 20,
      route: '/node/v1/nodes/:certname/catalog',
      status: 200,
      identity: 'node right.example',
      node: 'right.example',
    }),
  ]);
  expect(log).not.toContain('hush');
  expect(log).not.toContain(viewer.authorization!.slice(10));
});

test('metrics count requests by route, and tell nothing to nodes', async () => {
  const { viewer } = await people(database.db);
  const answer = await app.inject({ url: '/metrics', headers: viewer });
  expect(answer.headers['content-type']).toContain('text/plain');
  expect(answer.body).toMatch(
    /callboard_http_request_seconds_count\{method="GET",route="\/node\/v1\/nodes\/:certname\/catalog",status="2xx"\} [1-9]/,
  );
  expect(answer.body).toMatch(/^callboard_streams_open \d+$/m);
  expect(answer.body).toContain('nodejs_eventloop_lag_seconds');
});

test('answers for people carry headers that keep browsers from doing harm; answers for nodes do not pay for them', async () => {
  const { viewer } = await people(database.db);
  const api = await app.inject({ url: '/api/v1/nodes/a', headers: viewer });
  expect(api.headers).toMatchObject({
    'x-content-type-options': 'nosniff',
    'cache-control': 'no-store',
    'content-security-policy': expect.stringContaining("default-src 'none'"),
  });
  const node = await app.inject({
    url: '/node/v1/nodes/right.example/catalog',
    headers: { 'test-certificate': 'right.example' },
  });
  expect(node.headers).not.toHaveProperty('content-security-policy');
});
