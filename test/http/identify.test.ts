/** Client certificates over real TLS: who gets in, who does not, and how soon a revocation or an expiry works. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { Agent, request as httpsRequest, type RequestOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import { promisify } from 'node:util';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type App, buildApp } from '../../src/http/app.ts';
import { type Ca, type Issued, openCa } from '../../src/http/ca.ts';
import { healthRoutes } from '../../src/http/health.ts';
import { identifyRequests } from '../../src/http/identify.ts';
import { createToken, Tokens } from '../../src/http/tokens.ts';
import { freshDatabase } from '../postgres/fresh.ts';

const run = promisify(execFile);

// Other programs are started here, and a machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let state: string;
let ca: Ca;
let app: App;
let port: number;
let token: string;
let right: Issued;
let wrong: Issued;

beforeAll(async () => {
  const { db } = await freshDatabase();
  state = await mkdtemp(join(tmpdir(), 'callboard-identify-'));
  ca = await openCa(state);
  [right, wrong] = (await ca.issueAll(['right.example', 'wrong.example'])) as [Issued, Issued];
  token = (await createToken(db, { name: 'vera', role: 'viewer', days: 1 })).token;
  app = await buildApp({
    logger: pino({ enabled: false }),
    identify: identifyRequests({ ca, tokens: new Tokens(db) }),
    tls: await ca.tlsOptions(),
    rooms: [
      healthRoutes({ checks: {} }),
      (app) => {
        app.get('/node/v1/nodes/:certname/catalog', { config: { access: 'node' } }, (request) => request.identity);
        app.get('/api/v1/nodes', { config: { access: 'viewer' } }, (request) => request.identity);
        app.put('/node/v1/nodes/:certname/facts', { config: { access: 'node' } }, () => ({ ok: true }));
      },
    ],
  });
  await app.listen({ port: 0, host: '127.0.0.1' });
  port = (app.server.address() as AddressInfo).port;
  ca.maintain({ server: app.server as never });
});
afterAll(async () => {
  await app.close();
  ca.close();
  await rm(state, { recursive: true });
});

const CATALOG = '/node/v1/nodes/right.example/catalog';

interface Answer {
  status: number;
  body: { code?: string; kind?: string; certname?: string; extensions?: object };
}

function ask(path: string, options: RequestOptions = {}, body?: Buffer): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpsRequest(
      { host: 'localhost', port, path, ca: ca.certificatePem, agent: false, ...options },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk) => {
          text += chunk;
        });
        response.on('end', () => resolve({ status: response.statusCode!, body: text ? JSON.parse(text) : {} }));
      },
    );
    request.on('error', reject);
    request.end(body);
  });
}

const as = (issued: Pick<Issued, 'certificatePem' | 'privateKeyPem'>): RequestOptions => ({
  cert: issued.certificatePem,
  key: issued.privateKeyPem,
});
const bearer = (value: string): RequestOptions => ({ headers: { authorization: `Bearer ${value}` } });

test.each<[string, () => RequestOptions | Promise<RequestOptions>, number, number]>([
  ['nobody', () => ({}), 401, 401],
  ['the right node', () => as(right), 200, 403],
  ['the wrong node', () => as(wrong), 403, 403],
  ['an operator', () => bearer(token), 403, 200],
  ['an operator on a node', () => ({ ...as(right), ...bearer(token) }), 403, 200],
  ['a made-up token', () => ({ ...as(right), ...bearer(`cb_${'x'.repeat(43)}`) }), 401, 401],
  ['a certificate of another CA', async () => as(await (await strangeCa()).issue('right.example')), 401, 401],
  ['an expired certificate', async () => as(await ca.issue('right.example', { days: -1 })), 401, 401],
  ['a revoked certificate', () => revokedCertificate(), 401, 401],
  ['a certificate signed by itself', () => selfSigned(), 401, 401],
  ['a certificate signed by a node', () => signedByNode(), 401, 401],
])('%s', async (_, options, catalog, list) => {
  const asker = await options();
  expect((await ask(CATALOG, asker)).status).toBe(catalog);
  expect((await ask('/api/v1/nodes', asker)).status).toBe(list);
  expect((await ask('/healthz', asker)).status).toBe(200);
  // With an identity one learns that there is nothing; without, nothing.
  expect((await ask('/nothing', asker)).status).toBe(catalog === 401 ? 401 : 404);
});

async function strangeCa(): Promise<Ca> {
  return openCa(join(state, 'strange'));
}

async function revokedCertificate(): Promise<RequestOptions> {
  const issued = await ca.issue('leaver.example');
  await ca.revoke('leaver.example');
  return as(issued);
}

async function selfSigned(): Promise<RequestOptions> {
  const [key, cert] = [join(state, 'self.key'), join(state, 'self.pem')];
  await run('openssl', [
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-keyout',
    key,
    '-out',
    cert,
    '-subj',
    '/CN=right.example',
  ]);
  return { cert: await text(cert), key: await text(key) };
}

/** A node that plays CA. */
async function signedByNode(): Promise<RequestOptions> {
  const at = (name: string) => join(state, name);
  await writeFile(at('node.pem'), right.certificatePem);
  await writeFile(at('node.key'), right.privateKeyPem);
  await run('openssl', [
    'req',
    '-new',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-keyout',
    at('leaf.key'),
    '-out',
    at('leaf.csr'),
    '-subj',
    '/CN=right.example',
  ]);
  await run('openssl', [
    'x509',
    '-req',
    '-in',
    at('leaf.csr'),
    '-CA',
    at('node.pem'),
    '-CAkey',
    at('node.key'),
    '-set_serial',
    '99',
    '-out',
    at('leaf.pem'),
  ]);
  return { cert: (await text(at('leaf.pem'))) + right.certificatePem, key: await text(at('leaf.key')) };
}

