/** When the queued compiles will be done, as far as the last ones tell. */

export interface Forecast {
  /** How long a compile took of late; null where there was none. */
  seconds_per_compile: number | null;
  /** Until the queue is empty, if nothing is added; null where nobody can know. */
  seconds_left: number | null;
}

/** `recent`: durations of the last compiles in seconds. `workers`: compiles that run at once. */
export function forecast(queued: number, recent: readonly number[], workers: number): Forecast {
  if (recent.length === 0) return { seconds_per_compile: null, seconds_left: queued === 0 ? 0 : null };
  const mean = recent.reduce((sum, each) => sum + each, 0) / recent.length;
  return { seconds_per_compile: round(mean), seconds_left: round((queued * mean) / workers) };
}

function round(seconds: number): number {
  return Math.round(seconds * 100) / 100;
}
