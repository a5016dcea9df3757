/** CPU time of processes, from /proc (Linux): user and system, all threads. */
import { readFileSync } from 'node:fs';
import { execaSync } from 'execa';

const TICKS_PER_SECOND = Number(execaSync('getconf', ['CLK_TCK']).stdout);

/** CPU seconds of the processes so far; resolution 10 ms. */
export function cpuSecondsOf(pids: number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name may hold spaces and parentheses; fields are counted from the last one.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / TICKS_PER_SECOND;
}

/** A process and all its descendants now alive: say, a postmaster with its backends. */
export function withDescendants(pid: number): number[] {
  const found = [pid];
  for (const parent of found) {
    for (const task of execaSync('ls', [`/proc/${parent}/task`]).stdout.split('\n')) {
      const children = readFileSync(`/proc/${parent}/task/${task}/children`, 'utf8').trim();
      if (children) found.push(...children.split(' ').map(Number));
    }
  }
  return found;
}