async function text(file: string): Promise<string> {
  const { readFile } = await import('node:fs/promises');
  return readFile(file, 'utf8');
}

test('trusted extensions come from the certificate, by their short names', async () => {
  const issued = await ca.issue('right.example', {
    extensions: { pp_role: 'wéb', pp_auth_role: 'x', '1.3.6.1.4.1.34380.1.2.1.1': '{"a":1}' },
  });
  expect((await ask(CATALOG, as(issued))).body).toEqual({
    kind: 'node',
    certname: 'right.example',
    extensions: { pp_role: 'wéb', pp_auth_role: 'x', '1.3.6.1.4.1.34380.1.2.1.1': '{"a":1}' },
  });
});

describe('on a connection that stays open', () => {
  test('a revocation works from the next request on', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const issued = await ca.issue('right.example');
    const options = { ...as(issued), agent };
    expect((await ask(CATALOG, options)).status).toBe(200);
    // By another process: the server hears of it from the file system.
    const other = await openCa(state, { create: false });
    const serials = await other.revoke('right.example');
    expect(serials).toContain(issued.serial);
    await vi.waitFor(async () => expect((await ask(CATALOG, options)).status).toBe(401), {
      timeout: 5000,
      interval: 10,
    });
    expect(Object.values(agent.freeSockets).flat()).toHaveLength(1);
    agent.destroy();
    right = await ca.issue('right.example');
  });

  test('a certificate ends at its end', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const options = { ...as(await ca.issue('right.example', { days: 4 / 86_400 })), agent };
    expect((await ask(CATALOG, options)).status).toBe(200);
    await vi.waitFor(async () => expect((await ask(CATALOG, options)).status).toBe(401), {
      timeout: 20_000,
      interval: 100,
    });
    agent.destroy();
  });
});

