/**
 * No catalog changes without being queued (P6): random mutations of a site of 24 machines in 8 roles, judged by a stock Puppet that
 * compiles every machine after each mutation. As part of all tests it is short, each kind of mutation once on the light roles;
 * `npm run soundness` makes it long. The seed is printed, and the same seed does the same.
 */
import { appendFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { freshDatabase } from '../postgres/fresh.ts';
import { ControlPlane } from './control-plane.ts';
import type { Kind } from './editing.ts';
import { KINDS } from './mutations.ts';
import { Oracle } from './oracle.ts';
import { Random } from './random.ts';
import { Rounds, table, totals, UNDONE } from './rounds.ts';
import { firstWorld } from './world.ts';

const SEED = Number(process.env.SOUNDNESS_SEED ?? Math.floor(Math.random() * 1e9));
/** Beyond one of each kind. */
const MUTATIONS = Number(process.env.SOUNDNESS_MUTATIONS ?? 0);
const LONG = MUTATIONS > 0;
/** It ends then, however many there were. */
const MINUTES = Number(process.env.SOUNDNESS_MINUTES ?? Number.POSITIVE_INFINITY);
/** Mutations in a round of the short form. */
const AT_ONCE = 4;
/** Undefined: all of them. */
const LIGHT_ROLES = LONG ? undefined : { time: 1, app: 1, files: 2, plain: 1 };

const database = await freshDatabase();
const directory = await mkdtemp(join(tmpdir(), 'callboard-soundness-'));
const oracle = new Oracle();
const plane = await ControlPlane.open({ ...database, directory });
afterAll(async () => {
  await plane.close();
  oracle.close();
  await rm(directory, { recursive: true, force: true });
});

test('what changes is queued', { timeout: 1_200_000 + MUTATIONS * 60_000, retry: 0 }, async () => {
  console.log(`SOUNDNESS_SEED=${SEED}`);
  const startedAt = Date.now();
  const rounds = new Rounds(plane, oracle, new Random(SEED), await firstWorld(LIGHT_ROLES));
  rounds.tell = (line) => process.env.SOUNDNESS_LOG && appendFileSync(process.env.SOUNDNESS_LOG, `${line}\n`);
  await rounds.begin();
  expect(rounds.findings, 'at the beginning').toEqual([]);
  if (!LONG)
    for (const kinds of severalAtOnce(new Random(SEED))) {
      await rounds.mutate(...kinds);
      await rounds.settle(0);
    }
  const done = (): number => totals(rounds.tallies, (kind) => kind !== UNDONE).mutations;
  const ended = (): boolean => done() >= MUTATIONS || Date.now() - startedAt > MINUTES * 60_000;
  for (let told = 0; !ended(); ) {
    await rounds.wander();
    if (done() < told + 25) continue;
    told = done();
    const { missed, precision } = totals(rounds.tallies, (_, tally) => !tally.remark);
    const minutes = ((Date.now() - startedAt) / 60_000).toFixed(1);
    console.log(
      `${told} mutations in ${minutes} minutes: ${missed} missed, ${(100 * precision).toFixed(1)} % of the queued changed`,
    );
  }
  const unneeded = [...rounds.unneeded].sort((a, b) => b[1] - a[1]);
  console.log(
    `${table(rounds.tallies)}\n${oracle.compiled} catalogs by the oracle, ${Math.round((Date.now() - startedAt) / 1000)} s`,
  );
  if (LONG)
    console.log(
      unneeded
        .slice(0, 40)
        .map(([why, count]) => `${count} unneeded: ${why}`)
        .join('\n'),
    );
  if (process.env.SOUNDNESS_REPORT) {
    const report = { seed: SEED, kinds: Object.fromEntries(rounds.tallies), findings: rounds.findings, unneeded };
    await writeFile(process.env.SOUNDNESS_REPORT, `${JSON.stringify(report, null, 2)}\n`);
  }
  expect(rounds.findings).toEqual([]);
  if (!LONG) expect(done()).toBeGreaterThanOrEqual(25);
  if (LONG) expect(totals(rounds.tallies, (_, tally) => !tally.remark).precision).toBeGreaterThanOrEqual(0.7);
});

/** Every kind once, some in a round, in an order of the seed's; what breaks everything comes alone. */
function severalAtOnce(random: Random): Kind[][] {
  const breaks = KINDS.filter((kind) => /broken$/.test(kind.name));
  const others = KINDS.filter((kind) => !breaks.includes(kind))
    .map((kind) => ({ kind, at: random.next() }))
    .sort((a, b) => a.at - b.at)
    .map(({ kind }) => kind);
  const rounds = breaks.map((kind) => [kind]);
  for (let at = 0; at < others.length; at += AT_ONCE) rounds.push(others.slice(at, at + AT_ONCE));
  return rounds;
}
