/** The spool on a real disk: what is written, what survives, what is delivered. */
import { appendFile, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { RunId } from '../../src/model/ids.ts';
import { runIdAt } from '../../src/run/run-id.ts';
import { Spool } from '../../src/run/spool.ts';

let root: string;
let directory: string;
const AT = new Date('2026-11-24T10:00:00Z');
const run = (number: number): RunId => runIdAt(number, Buffer.alloc(10, number));

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'callboard-spool-'));
});
beforeEach(async () => {
  directory = await mkdtemp(join(root, 'spool-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

/** As the run's process would. */
async function happen(spool: Spool, id: RunId, from: number, to: number, size = 10): Promise<void> {
  let text = '';
  for (let sequence = from; sequence <= to; sequence++)
    text += `${JSON.stringify({ sequence, at: AT.toISOString(), kind: 'log', data: { message: 'x'.repeat(size) } })}\n`;
  await appendFile(spool.path(id), text);
  spool.grown(id, (await readFile(spool.path(id))).length);
}

function sequences(lines: Buffer): number[] {
  return lines
    .toString('utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line).sequence);
}

test('the oldest run goes first, and a run is gone when it is complete and acknowledged', async () => {
  const spool = new Spool(directory, 1e9);
  await spool.open();
  await spool.begin(run(2), AT, {});
  await spool.begin(run(1), AT, {});
  const first = spool.oldest()!;
  expect(first.id).toBe(run(1));
  const { lines, last } = await spool.batch(first);
  expect([sequences(lines), last]).toEqual([[1], 1]);
  await spool.acknowledge(first, 1);
  expect(spool.oldest()!.id).toBe(run(2));
  expect(await spool.finish(run(1), AT, { status: 'failed' })).toEqual({ status: 'failed' });
  expect(sequences((await spool.batch(spool.oldest()!)).lines)).toEqual([2]);
  await spool.acknowledge(first, 2);
  expect((await readdir(directory)).filter((name) => name.startsWith(run(1)))).toEqual([]);
});

test('a run whose end was delivered before the daemon closed it leaves nothing behind', async () => {
  const spool = new Spool(directory, 1e9);
  await spool.open();
  const spooled = await spool.begin(run(1), AT, {});
  await appendFile(spool.path(run(1)), `{"sequence":2,"at":"x","kind":"end","data":{"status":"changed"}}\n`);
  spool.grown(run(1), (await readFile(spool.path(run(1)))).length);
  expect((await spool.batch(spooled)).last).toBe(2);
  await spool.acknowledge(spooled, 2);
  expect(await spool.finish(run(1), AT, { status: 'failed' })).toEqual({ status: 'changed' });
  expect(await readdir(directory)).toEqual([]);
});

test('after a crash a torn line is cut off, the end is added with the next number, and nothing is given twice', async () => {
  const before = new Spool(directory, 1e9);
  await before.open();
  await before.begin(run(1), AT, { request: 'r-1' });
  await happen(before, run(1), 2, 5);
  await appendFile(before.path(run(1)), '{"sequence":6,"at":"2026');

  const after = new Spool(directory, 1e9);
  expect(await after.open()).toEqual([run(1)]);
  expect(await after.requests()).toEqual(['r-1']);
  await after.finish(run(1), AT, { status: 'failed', interrupted: true });
  const { lines } = await after.batch(after.oldest()!);
  expect(sequences(lines)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(JSON.parse(lines.toString().trim().split('\n').at(-1)!)).toMatchObject({
    kind: 'end',
    data: { interrupted: true },
  });
  expect(await new Spool(directory, 1e9).open()).toEqual([]);
});

test('a run whose start was never whole did not begin', async () => {
  await writeFile(join(directory, `${run(1)}.ndjson`), '{"sequence":1,"at"');
  const spool = new Spool(directory, 1e9);
  expect(await spool.open()).toEqual([]);
  expect(spool.oldest()).toBeUndefined();
  expect(await readdir(directory)).toEqual([]);
});

test('batches are whole lines of a bounded size, whatever the sizes of the events', async () => {
  const spool = new Spool(directory, 1e9);
  await spool.open();
  const spooled = await spool.begin(run(1), AT, {});
  await happen(spool, run(1), 2, 2, 50_000);
  await happen(spool, run(1), 3, 40, 100);
  const seen: number[] = [];
  for (let rounds = 0; seen.length < 40; rounds++) {
    expect(rounds).toBeLessThan(50);
    const { lines, last } = await spool.batch(spooled, 1000);
    seen.push(...sequences(lines));
    expect(last).toBe(seen.at(-1));
    await spool.acknowledge(spooled, last);
  }
  expect(seen).toEqual(Array.from({ length: 40 }, (_, index) => index + 1));
});

test('what the control plane knows from before a restart is not sent again, and a smaller answer is sent again', async () => {
  const spool = new Spool(directory, 1e9);
  await spool.open();
  const spooled = await spool.begin(run(1), AT, {});
  await happen(spool, run(1), 2, 100);
  expect((await spool.batch(spooled, 300)).last).toBeLessThan(50);
  await spool.acknowledge(spooled, 60);
  expect(sequences((await spool.batch(spooled)).lines)[0]).toBe(61);
  await spool.acknowledge(spooled, 70);
  await spool.acknowledge(spooled, 65);
  expect(sequences((await spool.batch(spooled)).lines)[0]).toBe(71);
});

test('a full spool thins out its oldest complete runs, then drops the oldest, and what is left can be read again', async () => {
  const spool = new Spool(directory, 600_000);
  await spool.open();
  for (const number of [1, 2, 3]) {
    await spool.begin(run(number), AT, { catalog: 'c' });
    await happen(spool, run(number), 2, 300, 1000);
    await spool.finish(run(number), AT, { status: 'unchanged' });
  }
  const dropped = await spool.bound();
  expect(dropped.map(({ run, how }) => [run, how])).toEqual([
    [run(1), 'shrunk'],
    [run(2), 'shrunk'],
  ]);
  expect(spool.bytes).toBeLessThanOrEqual(600_000);
  expect(sequences((await spool.batch(spool.oldest()!)).lines)).toEqual([1, 2, 3]);
  const again = new Spool(directory, 100_000);
  expect(await again.open()).toEqual([]);
  // The first was being sent and counts as told; the third is large. Both have to go or shrink.
  expect((await again.bound()).map(({ run, how }) => [run, how])).toEqual([[run(3), 'shrunk']]);
});

test('a run that is refused for good is put aside, and the next one is next', async () => {
  const spool = new Spool(directory, 1e9);
  await spool.open();
  await spool.begin(run(1), AT, {});
  await spool.begin(run(2), AT, {});
  await spool.refuse(spool.oldest()!);
  expect(spool.oldest()!.id).toBe(run(2));
  expect(await readFile(join(directory, 'refused.ndjson'), 'utf8')).toContain('"start"');
});
