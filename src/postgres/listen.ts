/**
 * Notifications over PostgreSQL's LISTEN/NOTIFY. They are hints (P7): whoever listens must come to the same result, later,
 * without them. A notification sent in a transaction arrives after its commit, and only then.
 */
import { sql } from 'kysely';
import type { Queries } from './database.ts';

/** What is told on each channel. Payloads stay small: PostgreSQL allows 8000 bytes. */
export interface Channels {
  /** Nodes have something new to look at: a catalog, or a wish to run. Without certnames: every node of the environment. */
  callboard_node: { environment: string; certnames?: string[] };
  /** Events of a run were stored, `from` and `to` included. */
  callboard_run_event: { certname: string; run: string; day: string; from: number; to: number };
  /** A compile, a deploy or a release came to an end or moved on. */
  callboard_progress: { kind: 'compile' | 'deploy' | 'release'; id: string };
}

export async function notify<Channel extends keyof Channels>(
  db: Queries,
  channel: Channel,
  payload: Channels[Channel],
): Promise<void> {
  await sql`select pg_notify(${channel}, ${JSON.stringify(payload)})`.execute(db);
}

export interface Listener {
  on<Channel extends keyof Channels>(channel: Channel, heard: (payload: Channels[Channel]) => void): void;
  /** Called when the connection was lost and is back: anything may have been missed in between. */
  onGap(missed: () => void): void;
  close(): Promise<void>;
}
