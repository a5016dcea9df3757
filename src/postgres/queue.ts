/**
 * Work that must not be lost is a job row of graphile-worker, written in the same transaction as the state that makes it
 * necessary. A job says which thing to look at, never what to do with it: its handler reads the whole state anew and is
 * safe to run twice. Jobs with the same key are one job.
 */
import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Logger as GraphileLogger, type LogLevel, type Runner, run, type WorkerEvents } from 'graphile-worker';
import { type RawBuilder, sql } from 'kysely';
import type pg from 'pg';
import type { Logger } from 'pino';
import { type Queries, rows } from './database.ts';
import { registerProcess, workerIdOf } from './process.ts';

/** Lower runs sooner. */
export const PRIORITY = { interactive: 0, release: 10, facts: 20, background: 30, audit: 40 } as const;

export interface JobOptions {
  /** Jobs with the same key coalesce; one that already runs is followed by one more. */
  key: string;
  priority: number;
  /**
   * How often a job whose handler throws is tried in all; the n-th wait is e^n seconds, six hours at most. Default 25, some
   * two days: a handler throws when something around it is broken, and its work must not be lost for that (P2).
   */
  attemptsMax?: number;
}

/** Payload of each job, by its name. */
export interface Jobs {
  deploy: { deploy: string };
  sync: { source: string };
  classify: Record<string, never>;
  compile: { certname: string; environment: string; code_version: string; trigger: string };
  /** Which nodes a code version concerns. `deploy`: whose log is told. */
  affected: { environment: string; code_version: string; trigger: string; deploy: string | null };
  /** A skipped compile, compiled all the same and compared. */
  audit: { certname: string; environment: string; code_version: string; expected: string };
  /** Volatile catalogs whose time has come, and those that read something outside of their code which has changed. */
  recompile: Record<string, never>;
  collect: Record<string, never>;
  housekeeping: Record<string, never>;
  trials: Record<string, never>;
}

export type JobHandlers = {
  [Name in keyof Jobs]?: (
    payload: Jobs[Name],
    context: { signal: AbortSignal; attempt: number; lastAttempt: boolean },
  ) => Promise<void>;
};

const ATTEMPTS_MAX = 25;

export async function enqueue<Name extends keyof Jobs>(
  db: Queries,
  name: Name,
  payload: Jobs[Name],
  options: JobOptions,
): Promise<void> {
  await enqueueMany(db, name, [{ key: options.key, payload }], options);
}

/** Many jobs in one statement. */
export async function enqueueMany<Name extends keyof Jobs>(
  db: Queries,
  name: Name,
  jobs: { key: string; payload: Jobs[Name] }[],
  options: Omit<JobOptions, 'key'>,
): Promise<void> {
  if (jobs.length === 0) return;
  const keys = jobs.map((job) => job.key);
  const payloads = jobs.map((job) => JSON.stringify(job.payload));
  await enqueueSelected(
    db,
    name,
    sql`select key, payload::json from unnest(${keys}::text[], ${payloads}::text[]) as job(key, payload)`,
    options,
  );
}

/** How often a job that a worker took at the very moment of queueing is queued once more. */
const MISSES_MAX = 20;

/**
 * A job for each row of a select with the columns `key text` and `payload json`, in one statement, and how many rows there
 * were. A job that waits already gets the new payload and the more urgent of both priorities.
 *
 * graphile_worker.add_jobs() looks for running jobs with the same key and then inserts, in two statements; a job that a
 * worker takes in between is neither replaced nor followed by another, and what it was queued for would be lost. Such keys
 * are missing from what it returns, and are queued once more.
 */
