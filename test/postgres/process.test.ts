import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { type ControlProcess, findDead, registerProcess } from '../../src/postgres/process.ts';
import { enqueue } from '../../src/postgres/queue.ts';
import { freshDatabase } from './fresh.ts';
import { until } from './until.ts';

const { pool, db, url } = await freshDatabase();
const logger = pino({ level: 'silent' });
const registered: ControlProcess[] = [];

async function register(id: string): Promise<ControlProcess> {
  const found = await registerProcess({ pool, id, services: ['compile'], logger });
  registered.push(found);
  return found;
}

afterEach(async () => {
  await Promise.all(registered.splice(0).map((each) => each.stop()));
  await pool.query('delete from graphile_worker._private_jobs; delete from process');
});

/** A job as a worker holds it that has begun its second attempt. */
async function heldJob(key: string, workerId: string): Promise<void> {
  await enqueue(db, 'collect', {}, { key, priority: 0 });
  await pool.query(
    'update graphile_worker._private_jobs set locked_by = $1, locked_at = now(), attempts = 2 where key = $2',
    [workerId, key],
  );
}

async function jobs() {
  const { rows } = await pool.query(
    'select key, locked_by, attempts, run_at <= now() as due from graphile_worker._private_jobs order by key',
  );
  return rows;
}

/** A session that holds a process's lock, as a living process of another machine does. */
async function elsewhere(id: string, lockKey: number): Promise<pg.Client> {
  const session = new pg.Client({ connectionString: url });
  session.on('error', () => {});
  await session.connect();
  await session.query('select pg_advisory_lock($1)', [lockKey]);
  await session.query("insert into process (id, lock_key, host, pid, services) values ($1, $2, 'far', 1, '{}')", [
    id,
    lockKey,
  ]);
  return session;
}

test('who is dead: at once where the process table says so, elsewhere after two looks', () => {
  const here = { host: 'here', isAlive: (pid: number) => pid === 1 };
  const sightings = [
    { id: 'alive', lockFree: false, host: 'far', pid: 2 },
    { id: 'gone', lockFree: true, host: 'here', pid: 2 },
    { id: 'reconnecting', lockFree: true, host: 'here', pid: 1 },
    { id: 'far', lockFree: true, host: 'far', pid: 2 },
    { id: 'rowless', lockFree: true, host: undefined, pid: undefined },
  ];
  const first = findDead(sightings, new Set(), here);
  expect(first).toEqual({ dead: ['gone'], suspects: new Set(['reconnecting', 'far', 'rowless']) });
  const second = findDead(
    sightings.map((each) => ({ ...each, lockFree: each.lockFree && each.id !== 'reconnecting' })),
    first.suspects,
    here,
  );
  expect(second.dead).toEqual(['gone', 'far', 'rowless']);
});

test('the jobs of a dead process are free within seconds, the attempt uncounted; those of a living one are left alone', async () => {
  const alive = await elsewhere('alive', 77);
  const dying = await elsewhere('dying', 78);
  await heldJob('a', 'alive/collect/1');
  await heldJob('b', 'dying/collect/1');
  await heldJob('c', 'never-registered/collect/1');
  await register('reaper');
  await dying.end();
  await until(async () => (await jobs()).filter((job) => job.locked_by === null).length === 2, 20_000);
  expect(await jobs()).toEqual([
    { key: 'a', locked_by: 'alive/collect/1', attempts: 2, due: true },
    { key: 'b', locked_by: null, attempts: 1, due: true },
    { key: 'c', locked_by: null, attempts: 1, due: true },
  ]);
  const { rows } = await pool.query('select id from process order by id');
  expect(rows.map((row) => row.id)).toEqual(['alive', 'reaper']);
  await alive.end();
});

test('a held job that was queued anew meanwhile is not run twice when its holder dies', async () => {
  const dying = await elsewhere('dying', 79);
  await heldJob('a', 'dying/collect/1');
  await enqueue(db, 'collect', {}, { key: 'a', priority: 0 });
  expect(await jobs()).toHaveLength(2);
  await dying.end();
  await register('reaper');
  await until(async () => (await jobs()).every((job) => job.locked_by === null), 20_000);
  expect(await jobs()).toEqual([{ key: 'a', locked_by: null, attempts: 0, due: true }]);
});

test('a living process that loses its connection has its lock back soon, and keeps its jobs', async () => {
  await register('one');
  await register('two');
  await heldJob('a', 'one/collect/1');
  const session = async () =>
    (
      await pool.query(
        `select pg_locks.pid from pg_locks join process on process.id = 'one'
         where locktype = 'advisory' and granted and (classid::bigint << 32 | objid::bigint) = lock_key`,
      )
    ).rows[0]?.pid;
  const before = await session();
  expect(before).toBeGreaterThan(0);
  await pool.query('select pg_terminate_backend($1)', [before]);
  await until(async () => {
    const after = await session();
    return after > 0 && after !== before;
  });
  await sleep(6_000); // one look of the other
  expect(await jobs()).toMatchObject([{ locked_by: 'one/collect/1' }]);
});
