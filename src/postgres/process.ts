/**
 * Which processes of the control plane live. A living one holds a session advisory lock, so that PostgreSQL itself knows when
 * it died (P2): whoever looks every few seconds finds a lock that is free, and gives the jobs that the dead one had begun to
 * others, at once and without counting the attempt.
 *
 * A free lock has two meanings: the process is dead, or it lives and its connection was lost. On our own machine the process
 * table tells which. Of other machines a lock that is free at two looks in a row, a whole `REAP_INTERVAL_MS` apart, counts as
 * dead; a living process has its lock again long before. Were it taken for dead all the same, its jobs would run twice,
 * which handlers must bear anyway (P7).
 */
import { randomInt } from 'node:crypto';
import { hostname } from 'node:os';
import pg from 'pg';
import type { Logger } from 'pino';
import { isRunning } from '../config/state.ts';

/** How often the dead are looked for. */
const REAP_INTERVAL_MS = 5_000;
const RECONNECT_MIN_MS = 100;
const RECONNECT_MAX_MS = 5_000;
const QUERY_TIME_MAX_MS = 30_000;

export interface ControlProcess {
  id: string;
  /** Gives the jobs that one of our own, ended workers still holds to others. */
  free(workerId: string): Promise<void>;
  /** The lock and the row go; whatever jobs we still hold are given to others. */
  stop(): Promise<void>;
}

/** A worker's id, as it stands in `locked_by` of a job: who holds it can be told from it. */
export function workerIdOf(processId: string, job: string, incarnation: number): string {
  return `${processId}/${job}/${incarnation}`;
}

/** The process that a worker's id names, or undefined where it is not of ours. */
export function processIdOf(workerId: string): string | undefined {
  const parts = workerId.split('/');
  return parts.length === 3 ? parts[0] : undefined;
}

/** What one look at the database saw of another process. */
export interface Sighting {
  id: string;
  /** Its lock could be had, or it has no row any more. */
  lockFree: boolean;
  host: string | undefined;
  pid: number | undefined;
}

/** Who is dead: pure, see the head of this file. `suspects` are those whose lock was free at the last look. */
export function findDead(
  sightings: Sighting[],
  suspects: ReadonlySet<string>,
  here: { host: string; isAlive: (pid: number) => boolean },
): { dead: string[]; suspects: Set<string> } {
  const dead: string[] = [];
  const next = new Set<string>();
  for (const { id, lockFree, host, pid } of sightings) {
    if (!lockFree) continue;
    const knownDead = host === here.host && pid !== undefined && !here.isAlive(pid);
    if (knownDead || suspects.has(id)) dead.push(id);
    else next.add(id);
  }
  return { dead, suspects: next };
}

/**
 * Registers this process, frees the jobs of dead ones, and goes on doing so. Resolves after the first look. `id` must be
 * unique in the life of the database and hold no slash.
 */
