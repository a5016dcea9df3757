/**
 * What a git server sends to show that it knows a hook's secret. GitHub, Gitea and Forgejo sign the body (HMAC-SHA256);
 * GitLab and a plain post-receive hook send the secret itself. Nothing else of a hook's request is believed.
 */
import { createHash, createHmac, type Hmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { HOOK_DELIVERIES_MAX, HOOK_DELIVERY_TIME_MS } from '../model/limits.ts';

export type Proof = { kind: 'signature'; digest: Buffer } | { kind: 'token'; token: string };

/** The first of the headers that is there counts: one that is wrong is not saved by another. Undefined: none is in its form. */
export function readProof(headers: IncomingHttpHeaders): Proof | undefined {
  const hub = headers['x-hub-signature-256'];
  if (hub !== undefined) return signature(/^sha256=([0-9a-f]{64})$/i.exec(String(hub))?.[1]);
  const gitea = headers['x-gitea-signature'];
  if (gitea !== undefined) return signature(/^([0-9a-f]{64})$/i.exec(String(gitea))?.[1]);
  const gitlab = headers['x-gitlab-token'];
  if (gitlab !== undefined) return { kind: 'token', token: String(gitlab) };
  const bearer = /^bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1];
  return bearer === undefined ? undefined : { kind: 'token', token: bearer };
}

function signature(hex: string | undefined): Proof | undefined {
  return hex === undefined ? undefined : { kind: 'signature', digest: Buffer.from(hex, 'hex') };
}

/** A signature over a body that comes in pieces. */
export function signing(secret: string): Hmac {
  return createHmac('sha256', secret);
}

/** Whether this is the signature. It can be asked once. */
export function isSignature(digest: Buffer, hmac: Hmac): boolean {
  return timingSafeEqual(digest, hmac.digest());
}

/** Takes as long for a wrong token as for the right one. */
export function isToken(token: string, secret: string): boolean {
  return timingSafeEqual(sha256(token), sha256(secret));
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

/** The name that the sender gives this delivery, the same when it sends it again. */
export function deliveryOf(headers: IncomingHttpHeaders): string | undefined {
  const id = headers['x-github-delivery'] ?? headers['x-gitea-delivery'] ?? headers['x-gitlab-event-uuid'];
  return typeof id === 'string' && id !== '' && id.length <= 200 ? id : undefined;
}

/**
 * Deliveries that were taken a short while ago. Only saves work: whoever replays a hook under a new name can do no more than
 * have git asked once more.
 */
export class Deliveries {
  readonly #taken = new Map<string, number>();

  has(id: string, now = Date.now()): boolean {
    const at = this.#taken.get(id);
    return at !== undefined && now - at < HOOK_DELIVERY_TIME_MS;
  }

  add(id: string, now = Date.now()): void {
    this.#taken.delete(id);
    if (this.#taken.size >= HOOK_DELIVERIES_MAX) this.#taken.delete(this.#taken.keys().next().value!);
    this.#taken.set(id, now);
  }
}
