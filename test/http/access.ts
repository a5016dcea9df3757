/**
 * Proves the table route × identity for any app: every route that was mounted, later ones included, is asked by everybody,
 * and answers exactly those whom its `access` admits. Identities are found by the real code from real tokens in a real
 * database; only the client certificates, which need a TLS connection, stand in a header here (`identify.test.ts` shows
 * them over TLS).
 */
import { randomUUID } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { sql } from 'kysely';
import { expect } from 'vitest';
import type { App, Identify, MountedRoute } from '../../src/http/app.ts';
import { type Access, ANONYMOUS, ROLES } from '../../src/http/identity.ts';
import { createToken, revokeToken, Tokens } from '../../src/http/tokens.ts';
import { parseCertname } from '../../src/model/ids.ts';
import type { Database } from '../../src/postgres/database.ts';

export const RIGHT_NODE = 'right.example';
const CERTIFICATE_HEADER = 'test-certificate';

export type Person =
  | 'nobody'
  | 'wrong node'
  | 'right node'
  | 'viewer'
  | 'deployer'
  | 'admin'
  | 'expired'
  | 'revoked'
  | 'made up';

/** Whom a route's access admits, written out by hand: the code under test has no part in it. */
export const ADMITTED: Record<Access, Person[]> = {
  hook: [],
  public: ['nobody', 'wrong node', 'right node', 'viewer', 'deployer', 'admin', 'expired', 'revoked', 'made up'],
  node: ['right node'],
  content: ['wrong node', 'right node', 'viewer', 'deployer', 'admin'],
  viewer: ['viewer', 'deployer', 'admin'],
  deployer: ['deployer', 'admin'],
  admin: ['admin'],
};
/** Who is somebody, and is told 403 where it may not; anybody else is told 401. */
export const SOMEBODY: Person[] = ['wrong node', 'right node', 'viewer', 'deployer', 'admin'];

/** What the app under test must be built with. */
export function identifyInTests(db: Database): Identify {
  const tokens = new Tokens(db);
  return (request: FastifyRequest) => {
    if (request.headers.authorization) return tokens.identify(request.headers.authorization);
    const certname = request.headers[CERTIFICATE_HEADER];
    return typeof certname === 'string'
      ? { kind: 'node', certname: parseCertname(certname), extensions: {} }
      : ANONYMOUS;
  };
}

/** Each kind of asker with the headers it comes with. */
export async function people(db: Database): Promise<Record<Person, Record<string, string>>> {
  const token = async (role: (typeof ROLES)[number], name: string = role) => ({
    authorization: `Bearer ${(await createToken(db, { name, role, days: 1 })).token}`,
  });
  const [viewer, deployer, admin] = await Promise.all(ROLES.map((role) => token(role)));
  const expired = await token('admin', 'expired');
  await sql`update operator_token set expires_at = now() - interval '1 second' where name = 'expired'`.execute(db);
  const revoked = await token('admin', 'revoked');
  await revokeToken(db, 'revoked');
  return {
    nobody: {},
    'wrong node': { [CERTIFICATE_HEADER]: 'wrong.example' },
    'right node': { [CERTIFICATE_HEADER]: RIGHT_NODE },
    viewer: viewer!,
    deployer: deployer!,
    admin: admin!,
    expired,
    revoked,
    'made up': { authorization: `Bearer cb_${'x'.repeat(43)}` },
  };
}

/** How an app treats one person at one route's door. */
export type Treatment = 'admitted' | 401 | 403;

/** Asks every route as every person, and expects of each the treatment that its access says. */
export async function proveAccess(app: App, db: Database): Promise<void> {
  await app.ready();
  const askers = await people(db);
  expect(app.routeTable.length).toBeGreaterThan(0);
  const wrong: string[] = [];
  for (const route of app.routeTable) {
    for (const [person, headers] of Object.entries(askers) as [Person, Record<string, string>][]) {
      const found = await treatment(app, route, headers);
      const due = dueTo(person, route.access);
      // HEAD has no sentence that would tell the door's refusal from the handler's.
      if (route.method === 'HEAD' && route.access === 'content' && found === 403 && due === 'admitted') continue;
      if (found !== due)
        wrong.push(`${route.method} ${route.url} (${route.access}) as ${person}: ${found}, not ${due}`);
    }
  }
  expect(wrong).toEqual([]);
}

/** How a person must be treated at a door with this access. */
export function dueTo(person: Person, access: Access): Treatment {
  // Whoever signs nothing is nobody there, whatever certificate or token comes along.
  if (access === 'hook') return 401;
  if (ADMITTED[access].includes(person)) return 'admitted';
  return SOMEBODY.includes(person) ? 403 : 401;
}

/**
 * What an answer says of the door. A handler may refuse what its door admitted (content that no catalog of the node names):
 * the sentence tells which of them spoke.
 */
export function judge(status: number, text: string, route: Pick<MountedRoute, 'method' | 'url'>): Treatment {
  if (status === 401) return 401;
  if (status !== 403) return 'admitted';
  const { message } = JSON.parse(text || '{"message":""}') as { message: string };
  return route.method === 'HEAD' || message.includes(`may not ${route.method} ${route.url}`) ? 403 : 'admitted';
}

export async function treatment(app: App, route: MountedRoute, headers: Record<string, string>): Promise<Treatment> {
  // As a stream, and left at the first sign: some answers never end.
  const response = await app.inject({
    method: route.method as 'GET',
    url: urlOf(route.url),
    headers,
    payloadAsStream: true,
  });
  if (response.statusCode !== 401 && response.statusCode !== 403) {
    response.stream().destroy();
    return 'admitted';
  }
  let text = '';
  for await (const chunk of response.stream()) text += chunk;
  return judge(response.statusCode, text, route);
}

/** A path of the route's shape. What it names need not exist: the door comes first. */
export function urlOf(url: string): string {
  return url.replace(/:(\w+)/g, (_, name: string) => {
    if (name === 'certname') return RIGHT_NODE;
    if (name === 'hash' || name === 'catalog') return 'ab'.repeat(32);
    if (name === 'id' || name === 'run') return randomUUID();
    return 'production';
  });
}
