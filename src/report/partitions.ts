/**
 * Day partitions of `run_event`. They are made ahead, because making one in the middle of an insert would stop every stream;
 * events of a day without one go to the default partition, and move when it is made. Old days go as whole tables: no delete,
 * no vacuum. Each step is a transaction that gives up when it would make the streams wait long; the next hour tries again.
 */
import { sql } from 'kysely';
import { type Database, type Queries, row, rows, type Transaction } from '../postgres/database.ts';

/** How long a step may wait for a lock, and so make others wait behind it. */
const LOCK_TIME_MAX = '3s';
/** Any constant: held while partitions are made or dropped. */
const LOCK = 7_231_003;
/** Run rows that one statement deletes. */
const RUNS_DELETED_AT_ONCE = 5_000;

/** Days as text, like 2026-11-24. */
export interface PartitionPlan {
  make: string[];
  drop: string[];
}

/** Which partitions are missing from today on, and from before, for rows in the default one; and which are too old. */
export function planPartitions(
  today: string,
  existing: string[],
  strayDays: string[],
  daysAhead: number,
  daysKept: number,
): PartitionPlan {
  const oldest = addDays(today, -daysKept);
  const wanted = new Set(strayDays.filter((day) => day >= oldest));
  for (let ahead = 0; ahead <= daysAhead; ahead += 1) wanted.add(addDays(today, ahead));
  const there = new Set(existing);
  return {
    make: [...wanted].filter((day) => !there.has(day)).sort(),
    drop: existing.filter((day) => day < oldest).sort(),
  };
}

export function addDays(day: string, days: number): string {
  const date = new Date(`${day}T00:00:00Z`);
  date.setUTCDate(date.getUTCDate() + days);
  return date.toISOString().slice(0, 10);
}

export async function keepPartitions(db: Database, daysAhead: number, daysKept: number): Promise<PartitionPlan> {
  const today = (await row(sql<{ day: string }>`select (now() at time zone 'utc')::date as day`, db))!.day;
  const plan = planPartitions(today, await existingDays(db), await strayDays(db), daysAhead, daysKept);
  for (const day of plan.make) await step(db, (tx) => makePartition(tx, day));
  for (const day of plan.drop) await step(db, (tx) => dropPartition(tx, day));
  const oldest = addDays(today, -daysKept);
  await sql`delete from run_event_default where day < ${oldest}::date`.execute(db);
  while ((await deleteRuns(db, oldest)) === RUNS_DELETED_AT_ONCE);
  return plan;
}

async function step(db: Database, work: (tx: Transaction) => Promise<void>): Promise<void> {
  await db.transaction().execute(async (tx) => {
    await sql`select set_config('lock_timeout', ${LOCK_TIME_MAX}, true), pg_advisory_xact_lock(${LOCK})`.execute(tx);
    await work(tx);
  });
}

function partition(day: string): string {
  return `run_event_${day.replaceAll('-', '')}`;
}

/** Days that have a partition. */
async function existingDays(db: Queries): Promise<string[]> {
  const tables = await rows<{ name: string }>(
    sql`
      select child.relname as name from pg_inherits join pg_class as child on child.oid = inhrelid
      where inhparent = 'run_event'::regclass and child.relname ~ '^run_event_[0-9]{8}$'
    `,
    db,
  );
  return tables.map(({ name }) => name.replace(/^run_event_(....)(..)(..)$/, '$1-$2-$3'));
}

/** Days of rows in the default partition. */
async function strayDays(db: Queries): Promise<string[]> {
  const found = await rows<{ day: string }>(sql`select distinct day from run_event_default`, db);
  return found.map(({ day }) => day);
}

async function makePartition(tx: Transaction, day: string): Promise<void> {
  if ((await existingDays(tx)).includes(day)) return;
  const table = sql.table(partition(day));
  // Streams wait at the parent's door until the partition is there. Locking the default partition instead is too late for
  // those that have chosen it already: they fail with "violates partition constraint" when they get in.
  await sql`lock table only run_event in share row exclusive mode`.execute(tx);
  await sql`create table ${table} (like run_event including all)`.execute(tx);
  await sql`
    with moved as (delete from run_event_default where day = ${day}::date returning *)
    insert into ${table} select * from moved
  `.execute(tx);
  await sql`
    alter table run_event attach partition ${table} for values from (${sql.lit(day)}) to (${sql.lit(addDays(day, 1))})
  `.execute(tx);
}

async function dropPartition(tx: Transaction, day: string): Promise<void> {
  if (!(await existingDays(tx)).includes(day)) return;
  await sql`drop table ${sql.table(partition(day))}`.execute(tx);
}

/** Runs whose events are gone; the newest of each node stays, so that its status is still told. */
async function deleteRuns(db: Queries, before: string): Promise<number> {
  const deleted = await rows(
    sql`
      delete from run where id in (
        select run.id from run join node using (certname)
        where run.day < ${before}::date and node.last_run is distinct from run.id
        limit ${RUNS_DELETED_AT_ONCE}
      ) returning id
    `,
    db,
  );
  return deleted.length;
}
