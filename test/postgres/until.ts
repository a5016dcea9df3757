import { setTimeout as sleep } from 'node:timers/promises';

/** Waits for a state, with a deadline; a check that throws counts as "not yet". */
export async function until(reached: () => boolean | Promise<boolean>, timeMaxMs = 30_000): Promise<void> {
  const end = Date.now() + timeMaxMs;
  let last: unknown;
  for (;;) {
    try {
      if (await reached()) return;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`not reached within ${timeMaxMs} ms: ${reached}`, { cause: last });
    await sleep(20);
  }
}