test('a resumed TLS session is the same node, and no longer one when it is revoked', async () => {
  const issued = await ca.issue('resumed.example');
  const path = '/node/v1/nodes/resumed.example/catalog';
  const once = (session?: Buffer) =>
    new Promise<{ status: number; session: Buffer | undefined; reused: boolean }>((resolve, reject) => {
      const socket = tlsConnect({ host: 'localhost', port, ca: ca.certificatePem, ...as(issued), session } as never);
      let kept: Buffer | undefined;
      let answer = '';
      socket.on('session', (given) => {
        kept = given;
      });
      socket.on('secureConnect', () =>
        socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n`),
      );
      socket.on('data', (chunk) => {
        answer += chunk;
      });
      socket.on('end', () =>
        resolve({ status: Number(answer.split(' ')[1]), session: kept, reused: socket.isSessionReused() }),
      );
      socket.on('error', reject);
    });
  const first = await once();
  expect(first).toMatchObject({ status: 200, reused: false });
  const second = await once(first.session);
  expect(second).toMatchObject({ status: 200, reused: true });
  await ca.revoke('resumed.example');
  expect(await once(first.session)).toMatchObject({ status: 401, reused: true });
});

test('TLS 1.1 is refused, 1.2 and 1.3 are spoken', async () => {
  const version = (maxVersion: string) =>
    new Promise<string>((resolve) => {
      const options = {
        host: 'localhost',
        port,
        ca: ca.certificatePem,
        minVersion: 'TLSv1',
        maxVersion,
        ciphers: 'ALL@SECLEVEL=0',
      };
      const socket = tlsConnect(options as never, () => {
        resolve(socket.getProtocol()!);
        socket.destroy();
      });
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    });
  expect(await version('TLSv1.3')).toBe('TLSv1.3');
  expect(await version('TLSv1.2')).toBe('TLSv1.2');
  expect(await version('TLSv1.1')).toMatch(/PROTOCOL_VERSION|NO_PROTOCOLS/);
});

test('curl, an independent client, agrees', async () => {
  const at = (name: string) => join(state, name);
  await writeFile(at('right.pem'), right.certificatePem);
  await writeFile(at('right.key'), right.privateKeyPem);
  const curl = async (...words: string[]) =>
    (
      await run('curl', [
        '-sS',
        '--cacert',
        join(state, 'ca/ca_crt.pem'),
        '-o',
        '/dev/null',
        '-w',
        '%{http_code}',
        ...words,
      ])
    ).stdout;
  const node = ['--cert', at('right.pem'), '--key', at('right.key')];
  expect(await curl(`https://localhost:${port}${CATALOG}`)).toBe('401');
  expect(await curl(...node, `https://localhost:${port}${CATALOG}`)).toBe('200');
  expect(await curl(...node, `https://127.0.0.1:${port}/node/v1/nodes/other.example/catalog`)).toBe('403');
  expect(await curl('-H', `Authorization: Bearer ${token}`, `https://localhost:${port}/api/v1/nodes`)).toBe('200');
  // A refused body of some size: the sender sees the refusal, not a broken pipe.
  await writeFile(at('big'), Buffer.alloc(3_000_000));
  expect(
    await curl('-T', at('big'), '-H', 'expect:', `https://localhost:${port}/node/v1/nodes/right.example/facts`),
  ).toBe('401');
});

test('a new server certificate is shown without a restart', async () => {
  const before = await peerSerial();
  (app.server as unknown as import('node:https').Server).setSecureContext(await ca.tlsOptions(['renamed.example']));
  expect(await peerSerial()).not.toBe(before);
  expect((await ask(CATALOG, as(right))).status).toBe(200);
});

function peerSerial(): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = tlsConnect({ host: 'localhost', port, ca: ca.certificatePem }, () => {
      resolve(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
    socket.on('error', reject);
  });
}

test('connections have an end in every state', () => {
  const server = app.server as unknown as import('node:https').Server;
  expect(server).toMatchObject({
    headersTimeout: 20_000,
    keepAliveTimeout: 75_000,
    timeout: 120_000,
    maxHeaderSize: 16_384,
  });
});

describe('what is no HTTP', () => {
  const raw = (bytes: string) =>
    new Promise<string>((resolve, reject) => {
      const socket = tlsConnect({ host: 'localhost', port, ca: ca.certificatePem }, () => socket.write(bytes));
      let answer = '';
      socket.on('data', (chunk) => {
        answer += chunk;
      });
      socket.on('close', () => resolve(answer));
      socket.on('error', reject);
    });

  test.each([
    ['garbage', 'hello\r\n\r\n', 400],
    ['two lengths', 'POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab', 400],
    [
      'length and chunks',
      'POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
      400,
    ],
    ['headers without end', `GET / HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`, 431],
  ])('is refused in our form and hung up on: %s', async (_, bytes, status) => {
    const answer = await raw(bytes);
    expect(Number(answer.split(' ')[1])).toBe(status);
    expect(JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')))).toMatchObject({ code: 'REQUEST_INVALID' });
  });
});
