/** Looking at real processes and waiting for what becomes of them. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

export async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  return text.split(' ').filter(Boolean).map(Number);
}

/** A zombie has ended. */
export async function isAlive(pid: number): Promise<boolean> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return stat !== '' && !/\) [ZX] /.test(stat);
}

/** The first defined answer, asked for again and again. */
export async function eventually<Value>(ask: () => Promise<Value | undefined>, timeMaxMs = 20_000): Promise<Value> {
  const deadline = Date.now() + timeMaxMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (Date.now() > deadline) throw new Error(`not within ${timeMaxMs} ms: ${ask}`);
    await sleep(50);
  }
}

export async function gone(pids: number[], timeMaxMs?: number): Promise<true> {
  return eventually(async () => {
    const alive = await Promise.all(pids.map(isAlive));
    return alive.includes(true) ? undefined : true;
  }, timeMaxMs);
}
