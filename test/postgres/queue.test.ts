import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { enqueue, enqueueMany, enqueueSelected, type Queue, queueDepth, startQueue } from '../../src/postgres/queue.ts';
import { freshDatabase } from './fresh.ts';
import { until } from './until.ts';

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
 * The race in graphile_worker.add_jobs(): a worker takes the job between its two statements. We make it happen for sure: a
 * trigger on the notification that lies between them cannot be had, so many rounds of queueing against a busy worker must
 * do. Each round's number must be seen by a run that began after it was queued.
 */
test('no job is lost that is queued at the very moment when its predecessor is taken', async () => {
  let current = 0;
  let ranWith = 0;
  await start({
    concurrency: { compile: 4 },
    handlers: {
      compile: async () => {
        const { rows } = await pool.query('select last_value::int as n from round');
        ranWith = Math.max(ranWith, rows[0].n);
      },
    },
  });
  await pool.query('create sequence round');
  for (let round = 0; round < 300; round += 1) {
    await db.transaction().execute(async (tx) => {
      current = (await sql<{ n: number }>`select nextval('round')::int as n`.execute(tx)).rows[0]!.n;
      await enqueue(tx, 'compile', compile('a'), { key: 'a', priority: 10 });
    });
  }
  await until(async () => (await queueDepth(db)).every((depth) => depth.waiting + depth.running === 0));
  expect(ranWith).toBe(current);
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
  await until(() => attempts.length === 2, 15_000);
  expect(attempts).toEqual([
    [1, false],
    [2, true],
  ]);
  await until(async () => (await queueDepth(db))[0]?.failed === 1);
});
