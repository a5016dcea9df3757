import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { enqueue, enqueueMany, enqueueSelected, type Queue, queueDepth, startQueue } from '../../src/postgres/queue.ts';
import { freshDatabase } from './fresh.ts';
import { until } from './until.ts';

vi.setConfig({ testTimeout: 90_000 });
const { pool, db } = await freshDatabase();
const logger = pino({ level: 'fatal' });
const queues: Queue[] = [];

async function start(options: Partial<Parameters<typeof startQueue>[0]>): Promise<Queue> {
  const queue = await startQueue({ pool, logger, handlers: {}, ...options });
  queues.push(queue);
  return queue;
}

function compile(certname: string, trigger = 'test') {
  return { certname, environment: 'production', code_version: 'c', trigger };
}

beforeEach(async () => {
  await pool.query('delete from graphile_worker._private_jobs');
});
afterEach(async () => {
  await Promise.all(queues.splice(0).map((queue) => queue.stop()));
});

test('a job runs soon after the transaction that queued it commits, and not if it rolls back', async () => {
  const seen: string[] = [];
  await start({ handlers: { compile: async ({ certname }) => void seen.push(certname) } });
  await db
    .transaction()
    .execute(async (tx) => {
      await enqueue(tx, 'compile', compile('lost'), { key: 'lost', priority: 20 });
      throw new Error('roll back');
    })
    .catch(() => {});
  const queuedAt = Date.now();
  await db.transaction().execute((tx) => enqueue(tx, 'compile', compile('kept'), { key: 'kept', priority: 20 }));
  await until(() => seen.length > 0);
  expect(Date.now() - queuedAt).toBeLessThan(2_000);
  expect(seen).toEqual(['kept']);
});

test('jobs with one key coalesce to the newest payload and the most urgent priority', async () => {
  await enqueue(db, 'compile', compile('a', 'first'), { key: 'a', priority: 10 });
  await enqueue(db, 'compile', compile('a', 'second'), { key: 'a', priority: 30 });
  const seen: string[] = [];
  expect(await queueDepth(db)).toMatchObject([{ name: 'compile', priority: 10, waiting: 1, running: 0, failed: 0 }]);
  await start({ handlers: { compile: async ({ trigger }) => void seen.push(trigger) } });
  await until(async () => (await queueDepth(db)).length === 0);
  expect(seen).toEqual(['second']);
});

test('many jobs are queued in one statement, duplicates and all, and from a select', async () => {
  const jobs = Array.from({ length: 2000 }, (_, i) => ({ key: `k${i % 1900}`, payload: compile(`n${i % 1900}`) }));
  await enqueueMany(db, 'compile', jobs, { priority: 30 });
  const selected = await enqueueSelected(
    db,
    'compile',
    sql`select 's' || i as key, json_build_object('certname', 's' || i) as payload from generate_series(1, 500) as i`,
    { priority: 20 },
  );
  expect(selected).toBe(500);
  expect(await queueDepth(db)).toMatchObject([
    { priority: 20, waiting: 500 },
    { priority: 30, waiting: 1900 },
  ]);
});

test('a job that is queued while it runs is followed by one more', async () => {
  const seen: string[] = [];
  let release: () => void = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  await start({
    handlers: {
      compile: async ({ trigger }) => {
        seen.push(trigger);
        if (trigger === 'first') await held;
      },
    },
  });
  await enqueue(db, 'compile', compile('a', 'first'), { key: 'a', priority: 10 });
  await until(() => seen.length === 1);
  await enqueue(db, 'compile', compile('a', 'second'), { key: 'a', priority: 10 });
  release();
  await until(async () => seen.length === 2 && (await queueDepth(db)).length === 0);
  expect(seen).toEqual(['first', 'second']);
});

/*
 * The race in graphile_worker.add_jobs(): a worker takes the waiting job between its two statements. A trigger after the first
 * one waits for a lock that we hold, and lets go when the job is taken.
 */