export async function enqueueSelected<Name extends keyof Jobs>(
  db: Queries,
  name: Name,
  select: RawBuilder<unknown>,
  options: Omit<JobOptions, 'key'>,
): Promise<number> {
  let only: string[] | null = null;
  let count: number | undefined;
  for (let tries = 0; tries <= MISSES_MAX; tries += 1) {
    // In the order of keys, so that two who queue the same keys never wait for each other crosswise.
    const found: { key: string; missed: boolean }[] = await rows(
      sql<{ key: string; missed: boolean }>`
        with wanted as materialized (
          select distinct on (key) key, payload from (${select}) as selected
          where ${only}::text[] is null or key = any(${only}::text[])
          order by key
        ), added as materialized (
          select added.key from graphile_worker.add_jobs(array(
            select (
              ${name}::text, wanted.payload, null, null, ${options.attemptsMax ?? ATTEMPTS_MAX}::smallint, wanted.key,
              least(waiting.priority, ${options.priority}::smallint), null
            )::graphile_worker.job_spec
            from wanted
            left join graphile_worker._private_jobs as waiting on waiting.key = wanted.key and waiting.is_available
            order by wanted.key
          )) as added
        )
        select wanted.key, added.key is null as missed from wanted left join added on added.key = wanted.key
      `,
      db,
    );
    count ??= found.length;
    only = found.filter((job) => job.missed).map((job) => job.key);
    if (only.length === 0) return count;
  }
  throw new Error(`jobs could not be queued: ${only?.slice(0, 3).join(', ')}`);
}

export interface QueueDepth {
  name: string;
  priority: number;
  /** Could run now. */
  waiting: number;
  /** Wait for their next attempt. */
  delayed: number;
  running: number;
  /** Will not be tried again by themselves. */
  failed: number;
  /** How long the oldest of the waiting waits. */
  oldest_seconds: number;
}

/** The queue by job name and priority. Reads the whole queue: for a metric's scrape, not for requests. */
export async function queueDepth(db: Queries): Promise<QueueDepth[]> {
  return rows(
    sql<QueueDepth>`
      select task.identifier as name, job.priority::int as priority,
        count(*) filter (where job.is_available and job.run_at <= now())::int as waiting,
        count(*) filter (where job.is_available and job.run_at > now())::int as delayed,
        count(*) filter (where job.locked_at is not null)::int as running,
        count(*) filter (where not job.is_available and job.locked_at is null)::int as failed,
        coalesce(extract(epoch from now() - min(job.run_at) filter (where job.is_available and job.run_at <= now())), 0)::float
          as oldest_seconds
      from graphile_worker._private_jobs as job
      join graphile_worker._private_tasks as task on task.id = job.task_id
      group by 1, 2 order by 1, 2
    `,
    db,
  );
}

export interface QueueOptions {
  /** Its connections are used to take and to finish jobs, and one for each name of a job to be woken. */
  pool: pg.Pool;
  handlers: JobHandlers;
  /** How many jobs of a name run at once; default 1. */
  concurrency?: Partial<Record<keyof Jobs, number>>;
  logger: Logger;
  /** Unique in the life of the database, without slashes; default a new UUID. */
  processId?: string;
  /** What this process does, for people who look at the table `process`. */
  services?: string[];
  /** Told of each attempt that ended; for metrics. */
  onEnd?: (name: keyof Jobs, outcome: 'done' | 'failed' | 'interrupted', seconds: number) => void;
}

export interface Queue {
  processId: string;
  /** Takes no more jobs, lets running ones end, aborts them after 2 s, and gives what is left after 5 s to others. */
  stop(): Promise<void>;
}

/** Jobs are found by a notification, and where that was lost, by looking this often. */
const POLL_INTERVAL_MS = 3_000;
const ABORT_AFTER_MS = 2_000;
const STOP_TIME_MAX_MS = 5_000;
const RESTART_WAIT_MIN_MS = 100;
const RESTART_WAIT_MAX_MS = 5_000;

/**
 * Runs the jobs that `handlers` names. Each name has workers of its own, so that a thousand compiles keep no deploy waiting.
 * graphile-worker's runner gives up when it cannot write a job's result (the database is away); it is started again then,
 * and the jobs that the old one held are freed first.
 */
