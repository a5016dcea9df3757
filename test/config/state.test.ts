import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openStateDirectory } from '../../src/config/state.ts';

const HOLDER = fileURLToPath(new URL('hold-state.ts', import.meta.url));
let directory: string;
const children: ResultPromise[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'callboard-state-'));
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  await rm(directory, { recursive: true, force: true });
});

/** Starts a process that takes the directory; its first word: held, or an error's code. */
async function rival(): Promise<{ word: string; child: ResultPromise }> {
  const child = execa(process.execPath, [HOLDER, directory], { reject: false });
  children.push(child);
  const [data] = await once(child.stdout!, 'data');
  return { word: String(data).trim(), child };
}

test('it is made with its folders, which nobody else may read, and released again', async () => {
  const state = await openStateDirectory(join(directory, 'a/b'));
  expect((await readdir(state.path)).sort()).toEqual(['ca', 'code', 'content', 'git', 'log', 'server.pid']);
  expect((await stat(join(state.path, 'ca'))).mode & 0o777).toBe(0o700);
  await state.release();
  expect(await readdir(state.path)).not.toContain('server.pid');
});

test('a second server is refused with the pid of the first, and may have it once that was killed', async () => {
  const { word, child } = await rival();
  expect(word).toBe('held');
  await expect(openStateDirectory(directory)).rejects.toMatchObject({
    code: 'STATE_IN_USE',
    detail: { pid: child.pid, state: directory },
  });
  child.kill('SIGKILL');
  await child;
  const state = await openStateDirectory(directory);
  expect(await readFile(join(directory, 'server.pid'), 'utf8')).toMatch(new RegExp(`^${process.pid}\n`));
  await state.release();
});

test('a pid that another program has now is no obstacle, and neither is a torn lock', async () => {
  const [pid, , boot] = (await readFile(`/proc/sys/kernel/random/boot_id`, 'utf8').then((id) => `1\n0\n${id}`)).split(
    '\n',
  );
  for (const stale of [`${process.ppid}\n1\n${boot}\n`, `${pid}\n`, '', 'what?']) {
    await writeFile(join(directory, 'server.pid'), stale);
    const state = await openStateDirectory(directory);
    await state.release();
  }
});

test('of eight rivals for the lock of a dead server exactly one has it', async () => {
  const { child } = await rival();
  child.kill('SIGKILL');
  await child;
  const words = (await Promise.all(Array.from({ length: 8 }, rival))).map(({ word }) => word).sort();
  expect(words).toEqual([...Array(7).fill('STATE_IN_USE'), 'held']);
  expect((await readdir(directory)).filter((name) => name.startsWith('server.pid'))).toEqual(['server.pid']);
});
