import { sql } from 'kysely';
import { beforeAll, expect, test } from 'vitest';
import { addDays, keepPartitions, planPartitions } from '../../src/report/partitions.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';

let database: FreshDatabase;
let today: string;
beforeAll(async () => {
  database = await freshDatabase();
  today = (await database.pool.query("select (now() at time zone 'utc')::date as day")).rows[0].day;
  await database.pool.query("insert into node (certname, environment, requested_environment) values ('a', 'e', 'e')");
});

async function addEvent(day: string, sequence: number): Promise<void> {
  await database.pool.query(
    `insert into run_event (day, run, sequence, at, kind, data)
     values ($1, '00000000-0000-0000-0000-000000000001', $2, now(), 'log', '{}')`,
    [day, sequence],
  );
}

async function tableOf(sequence: number): Promise<string[]> {
  const { rows } = await database.pool.query(
    'select tableoid::regclass::text as name from run_event where sequence = $1',
    [sequence],
  );
  return rows.map((row) => row.name);
}

const name = (day: string) => `run_event_${day.replaceAll('-', '')}`;

test('the plan makes what is missing from today on, and drops what is too old', () => {
  const existing = ['2026-10-20', '2026-10-25', '2026-11-24', '2026-11-25'];
  expect(planPartitions('2026-11-24', existing, ['2026-11-20', '2026-10-01'], 3, 30)).toEqual({
    make: ['2026-11-20', '2026-11-26', '2026-11-27'],
    drop: ['2026-10-20'],
  });
  expect(addDays('2026-02-28', 1)).toBe('2026-03-01');
  expect(addDays('2024-03-01', -1)).toBe('2024-02-29');
});

test('events move from the default partition to their day, new ones go there, old days leave with their runs', async () => {
  const [yesterday, old] = [addDays(today, -1), addDays(today, -40)];
  await addEvent(today, 1);
  await addEvent(yesterday, 2);
  await addEvent(old, 3);
  expect(await tableOf(1)).toEqual(['run_event_default']);
  await database.pool.query(
    `insert into run (id, certname, day, started_at) values
       ('00000000-0000-0000-0000-000000000001', 'a', $1, now()), ('00000000-0000-0000-0000-000000000002', 'a', $2, now()),
       ('00000000-0000-0000-0000-000000000003', 'a', $2, now())`,
    [today, old],
  );
  await database.pool.query("update node set last_run = '00000000-0000-0000-0000-000000000003'");

  const plan = await keepPartitions(database.db, 3, 30);
  expect(plan.make).toEqual([yesterday, today, addDays(today, 1), addDays(today, 2), addDays(today, 3)]);
  expect(await tableOf(1)).toEqual([name(today)]);
  expect(await tableOf(2)).toEqual([name(yesterday)]);
  expect(await tableOf(3)).toEqual([]);
  await addEvent(today, 4);
  expect(await tableOf(4)).toEqual([name(today)]);
  await expect(addEvent(today, 4)).rejects.toThrow('duplicate key');
  // The run with id 2 is gone; the one with id 3 is a node's last, and stays.
  const { rows } = await database.pool.query('select right(id::text, 1) as id from run order by id');
  expect(rows.map((row) => row.id)).toEqual(['1', '3']);

  expect(await keepPartitions(database.db, 3, 30)).toEqual({ make: [], drop: [] });
  expect((await keepPartitions(database.db, 3, 0)).drop).toEqual([yesterday]);
  expect(await tableOf(2)).toEqual([]);
});

test('partitions made while streams write lose and repeat no event', async () => {
  const day = addDays(today, 5);
  let sequence = 1000;
  let running = true;
  const writers = Array.from({ length: 4 }, async () => {
    while (running) await addEvent(day, sequence++);
  });
  await Promise.all([keepPartitions(database.db, 5, 30), keepPartitions(database.db, 5, 30)]);
  running = false;
  await Promise.all(writers);
  const { rows } = await sql<{ count: number; tables: string[] }>`
    select count(*)::int as count, array_agg(distinct tableoid::regclass::text) as tables from run_event where day = ${day}::date
  `.execute(database.db);
  expect(rows[0]).toEqual({ count: sequence - 1000, tables: [name(day)] });
});
