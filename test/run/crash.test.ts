/** kill -9 of the node daemon, as a process of its own, in the middle of a run. */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { catalogOf } from './catalog.ts';
import { makeCa, type TestCa } from './certificates.ts';
import { TestControlPlane } from './control-plane.ts';

const PROGRAM = fileURLToPath(new URL('./node-process.ts', import.meta.url));
let directory: string;
let ca: TestCa;
let control: TestControlPlane;
const started: ResultPromise[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'callboard-crash-'));
  ca = await makeCa(join(directory, 'ca'));
  control = new TestControlPlane(ca);
  await control.start();
});
afterAll(async () => {
  for (const process of started) process.kill('SIGKILL');
  await control.stop();
  await rm(directory, { recursive: true, force: true });
});

function startNode(certname: string, state: string): ResultPromise {
  const node = execa(
    process.execPath,
    [
      ...[PROGRAM, '--server', control.url, '--certname', certname, '--state', state],
      ...['--splay', '0', '--wake-splay', '0', '--poll-interval', '2s'],
    ],
    { reject: false, all: true, forceKillAfterDelay: false },
  );
  started.push(node);
  return node;
}

async function until(what: string, look: () => boolean): Promise<void> {
  const deadline = Date.now() + 400_000;
  while (!look()) {
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('killed in the middle of a run, a daemon delivers at its next start all that had happened, and that it was interrupted', async () => {
  const certname = 'crash.example';
  const state = join(directory, 'state');
  const target = await mkdtemp(join(directory, 'target-'));
  await ca.issue(certname, join(state, 'ssl'));
  const files = Array.from({ length: 20 }, (_, index) => ({
    type: 'File',
    title: `${target}/${String(index).padStart(2, '0')}`,
    parameters: { content: 'x' },
  }));
  control.setCatalog(
    catalogOf(certname, [
      ...files.slice(0, 10),
      {
        type: 'Exec',
        title: 'slow',
        parameters: { command: '/bin/sleep 4', require: files.slice(0, 10).map((f) => `File[${f.title}]`) },
      },
      ...files.slice(10).map((file) => ({ ...file, parameters: { ...file.parameters, require: 'Exec[slow]' } })),
    ]),
  );
  control.request = { id: '0190a000-0000-7000-8000-000000000009', mode: 'do' };
  const first = startNode(certname, state);
  await until('ten files to be managed', () => [...control.runs.values()].some((events) => events.size > 20));
  const [id] = control.runs.keys();
  first.kill('SIGKILL');
  await first;
  await until('the orphan to be done', () => !processes(id!));

  const second = startNode(certname, state);
  await until('the end', () => control.ended().length >= 1);
  const [run] = control.ended();
  expect(run!.id).toBe(id);
  expect(run!.end.data).toMatchObject({ status: 'failed', interrupted: true });
  expect(run!.events.map((event) => event.sequence)).toEqual(run!.events.map((_, index) => index + 1));
  // The resource that was being worked on when the daemon died is told of, and the ones behind it were not begun.
  expect(run!.events.find((event) => event.data.resource === 'Exec[slow]')!.data).toMatchObject({ changed: true });
  expect((await readdir(target)).length).toBe(10);
  // Then the node goes on: it runs again, to the end, and the request is served once.
  await until('the next run', () => control.ended().length >= 2);
  expect(control.ended()[1]!.end.data.status).toBe('changed');
  expect(control.ended().filter((ended) => ended.start.data.request).length).toBe(1);
  second.kill('SIGTERM');
  expect((await second).exitCode).toBe(0);
  expect((await readdir(join(state, 'spool'))).filter((name) => name.endsWith('.ndjson'))).toEqual([]);
  expect(await readFile(join(target, '19'), 'utf8')).toBe('x');
}, 900_000);

/** Whether a process of this run is alive. */
function processes(run: string): boolean {
  return readdirSync('/proc').some((pid: string) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(`run ${run}`);
    } catch {
      return false;
    }
  });
}
