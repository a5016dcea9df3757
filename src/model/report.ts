/**
 * Run events: what a node streams while it applies a catalog. A line of NDJSON each; the envelope is checked here, and `data`,
 * which is Puppet's own words, is kept as the text it came as. Format: docs/formats/run-events-v1.md.
 */
import { CallboardError } from './errors.ts';
import { parseRaw, type RawValue } from './json.ts';
import { EVENTS_PER_RUN_MAX } from './limits.ts';

export const EVENT_KINDS = ['start', 'resource', 'log', 'end'] as const;
export type EventKind = (typeof EVENT_KINDS)[number];

export const RUN_STATUSES = ['unchanged', 'changed', 'failed'] as const;
export type RunStatus = (typeof RUN_STATUSES)[number];

export interface RunEvent {
  /** Given by the node, from 1, one more for each event of the run. */
  sequence: number;
  /** The node's clock, ISO 8601 in UTC with microseconds. */
  at: string;
  kind: EventKind;
  /** A JSON object. */
  data: RawValue;
}

/**
 * One line. `line` is its number in the body, for the error. Throws EVENT_INVALID, and EVENTS_TOO_MANY for a sequence above
 * EVENTS_PER_RUN_MAX.
 */
export function parseEvent(bytes: Buffer, line: number): RunEvent {
  const refuse = (reason: string): CallboardError => new CallboardError('EVENT_INVALID', { line, reason });
  let event: RawValue;
  try {
    event = parseRaw(bytes);
  } catch (error) {
    if (!(error instanceof CallboardError)) throw error;
    throw refuse(`${error.detail.reason} at byte ${error.detail.offset}`);
  }
  const fields = new Map(event.members().map(({ key, value }) => [key, value]));
  const sequence = fields.get('sequence')?.integer();
  if (sequence === undefined || sequence < 1) throw refuse('its sequence is not an integer from 1');
  if (sequence > EVENTS_PER_RUN_MAX) throw new CallboardError('EVENTS_TOO_MANY', { max: EVENTS_PER_RUN_MAX });
  const at = instant(fields.get('at')?.string());
  if (at === undefined) throw refuse("its 'at' is not an ISO 8601 time with an offset");
  const kind = EVENT_KINDS.find((known) => known === fields.get('kind')?.string());
  if (kind === undefined) throw refuse(`its kind is none of ${EVENT_KINDS.join(', ')}`);
  const data = fields.get('data');
  if (data?.kind !== 'object') throw refuse('its data is not an object');
  return { sequence, at, kind, data };
}

const TIME = /^(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}:\d{2})$/;

/** Ruby writes nine digits of a second, PostgreSQL keeps six, `Date` three: we keep six. */
function instant(text: string | undefined): string | undefined {
  const [, date, time, fraction = '', offset] = TIME.exec(text ?? '') ?? [];
  if (date === undefined) return undefined;
  // `Date` takes February 30th for March 2nd.
  const day = new Date(`${date}T00:00:00Z`);
  const seconds = new Date(`${date}T${time}${offset}`);
  if (Number.isNaN(seconds.getTime()) || day.toISOString().slice(0, 10) !== date) return undefined;
  const whole = seconds.toISOString();
  if (whole.length !== 24) return undefined;
  return `${whole.slice(0, 19)}.${fraction.slice(0, 6).padEnd(6, '0')}Z`;
}
