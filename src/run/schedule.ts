/**
 * When things are due. All of it pure: times are epoch milliseconds, `random` is in [0, 1).
 *
 * A fleet that was started by one power switch, or woken by one release, must not come as one: first actions are spread
 * over the splay, and every interval is shortened by up to a fifth, anew each time, so that nodes drift apart by themselves.
 * Intervals are only ever shortened: an interval is a promise of "at least this often" (P7).
 */

const SHORTENED_BY_MAX = 0.2;

/** The next time for something done every `intervalMs`, last done at `lastAt`. */
export function nextAt(lastAt: number, intervalMs: number, random: number): number {
  return lastAt + Math.round(intervalMs * (1 - SHORTENED_BY_MAX * random));
}

/** The first time after a start, or after a wake-up that all nodes get. */
export function firstAt(now: number, splayMs: number, random: number): number {
  return now + Math.floor(splayMs * random);
}

/** How long to wait before try number `attempt` (from 1): doubling from `baseMs`, at most `maxMs`, half of it random. */
export function backoffMs(attempt: number, baseMs: number, maxMs: number, random: number): number {
  const full = Math.min(maxMs, baseMs * 2 ** Math.min(attempt - 1, 30));
  return Math.round(full / 2 + (full / 2) * random);
}
