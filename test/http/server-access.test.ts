/**
 * The whole control plane, over TLS, as everybody: each route that any room mounts, asked with real certificates and real
 * tokens, good and bad ones. And the API's description and the table of access, as checked in, are what it says of itself.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Server, startServer } from '../../src/app.ts';
import { createLogger } from '../../src/config/log.ts';
import { parseSettings } from '../../src/config/settings.ts';
import { type Issued, openCa } from '../../src/http/ca.ts';
import { accessTable, type Description } from '../../src/http/describe.ts';
import type { Access } from '../../src/http/identity.ts';
import { freshDatabase } from '../postgres/fresh.ts';
import { dueTo, judge, type Person, people, RIGHT_NODE, type Treatment, urlOf } from './access.ts';

interface Asker {
  person: Person;
  headers: Record<string, string>;
  agent: Agent;
}

let state: string;
let server: Server;
let askers: Record<string, Asker>;
let description: Description;

beforeAll(async () => {
  const { db, url } = await freshDatabase();
  state = await mkdtemp(join(tmpdir(), 'callboard-server-'));
  server = await startServer(
    parseSettings(
      { state, databaseUrl: url, only: 'api', listen: '127.0.0.1:0', metricsListen: 'off', serverName: 'localhost' },
      {},
    ),
    createLogger({ level: 'silent' }),
  );
  const ca = await openCa(state, { create: false });
  const strange = await openCa(join(state, 'strange'));
  const [right, wrong, expired] = (await Promise.all([
    ca.issue(RIGHT_NODE),
    ca.issue('wrong.example'),
    ca.issue(RIGHT_NODE, { days: -1 }),
  ])) as [Issued, Issued, Issued];
  // A name of its own: revoking takes every certificate of a name.
  const revoked = await ca.issue('revoked.example');
  await ca.revoke('revoked.example');
  const foreign = await strange.issue(RIGHT_NODE);
  const tokens = await people(db);
  const agent = (issued?: Issued) =>
    new Agent({
      keepAlive: true,
      maxSockets: 4,
      ca: ca.certificatePem,
      ...(issued ? { cert: issued.certificatePem, key: issued.privateKeyPem } : {}),
    });
  const plain = agent();
  const withToken = (person: Person): Asker => ({ person, headers: tokens[person], agent: plain });
  const withCertificate = (person: Person, issued: Issued): Asker => ({ person, headers: {}, agent: agent(issued) });
  askers = {
    nobody: { person: 'nobody', headers: {}, agent: plain },
    'the node': withCertificate('right node', right),
    'another node': withCertificate('wrong node', wrong),
    'a revoked certificate': withCertificate('nobody', revoked),
    'an expired certificate': withCertificate('nobody', expired),
    'a certificate of another CA': withCertificate('nobody', foreign),
    viewer: withToken('viewer'),
    deployer: withToken('deployer'),
    admin: withToken('admin'),
    'an expired token': withToken('expired'),
    'a revoked token': withToken('revoked'),
    'a made-up token': withToken('made up'),
  };
  const answer = await ask(askers.admin!, 'GET', '/api/v1/openapi.json');
  expect(answer.status).toBe(200);
  description = JSON.parse(answer.text);
});
afterAll(async () => {
  for (const { agent } of Object.values(askers ?? {})) agent.destroy();
  await server?.stop();
  await rm(state, { recursive: true });
});

function ask(asker: Asker, method: string, path: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const request = httpsRequest(
      server.url + path,
      { method, headers: asker.headers, agent: asker.agent },
      (response: IncomingMessage) => {
        const status = response.statusCode!;
        // Some answers never end; what admits needs no reading, but for the description itself.
        if (response.headers['content-type']?.startsWith('text/event-stream')) {
          request.destroy();
          resolve({ status, text: '' });
          return;
        }
        let text = '';
        response.setEncoding('utf8').on('data', (chunk) => {
          text += chunk;
        });
        response.on('end', () => resolve({ status, text }));
        response.on('error', reject);
      },
    );
    request.on('error', reject);
    request.end();
  });
}

test('every route of every room treats everybody as its access says', { timeout: 240_000 }, async () => {
  const wrong: string[] = [];
  let cells = 0;
  for (const [path, operations] of Object.entries(description.paths)) {
    const url = path.replaceAll(/\{(\w+)\}/g, ':$1');
    for (const [name, operation] of Object.entries(operations)) {
      const route = { method: name.toUpperCase(), url };
      const access: Access = operation['x-access'];
      expect(access, `${route.method} ${url}`).toBeTruthy();
      for (const [who, asker] of Object.entries(askers)) {
        const { status, text } = await ask(asker, route.method, urlOf(url));
        const found: Treatment = judge(status, text, route);
        const due = dueTo(asker.person, access);
        cells++;
        // HEAD has no sentence that would tell the door's refusal from the handler's.
        if (route.method === 'HEAD' && access === 'content' && found === 403 && due === 'admitted') continue;
        if (found !== due) wrong.push(`${route.method} ${url} (${access}) as ${who}: ${status} ${found}, not ${due}`);
      }
    }
  }
  expect(wrong).toEqual([]);
  expect(cells).toBeGreaterThan(12 * 25);
});

test('only health answers to strangers', () => {
  const open = Object.entries(description.paths).filter(([, operations]) =>
    Object.values(operations).some((operation) => operation['x-access'] === 'public'),
  );
  expect(open.map(([path]) => path)).toEqual(['/healthz', '/readyz']);
});

test('what nodes use is for nodes, and what changes the control plane is for deployers at least', () => {
  for (const [path, operations] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const access = operation['x-access'];
      if (path.startsWith('/node/')) expect(access, path).toBe('node');
      else if (path.startsWith('/api/') && method !== 'get')
        expect(['deployer', 'admin'], `${method} ${path}`).toContain(access);
    }
  }
});

const MADE_BY = 'is out of date: npm run openapi';
test('the description and the table of access are checked in as they are', async () => {
  const folder = new URL('../../openapi/', import.meta.url);
  expect(JSON.parse(await readFile(new URL('callboard-v1.json', folder), 'utf8')), MADE_BY).toEqual(description);
  expect(await readFile(new URL('access.md', folder), 'utf8'), MADE_BY).toBe(accessTable(description));
});
