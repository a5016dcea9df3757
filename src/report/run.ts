/**
 * What a run is known to be, derived from its events as they arrive. Events may come twice, late or out of order; only those
 * stored for the first time are counted, so the row is the same in the end whatever the order. A run that was sent with a gap
 * has every event behind the gap stored, but acknowledges only up to the gap.
 */
import type { RawValue } from '../model/json.ts';
import { RUN_STATUSES, type RunEvent, type RunStatus } from '../model/report.ts';

export interface RunSummary {
  /** Resources evaluated, and of these: changed, failed, skipped, brought back to their state, pending under noop. */
  resources: number;
  changed: number;
  failed: number;
  skipped: number;
  corrective: number;
  noop: number;
  /** Of the Puppet process; null until the run ends, or when there was none. */
  exit_code: number | null;
}

export interface RunRow {
  certname: string;
  /** The partition that holds its events, like 2026-11-24. */
  day: string;
  catalog: string | null;
  code_version: string | null;
  noop: boolean;
  request: string | null;
  state: 'running' | 'finished';
  status: RunStatus | null;
  /** ISO 8601 with microseconds. */
  started_at: string;
  finished_at: string | null;
  last_sequence: number;
  event_count: number;
  summary: RunSummary | null;
}

export const NO_RESOURCES: RunSummary = {
  resources: 0,
  changed: 0,
  failed: 0,
  skipped: 0,
  corrective: 0,
  noop: 0,
  exit_code: null,
};

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The run after some events of it were stored for the first time. `last_sequence` is the caller's: it may need a look at older ones. */
export function advanceRun(run: RunRow, fresh: RunEvent[]): RunRow {
  const next = { ...run, summary: { ...NO_RESOURCES, ...run.summary }, event_count: run.event_count + fresh.length };
  const { summary } = next;
  for (const { kind, data, at } of fresh) {
    if (kind === 'resource') countResource(summary, data);
    if (kind === 'start') {
      next.catalog = textOf(data, 'catalog');
      next.code_version = textOf(data, 'code_version');
      next.noop = data.member('noop')?.text === 'true';
      const request = textOf(data, 'request');
      next.request = request !== null && UUID.test(request) ? request : null;
      next.started_at = at;
    }
    if (kind === 'end' && next.state === 'running') {
      next.state = 'finished';
      next.finished_at = at;
      const status = textOf(data, 'status');
      next.status = RUN_STATUSES.find((known) => known === status) ?? countedStatus(summary);
      summary.exit_code = data.member('exit_code')?.integer() ?? null;
    }
  }
  return next;
}

/** The highest sequence up to which there is no gap, as far as `stored` (in ascending order) reaches. */
export function contiguous(last: number, stored: Iterable<number>): number {
  let end = last;
  for (const sequence of stored) {
    if (sequence > end + 1) break;
    if (sequence === end + 1) end = sequence;
  }
  return end;
}

/** `data` is the status hash of one resource as Puppet writes it. */
function countResource(summary: RunSummary, data: RawValue): void {
  summary.resources += 1;
  let failed = false;
  for (const { key, value } of data.members()) {
    if (key === 'events') {
      if (value.items().some((event) => event.member('status')?.string() === 'noop')) summary.noop += 1;
    } else if (value.text === 'true') {
      if (key === 'changed') summary.changed += 1;
      if (key === 'skipped') summary.skipped += 1;
      if (key === 'corrective_change') summary.corrective += 1;
      if (key === 'failed' || key === 'failed_to_restart') failed = true;
    }
  }
  if (failed) summary.failed += 1;
}

function countedStatus(summary: RunSummary): RunStatus {
  if (summary.failed > 0) return 'failed';
  return summary.changed > 0 ? 'changed' : 'unchanged';
}

function textOf(data: RawValue, key: string): string | null {
  return data.member(key)?.string() ?? null;
}