test('no job is lost that is queued at the very moment when its predecessor is taken', async () => {
  await pool.query(`
    create function pause() returns trigger language plpgsql as $$
    begin
      if current_setting('callboard.pause', true) = 'on' then perform pg_advisory_xact_lock_shared(4242); end if;
      return null;
    end $$;
    create trigger pause after update on graphile_worker._private_jobs for each statement execute function pause()`);
  onTestFinished(async () => void (await pool.query('drop function pause cascade')));
  await enqueue(db, 'compile', compile('a', 'first'), { key: 'a', priority: 10 });
  const holder = await pool.connect();
  await holder.query('select pg_advisory_lock(4242)');
  const queued = db.transaction().execute(async (tx) => {
    await sql`set local callboard.pause = 'on'`.execute(tx);
    await enqueue(tx, 'compile', compile('a', 'second'), { key: 'a', priority: 10 });
  });
  const waiting = 'select from pg_locks where locktype = $1 and objid = 4242 and not granted';
  await until(async () => (await pool.query(waiting, ['advisory'])).rowCount === 1);
  await pool.query("update graphile_worker._private_jobs set locked_by = 'w', locked_at = now(), attempts = 1");
  await holder.query('select pg_advisory_unlock(4242)');
  holder.release();
  await queued;
  const { rows } = await pool.query(
    "select key, locked_by, payload ->> 'trigger' as trigger from graphile_worker._private_jobs order by id",
  );
  expect(rows).toEqual([
    { key: null, locked_by: 'w', trigger: 'first' },
    { key: 'a', locked_by: null, trigger: 'second' },
  ]);
});

test('compiles run as many at once as was said, and keep no deploy waiting', async () => {
  let compiling = 0;
  let most = 0;
  let deployed = false;
  const queue = await start({
    concurrency: { compile: 3 },
    handlers: {
      compile: async (_, { signal }) => {
        compiling += 1;
        most = Math.max(most, compiling);
        await sleep(60_000, undefined, { signal });
      },
      deploy: async () => {
        deployed = true;
      },
    },
  });
  const jobs = Array.from({ length: 8 }, (_, i) => ({ key: `c${i}`, payload: compile(`n${i}`) }));
  await enqueueMany(db, 'compile', jobs, { priority: 0 });
  await until(() => compiling === 3);
  await enqueue(db, 'deploy', { deploy: 'd' }, { key: 'd', priority: 30 });
  await until(() => deployed);
  expect(most).toBe(3);

  // and a stop aborts them, gives them back at once, and counts no attempt
  const stoppedAt = Date.now();
  queues.splice(0);
  await queue.stop();
  expect(Date.now() - stoppedAt).toBeLessThan(5_000);
  const { rows } = await pool.query(
    'select count(*)::int as free from graphile_worker._private_jobs where is_available and attempts = 0 and run_at <= now()',
  );
  expect(rows[0].free).toBe(8);
  expect((await pool.query('select from process')).rowCount).toBe(0);
});

test('a handler that ignores its abort does not hold up a stop, and its job is free afterwards', async () => {
  let started = false;
  const queue = await start({
    handlers: {
      collect: () => {
        started = true;
        return new Promise(() => {});
      },
    },
  });
  await enqueue(db, 'collect', {}, { key: 'collect', priority: 0 });
  await until(() => started);
  queues.splice(0);
  const stoppedAt = Date.now();
  await queue.stop();
  expect(Date.now() - stoppedAt).toBeLessThan(7_000);
  expect(await queueDepth(db)).toMatchObject([{ name: 'collect', waiting: 1, running: 0 }]);
});

test('a handler that throws is tried again, and told which attempt it is', async () => {
  const attempts: [number, boolean][] = [];
  await start({
    handlers: {
      collect: async (_, { attempt, lastAttempt }) => {
        attempts.push([attempt, lastAttempt]);
        throw new Error('not today');
      },
    },
  });
  await enqueue(db, 'collect', {}, { key: 'collect', priority: 0, attemptsMax: 2 });
  await until(() => attempts.length === 2, 30_000);
  expect(attempts).toEqual([
    [1, false],
    [2, true],
  ]);
  await until(async () => (await queueDepth(db))[0]?.failed === 1);
});
