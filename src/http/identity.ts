/**
 * Who asks, and what they may do. A node is what its client certificate says and nothing else (P9); an operator is a token.
 * How a request's identity is found is in `identify.ts`.
 */
import type { Certname } from '../model/ids.ts';

export const ROLES = ['viewer', 'deployer', 'admin'] as const;
export type Role = (typeof ROLES)[number];

export type Identity =
  | { kind: 'anonymous' }
  | { kind: 'node'; certname: Certname; extensions: Record<string, string> }
  | { kind: 'operator'; name: string; role: Role };

export const ANONYMOUS: Identity = { kind: 'anonymous' };

/**
 * What a route demands. `node`: the certificate of the node in the path's `:certname`. `content`: a node or any operator;
 * the route itself checks which content. `hook`: no identity counts; the route itself checks what the sender signed. `public`:
 * anybody. Roles include the ones before them: viewer, deployer, admin.
 */
export type Access = 'public' | 'hook' | 'node' | 'content' | Role;

const RANK: Record<Role, number> = { viewer: 1, deployer: 2, admin: 3 };

/** Whether an identity may use a route. `certname` is the route's path parameter, if it has one. */
export function mayUse(identity: Identity, access: Access, certname: string | undefined): boolean {
  if (access === 'public') return true;
  if (access === 'hook') return false;
  if (access === 'node') return identity.kind === 'node' && identity.certname === certname;
  if (access === 'content') return identity.kind !== 'anonymous';
  return identity.kind === 'operator' && RANK[identity.role] >= RANK[access];
}

/** For sentences and the audit log. */
export function identityName(identity: Identity): string {
  if (identity.kind === 'node') return `node ${identity.certname}`;
  if (identity.kind === 'operator') return `operator ${identity.name}`;
  return 'anonymous';
}
