/**
 * Notifications over PostgreSQL's LISTEN/NOTIFY. They are hints (P7): whoever listens must come to the same result, later,
 * without them. A notification sent in a transaction arrives after its commit, and only then.
 */
import { sql } from 'kysely';
import pg from 'pg';
import type { Logger } from 'pino';
import type { Queries } from './database.ts';

/** What is told on each channel. Payloads stay small: PostgreSQL allows 8000 bytes. */
export interface Channels {
  /** Nodes have something new to look at: a catalog, or a wish to run. Without certnames: every node of the environment. */
  callboard_node: { environment: string; certnames?: string[] };
  /** Events of a run were stored, `from` and `to` included. */
  callboard_run_event: { certname: string; run: string; day: string; from: number; to: number };
  /** A compile, a deploy, a release or the search for affected nodes came to an end or moved on. */
  callboard_progress: { kind: 'compile' | 'deploy' | 'release' | 'affected'; id: string };
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
  /** Whether notifications are arriving now. */
  isListening(): boolean;
  close(): Promise<void>;
}

/** Every channel there is: one connection listens to all of them. */
const CHANNELS = ['callboard_node', 'callboard_run_event', 'callboard_progress'] as const satisfies (keyof Channels)[];
/** Waits between attempts to connect again grow from the first to the second. */
const RECONNECT_MIN_MS = 100;
const RECONNECT_MAX_MS = 5_000;
/** A connection whose peer vanished without a word is found out by asking it this often. */
const PROBE_MS = 30_000;
const PROBE_TIME_MAX_MS = 10_000;

/**
 * Listens on a connection of its own for as long as it is not closed. A lost connection is made again, and `onGap` tells so
 * after it listens again, so that whoever rereads then misses nothing. The first connection must succeed.
 */
export async function startListener(databaseUrl: string, logger: Logger): Promise<Listener> {
  const heard = new Map<string, ((payload: never) => void)[]>();
  const gaps: (() => void)[] = [];
  let client: pg.Client | undefined;
  let closed = false;
  let listening = false;
  let timer: NodeJS.Timeout | undefined;
  let wait = RECONNECT_MIN_MS;

  async function connect(): Promise<void> {
    const next = new pg.Client({
      connectionString: databaseUrl,
      application_name: 'callboard listener',
      connectionTimeoutMillis: PROBE_TIME_MAX_MS,
      query_timeout: PROBE_TIME_MAX_MS,
      keepAlive: true,
    });
    let lost = false;
    const onLost = (error?: Error) => {
      if (lost || closed || next !== client) return;
      lost = true;
      listening = false;
      logger.warn({ err: error }, 'the listening connection was lost');
      next.end().catch(() => {});
      reconnectLater();
    };
    next.on('error', onLost);
    next.on('end', () => onLost());
    next.on('notification', (message) => deliver(message.channel, message.payload ?? ''));
    try {
      await next.connect();
      client = next;
      for (const channel of CHANNELS) await next.query(`listen ${channel}`);
      listening = true;
    } catch (error) {
      lost = true;
      next.end().catch(() => {});
      throw error;
    }
    if (closed) {
      await next.end().catch(() => {});
      return;
    }
    wait = RECONNECT_MIN_MS;
    timer = setTimeout(function probe() {
      next.query('select 1').then(
        () => {
          if (!lost && !closed) timer = setTimeout(probe, PROBE_MS);
        },
        (error: Error) => onLost(error),
      );
    }, PROBE_MS);
  }

  function reconnectLater(): void {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      try {
        await connect();
      } catch (error) {
        logger.warn({ err: error, wait_ms: wait }, 'cannot listen to the database yet');
        if (!closed) reconnectLater();
        return;
      }
      if (closed) return;
      logger.info('listening to the database again');
      for (const missed of gaps) shielded(missed);
    }, wait);
    wait = Math.min(wait * 2, RECONNECT_MAX_MS);
  }

  function deliver(channel: string, text: string): void {
    let payload: unknown;
    try {
      payload = JSON.parse(text);
    } catch {
      payload = undefined;
    }
    if (typeof payload !== 'object' || payload === null) {
      logger.warn({ channel, payload: text.slice(0, 200) }, 'a notification that is no JSON object was skipped');
      return;
    }
    for (const listener of heard.get(channel) ?? []) shielded(() => listener(payload as never));
  }

  /** One listener's failure must not keep the others from hearing. */
  function shielded(call: () => void): void {
    try {
      call();
    } catch (error) {
      logger.error({ err: error }, 'a listener failed');
    }
  }

  await connect();
  return {
    on(channel, listener) {
      heard.set(channel, [...(heard.get(channel) ?? []), listener]);
    },
    onGap(missed) {
      gaps.push(missed);
    },
    isListening: () => listening,
    async close() {
      closed = true;
      listening = false;
      clearTimeout(timer);
      await client?.end().catch(() => {});
    },
  };
}
