/**
 * The state directory belongs to one process at a time. `server.pid` says to which: its pid, and when the kernel started it,
 * so that a pid that was given to another program later is not taken for it. The file is made complete and only if there
 * is none (link), so two rivals cannot both make it. One whose process is dead is moved away first; a rival's that came
 * between is put back.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { link, mkdir, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CallboardError } from '../model/errors.ts';

export interface StateDirectory {
  /** Absolute, without links. */
  path: string;
  /** Others may use the directory from now on. */
  release(): Promise<void>;
}

/** Folders of the state directory, readable by nobody else; the rooms fill them. */
const FOLDERS = ['content', 'code', 'git', 'ca', 'log'];
const LOCK = 'server.pid';
/** Rivals that start at the same moment settle within milliseconds. */
const TRIES_MAX = 20;

/** Makes the directory where it is missing, and takes it. Throws STATE_IN_USE, and SETTING_INVALID where it cannot be made. */
export async function openStateDirectory(directory: string): Promise<StateDirectory> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o711 });
  } catch (error) {
    throw new CallboardError(
      'SETTING_INVALID',
      { setting: '--state', value: directory, reason: `cannot be made: ${(error as Error).message}` },
      { cause: error },
    );
  }
  const path = await realpath(directory);
  const lock = join(path, LOCK);
  const ours = await describeProcess(process.pid);
  if (!ours) throw new Error('/proc does not know this process');
  await takeLock(lock, ours);
  for (const folder of FOLDERS) await mkdir(join(path, folder), { recursive: true, mode: 0o700 });
  return {
    path,
    async release() {
      if ((await readFile(lock, 'utf8').catch(() => '')) === ours) await rm(lock, { force: true });
    },
  };
}

async function takeLock(lock: string, ours: string): Promise<void> {
  const mine = `${lock}.${process.pid}.${randomBytes(4).toString('hex')}`;
  await writeFile(mine, ours, { mode: 0o644 });
  try {
    for (let tries = 0; tries < TRIES_MAX; tries += 1) {
      if (await succeeds(link(mine, lock))) {
        // A rival that took us for stale a moment ago puts us back within this time; else it is his.
        await sleep(20);
        if ((await readFile(lock, 'utf8').catch(() => '')) === ours) return;
        continue;
      }
      const theirs = await readFile(lock, 'utf8').catch(() => undefined);
      if (theirs === undefined) continue;
      const pid = await holderOf(theirs);
      if (pid !== undefined) throw new CallboardError('STATE_IN_USE', { pid, state: join(lock, '..') });
      const stale = `${mine}.stale`;
      if (await succeeds(rename(lock, stale))) {
        if ((await readFile(stale, 'utf8')) !== theirs) await succeeds(link(stale, lock));
        await rm(stale, { force: true });
      }
    }
    throw new CallboardError('STATE_IN_USE', { pid: 'unknown', state: join(lock, '..') });
  } finally {
    await rm(mine, { force: true });
  }
}

/** The pid in a lock whose process lives. */
async function holderOf(text: string): Promise<number | undefined> {
  const pid = Number(text.split('\n')[0]);
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  return (await describeProcess(pid)) === text ? pid : undefined;
}

/** Whether a process runs: one that ended and that its parent has not taken note of (a zombie) does not. */
export function isRunning(pid: number): boolean {
  try {
    return !ENDED.has(statFields(readFileSync(`/proc/${pid}/stat`, 'utf8'))[0]!);
  } catch {
    return false;
  }
}

const ENDED = new Set(['Z', 'X']);

/** The fields of a stat file from the 3rd, the state, on. The 2nd is the name, in brackets, and may hold anything. */
function statFields(stat: string): string[] {
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

/** A process for all time: its pid, when it started in ticks since the machine did, and which start of the machine that was. */
async function describeProcess(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    // The 22nd field is the start.
    const fields = statFields(stat);
    if (ENDED.has(fields[0]!)) return undefined;
    const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    return `${pid}\n${fields[19]}\n${boot}\n`;
  } catch {
    return undefined;
  }
}

async function succeeds(action: Promise<unknown>): Promise<boolean> {
  return action.then(
    () => true,
    () => false,
  );
}