export async function registerProcess(options: {
  pool: pg.Pool;
  id: string;
  services: string[];
  logger: Logger;
}): Promise<ControlProcess> {
  const { pool, id, services, logger } = options;
  // Below 2^53: it passes through JavaScript's numbers.
  const lockKey = randomInt(2 ** 47) + 2 ** 48;
  const here = { host: hostname(), isAlive: isRunning };
  let client: pg.Client | undefined;
  let timer: NodeJS.Timeout | undefined;
  let wait = RECONNECT_MIN_MS;
  let suspects: ReadonlySet<string> = new Set();
  let stopped = false;
  let looking: Promise<void> = Promise.resolve();

  async function connect(): Promise<void> {
    const next = new pg.Client({
      ...pool.options,
      application_name: 'callboard process',
      connectionTimeoutMillis: QUERY_TIME_MAX_MS,
      query_timeout: QUERY_TIME_MAX_MS,
      keepAlive: true,
    } as pg.ClientConfig);
    next.on('error', () => lost(next));
    next.on('end', () => lost(next));
    try {
      await next.connect();
      // When our whole machine vanishes, PostgreSQL shall notice within a minute, not within the two hours of TCP.
      await next.query(
        'set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3; set idle_session_timeout = 0',
      );
      // The lock before the row: no row of a living process may ever be seen with a free lock for long.
      await next.query('select pg_advisory_lock($1::bigint)', [lockKey]);
      await next.query(
        `insert into process (id, lock_key, host, pid, services) values ($1, $2, $3, $4, $5)
         on conflict (id) do update set lock_key = excluded.lock_key`,
        [id, lockKey, here.host, process.pid, services],
      );
    } catch (error) {
      next.removeAllListeners('end');
      next.end().catch(() => {});
      throw error;
    }
    client = next;
    wait = RECONNECT_MIN_MS;
  }

  function lost(which: pg.Client): void {
    if (client !== which || stopped) return;
    client = undefined;
    which.end().catch(() => {});
    logger.warn('the connection that proves this process alive was lost');
    clearTimeout(timer);
    timer = setTimeout(reconnect, wait);
  }

  async function reconnect(): Promise<void> {
    if (stopped) return;
    try {
      await connect();
      logger.info('this process is known as alive again');
      schedule();
    } catch (error) {
      wait = Math.min(wait * 2, RECONNECT_MAX_MS);
      logger.warn({ err: error, wait_ms: wait }, 'this process cannot register yet');
      if (!stopped) timer = setTimeout(reconnect, wait);
    }
  }

  function schedule(): void {
    clearTimeout(timer);
    if (stopped) return;
    timer = setTimeout(() => {
      looking = look().then(schedule, (error: Error) => {
        logger.warn({ err: error }, 'looking for dead processes failed');
        if (client) lost(client);
      });
    }, REAP_INTERVAL_MS);
  }

  /** One look. It also proves that the connection works. */
  async function look(): Promise<void> {
    const session = client;
    if (!session) return;
    await session.query('begin');
    // The locks of the dead are held until the end of the transaction: nobody else reaps them meanwhile, and a living
    // process that comes back waits.
    const { rows } = await session.query<{ id: string; host: string; pid: number; free: boolean }>(
      'select id, host, pid, pg_try_advisory_xact_lock(lock_key) as free from process where id <> $1 order by id',
      [id],
    );
    const { rows: held } = await session.query<{ locked_by: string }>(
      'select distinct locked_by from graphile_worker._private_jobs where locked_by is not null',
    );
    const sightings: Sighting[] = rows.map((row) => ({ ...row, lockFree: row.free }));
    const known = new Set([id, ...rows.map((row) => row.id)]);
    for (const { locked_by } of held) {
      const holder = processIdOf(locked_by);
      if (holder === undefined || known.has(holder)) continue;
      known.add(holder);
      sightings.push({ id: holder, lockFree: true, host: undefined, pid: undefined });
    }
    const found = findDead(sightings, suspects, here);
    const workerIds = held.map((row) => row.locked_by).filter((held) => found.dead.includes(processIdOf(held) ?? ''));
    const freed = workerIds.length > 0 ? await freeJobs(session, workerIds) : 0;
    if (found.dead.length > 0) await session.query('delete from process where id = any($1)', [found.dead]);
    await session.query('commit');
    suspects = found.suspects;
    if (found.dead.length > 0)
      logger.warn({ processes: found.dead, jobs: freed }, 'processes died; their jobs are free');
    await session.query(SWEEP);
  }

  await connect();
  try {
    await look();
  } catch (error) {
    stopped = true;
    await client?.end().catch(() => {});
    throw error;
  }
  schedule();
  return {
    id,
    async free(workerId) {
      await freeJobs(pool, [workerId]);
    },
    async stop() {
      stopped = true;
      clearTimeout(timer);
      await looking.catch(() => {});
      const session = client;
      if (!session) return;
      try {
        const { rows } = await session.query<{ locked_by: string }>(
          'select distinct locked_by from graphile_worker._private_jobs where locked_by is not null',
        );
        await freeJobs(
          session,
          rows.map((row) => row.locked_by).filter((held) => processIdOf(held) === id),
        );
        await session.query('delete from process where id = $1', [id]);
      } catch (error) {
        logger.warn({ err: error }, 'this process could not sign off; its jobs are freed when somebody looks');
      }
      await session.end().catch(() => {});
    },
  };
}

/**
 * Makes the jobs held by ended workers available now. The attempt that died is not counted: it tells nothing about the job.
 * A job without a key was queued anew while it ran (graphile-worker takes its key away then): the newer one does its work.
 * graphile_worker.force_unlock_workers() would count the attempt and wake nobody.
 */
async function freeJobs(session: pg.Pool | pg.Client, workerIds: string[]): Promise<number> {
  const { rows } = await session.query<{ freed: number }>(
    `with superseded as (
       delete from graphile_worker._private_jobs where locked_by = any($1) and key is null
     ), freed as (
       update graphile_worker._private_jobs
       set locked_by = null, locked_at = null, attempts = greatest(attempts - 1, 0), run_at = least(run_at, now())
       where locked_by = any($1) and key is not null
       returning id
     ), counted as (
       select count(*)::int as freed from freed
     )
     select freed, case when freed > 0 then pg_notify('jobs:insert', json_build_object('count', freed)::text) end from counted`,
    [workerIds],
  );
  return rows[0]!.freed;
}

/** Jobs that failed for good after a newer one had taken their key: nobody can ever ask for them again. */
const SWEEP = `delete from graphile_worker._private_jobs
  where key is null and locked_at is null and attempts >= max_attempts`;
