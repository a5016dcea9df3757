/**
 * Run events on their way in. A stream is read line by line; what has arrived is stored as soon as the statement before it is
 * done, so one event waits for nobody and a flood goes in chunks of EVENTS_CHUNK_MAX. Memory holds at most a chunk on its way
 * and one that gathers; then the sender waits.
 *
 * One transaction a chunk: events, the run's row, the node's status, the request it takes up, and the notification. Whatever a
 * crash interrupts is simply sent again from the acknowledged sequence on: events that are there already are left alone.
 */
import { setImmediate } from 'node:timers/promises';
import { sql } from 'kysely';
import { CallboardError } from '../model/errors.ts';
import type { Certname, RunId } from '../model/ids.ts';
import { EVENTS_CHUNK_BYTES_MAX, EVENTS_CHUNK_MAX } from '../model/limits.ts';
import { parseEvent, type RunEvent } from '../model/report.ts';
import { type Database, row, type Transaction } from '../postgres/database.ts';
import { notify } from '../postgres/listen.ts';
import { advanceRun, contiguous } from './run.ts';
import {
  createRun,
  ensureNode,
  insertEvents,
  lockRun,
  sequencesAbove,
  takeRequest,
  updateNodeStatus,
  updateRun,
} from './store.ts';

/** Whose run it is, from the client certificate. */
export interface Runner {
  certname: Certname;
  /** JSON text of the certificate's extensions. */
  extensions: string;
}

/**
 * Takes a stream of event lines and gives the highest sequence up to which everything is stored. When a line is refused, the
 * lines before it are stored all the same. Throws EVENT_INVALID, EVENTS_TOO_MANY, ACCESS_DENIED for another node's run, and
 * whatever the stream of lines throws.
 */
export async function takeEvents(
  db: Database,
  runner: Runner,
  run: RunId,
  lines: AsyncIterable<Buffer>,
): Promise<number> {
  let gathered: RunEvent[] = [];
  let bytes = 0;
  let acknowledged: number | undefined;
  let failure: unknown;
  let storing: Promise<void> | undefined;

  const store = async (): Promise<void> => {
    try {
      // Lines of the same piece of the body come in the same turn of the event loop: they go together.
      await setImmediate();
      while (gathered.length > 0) {
        const chunk = gathered;
        gathered = [];
        bytes = 0;
        acknowledged = await storeEvents(db, runner, run, chunk);
      }
    } catch (error) {
      failure = error;
      gathered = [];
    }
    // In the same turn as the last look at what gathered, so that no line falls in between.
    storing = undefined;
  };
  const settled = async (): Promise<void> => {
    await storing;
    if (failure) throw failure;
  };

  let line = 0;
  try {
    for await (const text of lines) {
      line += 1;
      gathered.push(parseEvent(text, line));
      bytes += text.length;
      storing ??= store();
      if (failure || gathered.length >= EVENTS_CHUNK_MAX || bytes >= EVENTS_CHUNK_BYTES_MAX) await settled();
    }
  } finally {
    await storing;
  }
  await settled();
  return acknowledged ?? acknowledgedOf(db, runner, run);
}

/** Stores a chunk in one transaction and gives the acknowledged sequence. */
export function storeEvents(db: Database, runner: Runner, run: RunId, chunk: RunEvent[]): Promise<number> {
  return db.transaction().execute(async (tx) => {
    const found = (await lockRun(tx, run)) ?? (await firstSight(tx, runner, run, chunk));
    if (found.certname !== runner.certname) throw notTheirs(runner, run);

    // The first event of a sequence counts; what is acknowledged needs no look.
    const events = new Map<number, RunEvent>();
    for (const event of chunk) {
      if (event.sequence > found.last_sequence && !events.has(event.sequence)) events.set(event.sequence, event);
    }
    if (events.size === 0) return found.last_sequence;
    const sequences = (await insertEvents(tx, run, found.day, [...events.values()])).sort((a, b) => a - b);
    if (sequences.length === 0) return found.last_sequence;

    const fresh = sequences.map((sequence) => events.get(sequence)!);
    const next = advanceRun(found, fresh);
    next.last_sequence = contiguous(found.last_sequence, sequences);
    // Events from behind a gap that has just closed.
    while (next.last_sequence > found.last_sequence && next.event_count > next.last_sequence) {
      const above = await sequencesAbove(tx, run, found.day, next.last_sequence, EVENTS_CHUNK_MAX);
      const end = contiguous(next.last_sequence, above);
      const closed = end > next.last_sequence;
      next.last_sequence = end;
      if (!closed) break;
    }
    await updateRun(tx, run, next);
    if (next.request !== null && next.request !== found.request) {
      await takeRequest(tx, next.request, runner.certname, run);
    }
    if (found.event_count === 0 || next.status !== found.status || fresh.some((event) => event.kind === 'start')) {
      await updateNodeStatus(tx, run, next);
    }
    await notify(tx, 'callboard_run_event', {
      certname: runner.certname,
      run,
      day: found.day,
      from: sequences[0]!,
      to: sequences.at(-1)!,
    });
    return next.last_sequence;
  });
}

async function firstSight(tx: Transaction, runner: Runner, run: RunId, chunk: RunEvent[]) {
  await ensureNode(tx, runner.certname, runner.extensions);
  const first = chunk.reduce((one, other) => (other.sequence < one.sequence ? other : one));
  await createRun(tx, run, runner.certname, first.at);
  const created = await lockRun(tx, run);
  if (!created) throw new Error(`the run ${run} vanished while it was created`);
  return created;
}

async function acknowledgedOf(db: Database, runner: Runner, run: RunId): Promise<number> {
  const found = await row<{ certname: string; last_sequence: number }>(
    sql`select certname, last_sequence from run where id = ${run}`,
    db,
  );
  if (found && found.certname !== runner.certname) throw notTheirs(runner, run);
  return found?.last_sequence ?? 0;
}

function notTheirs(runner: Runner, run: RunId): CallboardError {
  return new CallboardError('ACCESS_DENIED', { identity: `node ${runner.certname}`, action: `report the run ${run}` });
}
