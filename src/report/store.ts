/**
 * The statements that store runs. Lock order within a transaction: the run's row, then its request's, then the node's.
 * Times are read as text with microseconds: `Date` would cut them, and a cut time does not find its row again.
 */
import { type RawBuilder, sql } from 'kysely';
import type { Certname, RunId } from '../model/ids.ts';
import type { RunEvent } from '../model/report.ts';
import { row, rows, type Transaction } from '../postgres/database.ts';
import type { RunRow } from './run.ts';

/** A timestamptz column as ISO 8601 text in UTC with microseconds. */
export function timeText(column: string): RawBuilder<string> {
  return sql`to_char(${sql.ref(column)} at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;
}

/** The run's row, locked until the transaction ends: the streams of one run follow one another. */
export function lockRun(tx: Transaction, run: RunId): Promise<RunRow | undefined> {
  return row(
    sql<RunRow>`
      select certname, day, catalog, code_version, noop, request, state, status, ${timeText('started_at')} as started_at,
        ${timeText('finished_at')} as finished_at, last_sequence, event_count, summary
      from run where id = ${run} for update
    `,
    tx,
  );
}

/**
 * A node that runs before it ever submitted facts here (its row is gone, or the database is new) gets a row: its events are
 * worth more than the row's tidiness. Its environment is put right by its first facts.
 */
export async function ensureNode(tx: Transaction, certname: Certname, extensions: string): Promise<void> {
  await sql`
    insert into node (certname, environment, requested_environment, trusted_extensions)
    values (${certname}, 'production', 'production', ${extensions}::json) on conflict (certname) do nothing
  `.execute(tx);
}

/** Its day is the one on which the server first sees it, so that no node's clock chooses a partition. */
export async function createRun(tx: Transaction, run: RunId, certname: Certname, startedAt: string): Promise<void> {
  await sql`
    insert into run (id, certname, day, started_at)
    values (${run}, ${certname}, (now() at time zone 'utc')::date, least(${startedAt}::timestamptz, now()))
    on conflict (id) do nothing
  `.execute(tx);
}

/**
 * Stores events, none of which has the sequence of another; gives the sequences that were not there before. Their data goes as
 * one text parted by U+0001, which cannot stand in JSON: in an array every quote would be escaped here and unescaped there.
 */
export async function insertEvents(tx: Transaction, run: RunId, day: string, events: RunEvent[]): Promise<number[]> {
  const inserted = await rows<{ sequence: number }>(
    sql`
      insert into run_event (day, run, sequence, at, kind, data)
      select ${day}::date, ${run}::uuid, sequence, at, kind, data::json
      from unnest(
        ${events.map((event) => event.sequence)}::bigint[], ${events.map((event) => event.at)}::timestamptz[],
        ${events.map((event) => event.kind)}::text[],
        string_to_array(${events.map((event) => event.data.text).join('\u0001')}::text, ${'\u0001'})
      ) as event (sequence, at, kind, data)
      on conflict do nothing
      returning sequence
    `,
    tx,
  );
  return inserted.map(({ sequence }) => sequence);
}

/** Stored sequences above one, ascending, at most `count`. */
export async function sequencesAbove(
  tx: Transaction,
  run: RunId,
  day: string,
  sequence: number,
  count: number,
): Promise<number[]> {
  const found = await rows<{ sequence: number }>(
    sql`
      select sequence from run_event
      where day = ${day}::date and run = ${run} and sequence > ${sequence} order by sequence limit ${count}
    `,
    tx,
  );
  return found.map((event) => event.sequence);
}

export async function updateRun(tx: Transaction, id: RunId, run: RunRow): Promise<void> {
  await sql`
    update run set
      catalog = ${run.catalog}, code_version = ${run.code_version}, noop = ${run.noop}, request = ${run.request}::uuid,
      state = ${run.state}, status = ${run.status},
      started_at = least(${run.started_at}::timestamptz, now()), finished_at = ${run.finished_at}::timestamptz,
      last_sequence = ${run.last_sequence}, event_count = ${run.event_count}, summary = ${JSON.stringify(run.summary)}::json
    where id = ${id}
  `.execute(tx);
}

/** A wish to run is taken up by the first run that names it. */
export async function takeRequest(tx: Transaction, request: string, certname: Certname, run: RunId): Promise<void> {
  await sql`
    update run_request set run = ${run} where id = ${request} and certname = ${certname} and run is null
  `.execute(tx);
}

/** How the node's last run stands; a run that started before the last one, delivered late, changes nothing. */
export async function updateNodeStatus(tx: Transaction, id: RunId, run: RunRow): Promise<void> {
  await sql`
    update node set last_run = ${id}, run_status = ${run.status ?? 'running'}
    where certname = ${run.certname}
      and (last_run is null or last_run = ${id}
        or coalesce((select started_at from run where run.id = node.last_run), '-infinity')
           <= (select started_at from run where run.id = ${id}))
  `.execute(tx);
}
