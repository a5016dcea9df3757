/** The demo is the main job of the program, from nothing to a node rolled back: each of its steps checks what it tells. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { expect, test } from 'vitest';

test('the demo ends well, and leaves no process behind', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'callboard-demo-'));
  const demo = await execa(process.execPath, [fileURLToPath(new URL('../../tools/demo.ts', import.meta.url)), folder], {
    all: true,
    reject: false,
  });
  expect(demo.exitCode, demo.all).toBe(0);
  expect(demo.all.match(/^✓ /gm)?.length).toBe(8);
  expect(await readFile(join(folder, 'managed/www/index.html'), 'utf8')).toContain('Departures');
  const { stdout } = await execa('ps', ['-eo', 'args']);
  expect(stdout.split('\n').filter((line) => line.includes(folder))).toEqual([]);
  await rm(folder, { recursive: true, force: true });
}, 600_000);