export async function startQueue(options: QueueOptions): Promise<Queue> {
  const { pool, logger } = options;
  const processId = options.processId ?? randomUUID();
  const registered = await registerProcess({ pool, id: processId, services: options.services ?? [], logger });
  const stop = new AbortController();
  const interrupted: string[] = [];
  const names = Object.keys(options.handlers) as (keyof Jobs)[];
  const running = names.map((name) => supervise(name));

  async function supervise(name: keyof Jobs): Promise<void> {
    let wait = RESTART_WAIT_MIN_MS;
    for (let incarnation = 1; !stop.signal.aborted; incarnation += 1) {
      const workerId = workerIdOf(processId, name, incarnation);
      const startedAt = Date.now();
      try {
        const runner = await startRunner(name, workerId);
        const onStop = () => void runner.stop().catch(() => {});
        if (stop.signal.aborted) onStop();
        else stop.signal.addEventListener('abort', onStop, { once: true });
        await runner.promise.finally(() => stop.signal.removeEventListener('abort', onStop));
        if (!stop.signal.aborted) throw new Error('the runner ended by itself');
      } catch (error) {
        if (stop.signal.aborted) return;
        if (Date.now() - startedAt > 10 * RESTART_WAIT_MAX_MS) wait = RESTART_WAIT_MIN_MS;
        logger.warn({ err: error, job: name, wait_ms: wait }, 'the workers of a job ended; they are started again');
        await sleep(wait, undefined, { signal: stop.signal }).catch(() => {});
        wait = Math.min(wait * 2, RESTART_WAIT_MAX_MS);
        await freeUntilDone(workerId);
      }
    }
  }

  async function freeUntilDone(workerId: string): Promise<void> {
    while (!stop.signal.aborted) {
      try {
        return await registered.free(workerId);
      } catch {
        await sleep(RESTART_WAIT_MAX_MS / 5, undefined, { signal: stop.signal }).catch(() => {});
      }
    }
  }

  function startRunner(name: keyof Jobs, workerId: string): Promise<Runner> {
    const handler = options.handlers[name] as (payload: unknown, context: object) => Promise<void>;
    const events = new EventEmitter() as WorkerEvents;
    // The pool's id is what stands in `locked_by`. It is set before any worker of the pool exists.
    events.on('pool:create', ({ workerPool }) => {
      workerPool.id = workerId;
    });
    return run({
      pgPool: pool,
      events,
      concurrency: options.concurrency?.[name] ?? 1,
      pollInterval: POLL_INTERVAL_MS,
      noHandleSignals: true,
      gracefulShutdownAbortTimeout: ABORT_AFTER_MS,
      parsedCronItems: [],
      logger: graphileLogger(logger.child({ job: name }), stop.signal),
      // Without batches of results (of one tick) a failure to write one is an unhandled rejection: the end of the process.
      preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
      taskList: {
        [name]: async (payload, { job, abortSignal }) => {
          const startedAt = performance.now();
          const ended = (outcome: 'done' | 'failed' | 'interrupted') =>
            options.onEnd?.(name, outcome, (performance.now() - startedAt) / 1000);
          try {
            const lastAttempt = job.attempts >= job.max_attempts;
            await handler(payload, { signal: abortSignal, attempt: job.attempts, lastAttempt });
            ended('done');
          } catch (error) {
            if (abortSignal.aborted) interrupted.push(job.id);
            ended(abortSignal.aborted ? 'interrupted' : 'failed');
            throw error;
          }
        },
      },
    });
  }

  return {
    processId,
    async stop() {
      stop.abort();
      const timeout = new AbortController();
      await Promise.race([
        Promise.allSettled(running),
        sleep(STOP_TIME_MAX_MS, undefined, { signal: timeout.signal }).catch(() => {}),
      ]);
      timeout.abort();
      // Our stopping is no fault of theirs.
      await pool
        .query(
          `update graphile_worker._private_jobs set attempts = greatest(attempts - 1, 0), run_at = now(), last_error = null
           where id = any($1::bigint[]) and locked_at is null and key is not null`,
          [interrupted],
        )
        .catch((error: Error) => logger.warn({ err: error }, 'interrupted jobs wait for their next attempt'));
      await registered.stop();
    },
  };
}

/**
 * graphile-worker tells every job at level info; to us that is detail. While we stop, so is every failure: aborted jobs fail,
 * and are given back.
 */
function graphileLogger(logger: Logger, stop: AbortSignal): GraphileLogger {
  const levels: Record<LogLevel, 'error' | 'warn' | 'debug' | 'trace'> = {
    error: 'error',
    warning: 'warn',
    info: 'debug',
    debug: 'trace',
  };
  return new GraphileLogger((scope) => (level, message) => {
    logger[stop.aborted ? 'debug' : levels[level as LogLevel]]({ worker: scope.workerId }, message);
  });
}
