/**
 * What happens when the control plane is away for so long that the spool is full. Pure. The oldest complete runs are first
 * shrunk to their start, their end and what changed or failed; when that is not enough, the oldest are dropped. The run that is
 * under way is never touched; it bounds itself (RUN_EVENTS_BYTES_MAX).
 */
import { SHRUNK_RUN_BYTES_MAX } from '../model/limits.ts';

export interface SpooledSize {
  id: string;
  bytes: number;
  complete: boolean;
  /** Something of it may be with the control plane: its sequence numbers are given for good, and it cannot be shrunk. */
  sent: boolean;
}

export interface BoundPlan {
  shrink: string[];
  drop: string[];
}

/** `runs` are in the order of their age, oldest first. A shrunk run counts as SHRUNK_RUN_BYTES_MAX, which it never exceeds. */
export function planBound(runs: SpooledSize[], bytesMax: number): BoundPlan {
  let total = runs.reduce((sum, run) => sum + run.bytes, 0);
  const plan: BoundPlan = { shrink: [], drop: [] };
  const sizes = new Map(runs.map((run) => [run.id, run.bytes]));
  for (const run of runs) {
    if (total <= bytesMax) break;
    if (!run.complete || run.sent || run.bytes <= SHRUNK_RUN_BYTES_MAX) continue;
    plan.shrink.push(run.id);
    total -= run.bytes - SHRUNK_RUN_BYTES_MAX;
    sizes.set(run.id, SHRUNK_RUN_BYTES_MAX);
  }
  for (const run of runs) {
    if (total <= bytesMax) break;
    if (!run.complete) continue;
    plan.drop.push(run.id);
    total -= sizes.get(run.id)!;
  }
  plan.shrink = plan.shrink.filter((id) => !plan.drop.includes(id));
  return plan;
}

interface Event {
  sequence: number;
  at: string;
  kind: string;
  data: Record<string, unknown>;
}

const WEIGHTY_LEVELS = ['warning', 'err', 'alert', 'emerg', 'crit'];

/** The shrunk form of a complete run's lines, numbered anew; for runs of which nothing was sent. */
export function shrinkRun(lines: string[]): string[] {
  const events = lines.map((line): Event => JSON.parse(line));
  const start = events[0]!;
  const end = events.at(-1)!;
  const between = events.slice(1, -1);
  let room = SHRUNK_RUN_BYTES_MAX - lines[0]!.length - lines.at(-1)!.length - 1024;
  const kept: Event[] = [];
  for (const event of between) {
    const { data } = event;
    const weighty =
      event.kind === 'resource'
        ? data.changed || data.failed || data.failed_to_restart
        : WEIGHTY_LEVELS.includes(String(data.level));
    const bytes = Buffer.byteLength(JSON.stringify(event)) + 16;
    if (!weighty || bytes > room) continue;
    room -= bytes;
    kept.push(event);
  }
  const dropped = between.length - kept.length + Number(end.data.events_dropped ?? 0);
  const said: Event = {
    sequence: 0,
    at: end.at,
    kind: 'log',
    data: {
      level: 'warning',
      message: `The spool of the node was full: ${dropped} events of this run were dropped`,
      source: 'Callboard',
      tags: ['warning'],
      time: end.at,
      file: null,
      line: null,
    },
  };
  const shrunk = [start, ...kept, said, { ...end, data: { ...end.data, events_dropped: dropped } }];
  return shrunk.map((event, index) => JSON.stringify({ ...event, sequence: index + 1 }));
}
