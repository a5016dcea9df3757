/** kill -9 of every process there is, in the middle of compiles: the work is done all the same, and nothing is left over. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { MISBEHAVING, message, openPool, request } from './compiling.ts';
import { childrenOf, eventually, gone } from './processes.ts';

const retried: string[] = [];
const pool = openPool({
  concurrency: 4,
  note: (text, detail) => {
    if (text === 'a compile is tried again') retried.push(String(detail.certname));
  },
});
let parent: number;

beforeAll(async () => {
  parent = (await pool.start()).pid;
  expect(message(await pool.compile(request('good.example.net')))).toBe('well done');
}, 300_000);
afterAll(() => pool.close());

/** Two compiles under way, and the processes that do it. */
async function underWay() {
  const compiles = ['slow-1', 'slow-2'].map((name) => pool.compile(request(`${name}.example.net`)));
  const interpreter = await eventually(async () => (await childrenOf(parent))[0]);
  const processes = await eventually(async () => {
    const children = await childrenOf(interpreter);
    return children.length === 2 ? children : undefined;
  });
  return { compiles, interpreter, processes };
}

test('a compile process is killed: its compile is done by another, the one beside it goes on', {
  timeout: 180_000,
}, async () => {
  retried.length = 0;
  const { compiles, processes } = await underWay();
  process.kill(processes[0]!, 'SIGKILL');
  for (const result of await Promise.all(compiles)) expect(message(result)).toBe('slow but sure');
  expect(retried).toHaveLength(1);
});

test('the interpreter is killed: its compiles end with it and are done by a new one', {
  timeout: 180_000,
}, async () => {
  retried.length = 0;
  const { compiles, interpreter, processes } = await underWay();
  process.kill(interpreter, 'SIGKILL');
  await gone(processes, 2_000);
  for (const result of await Promise.all(compiles)) expect(message(result)).toBe('slow but sure');
  expect(retried).toHaveLength(2);
});

test('the parent is killed: everything below it ends, and all of it is started anew', {
  timeout: 180_000,
}, async () => {
  const { compiles, interpreter, processes } = await underWay();
  process.kill(parent, 'SIGKILL');
  await gone([interpreter, ...processes], 2_000);
  for (const result of await Promise.all(compiles)) expect(message(result)).toBe('slow but sure');
  const next = (await pool.start()).pid;
  expect(next).not.toBe(parent);
  parent = next;
});

test('the pool is closed: within two seconds nothing is left', { timeout: 180_000 }, async () => {
  const { compiles, interpreter, processes } = await underWay();
  const ends = Promise.allSettled(compiles);
  const startedAt = Date.now();
  await pool.close();
  expect(Date.now() - startedAt).toBeLessThan(2_000);
  await gone([parent, interpreter, ...processes], 2_000);
  for (const end of await ends) expect(end).toMatchObject({ reason: { code: 'WORKER_FAILED' } });
  await expect(pool.compile(request('good.example.net'))).rejects.toMatchObject({ code: 'WORKER_FAILED' });
});

test('the control plane is killed: parent, interpreter and compiles end', { timeout: 180_000 }, async () => {
  const directory = await mkdtemp(join(tmpdir(), 'callboard-kill-'));
  const program = join(directory, 'control-plane.ts');
  const pools = new URL('../../src/compile/pool.ts', import.meta.url).href;
  await writeFile(
    program,
    `import { CompilePool } from ${JSON.stringify(pools)};
     const pool = new CompilePool({ ruby: 'ruby', certname: 'callboard' });
     console.log((await pool.start()).pid);
     await pool.compile(${JSON.stringify(request('sleeps.example.net', { codeDirectory: MISBEHAVING }))});`,
  );
  const control = execa(process.execPath, [program], { reject: false });
  try {
    const line = await new Promise<string>((resolve) => control.stdout.once('data', (data) => resolve(String(data))));
    const top = Number(line);
    const interpreter = await eventually(async () => (await childrenOf(top))[0]);
    const compile = await eventually(async () => (await childrenOf(interpreter))[0]);
    control.kill('SIGKILL');
    expect(await gone([top, interpreter, compile], 5_000)).toBe(true);
  } finally {
    control.kill('SIGKILL');
    await rm(directory, { recursive: true });
  }
});
