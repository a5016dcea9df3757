/**
 * Operators' tokens. A token is `cb_` and 32 random bytes; only its SHA-256 is stored. A plain hash is right here: it has 256
 * bits of entropy, so there is nothing to guess, and a slow hash would only let strangers buy our CPU with one request.
 *
 * A token that was looked up is believed for a second, so a revocation is noticed within one; expiry is checked each time.
 */
import { createHash, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { CallboardError } from '../model/errors.ts';
import { TOKEN_CACHE_MAX, TOKEN_CACHE_MS, TOKEN_LOOKUPS_MAX } from '../model/limits.ts';
import { type Queries, row, rows } from '../postgres/database.ts';
import { ANONYMOUS, type Identity, type Role } from './identity.ts';

const BEARER = /^bearer +(cb_[A-Za-z0-9_-]{43})$/i;

export interface Token {
  id: string;
  name: string;
  role: Role;
  created_at: Date;
  expires_at: Date;
  revoked_at: Date | null;
}

/** Makes a token and answers it, this once. `days` from now it ends. */
export async function createToken(
  db: Queries,
  { name, role, days }: { name: string; role: Role; days: number },
): Promise<Token & { token: string }> {
  const token = `cb_${randomBytes(32).toString('base64url')}`;
  const made = await row(
    sql<Token>`
      insert into operator_token (name, role, token_hash, expires_at)
      values (${name}, ${role}, ${hashToken(token)}, now() + make_interval(secs => ${days * 86_400}))
      returning id, name, role, created_at, expires_at, revoked_at
    `,
    db,
  );
  return { ...made!, token };
}

export async function listTokens(db: Queries): Promise<Token[]> {
  return rows(
    sql<Token>`select id, name, role, created_at, expires_at, revoked_at from operator_token order by created_at, id`,
    db,
  );
}

/** Revokes the token with this id, or every valid one with this name. Throws TOKEN_NOT_FOUND where there is none. */
export async function revokeToken(db: Queries, idOrName: string): Promise<Token[]> {
  const revoked = await rows(
    sql<Token>`
      update operator_token set revoked_at = now()
      where (id::text = ${idOrName} or name = ${idOrName}) and revoked_at is null and expires_at > now()
      returning id, name, role, created_at, expires_at, revoked_at
    `,
    db,
  );
  if (revoked.length === 0) throw new CallboardError('TOKEN_NOT_FOUND', { name: idOrName });
  return revoked;
}

/** The valid token with this hash. */
async function findToken(db: Queries, hash: string): Promise<Pick<Token, 'name' | 'role' | 'expires_at'> | undefined> {
  return row(
    sql<Token>`
      select name, role, expires_at from operator_token
      where token_hash = ${hash} and revoked_at is null and expires_at > now()
    `,
    db,
  );
}

interface Believed {
  identity: Identity;
  /** Until when it is believed without asking again, and may be believed at all. */
  until: number;
}

/** Finds operators by the Authorization header of a request. */
export class Tokens {
  readonly #db: Queries;
  readonly #believed = new Map<string, Believed>();
  readonly #asking = new Map<string, Promise<Identity>>();

  constructor(db: Queries) {
    this.#db = db;
  }

  /** Anonymous for anything that is not a valid token. */
  identify(authorization: string): Identity | Promise<Identity> {
    const token = BEARER.exec(authorization)?.[1];
    if (token === undefined) return ANONYMOUS;
    const hash = hashToken(token);
    const believed = this.#believed.get(hash);
    if (believed && Date.now() < believed.until) return believed.identity;
    let asking = this.#asking.get(hash);
    if (!asking) {
      if (this.#asking.size >= TOKEN_LOOKUPS_MAX) {
        throw new CallboardError('BUSY', { reason: 'Too many tokens are being looked up' });
      }
      asking = this.#ask(hash).finally(() => this.#asking.delete(hash));
      this.#asking.set(hash, asking);
    }
    return asking;
  }

  /** Forgets everything: after a gap in notifications, or in a test. */
  forget(): void {
    this.#believed.clear();
  }

  async #ask(hash: string): Promise<Identity> {
    // Counted from before the question: what is revoked while it runs is noticed in time.
    const asked = Date.now();
    const token = await findToken(this.#db, hash).catch((error: Error) => {
      throw new CallboardError('DATABASE_UNREACHABLE', { reason: error.message }, { cause: error });
    });
    const identity: Identity = token ? { kind: 'operator', name: token.name, role: token.role } : ANONYMOUS;
    this.#believed.delete(hash);
    if (this.#believed.size >= TOKEN_CACHE_MAX) this.#believed.delete(this.#believed.keys().next().value!);
    this.#believed.set(hash, {
      identity,
      until: Math.min(asked + TOKEN_CACHE_MS, token?.expires_at.getTime() ?? Number.POSITIVE_INFINITY),
    });
    return identity;
  }
}

function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}
