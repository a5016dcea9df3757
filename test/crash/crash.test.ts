/**
 * P2 with real kills: control plane, PostgreSQL, Ruby workers and node daemon get SIGKILL at random moments under load. After
 * that everything that was acknowledged must be there, nothing half may ever have been served, and all must have come to
 * rest by itself.
 *
 * CALLBOARD_CRASH_KILLS says how many kills (`npm run crash`: 40); CALLBOARD_CRASH_SEED repeats an order of victims and
 * waits, though not the moments at which the programs are hit.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { openCa } from '../../src/http/ca.ts';
import { createToken } from '../../src/http/tokens.ts';
import { openDatabase, openPool } from '../../src/postgres/database.ts';
import { queueDepth } from '../../src/postgres/queue.ts';
import { until } from '../postgres/until.ts';
import { audit, managedState } from './audit.ts';
import { emptyBook, startLoad } from './load.ts';
import { ControlRepo, REAL_NODE, Stage, VICTIMS, type Victim } from './stage.ts';

const KILLS = Number(process.env.CALLBOARD_CRASH_KILLS ?? 5);
const SEED = Number(process.env.CALLBOARD_CRASH_SEED ?? Date.now() % 1_000_000);
const NODES = KILLS > 10 ? 4 : 2;
/** However loaded the machine, something must get done between two kills within this time. */
const PROGRESS_TIME_MAX_MS = 240_000;
const REST_TIME_MAX_MS = 240_000;

test(`${KILLS} kills under load (seed ${SEED}): nothing acknowledged is lost, nothing half is served`, {
  timeout: (600 + KILLS * 60) * 1000,
}, async () => {
  const random = seeded(SEED);
  const book = emptyBook();
  const stage = await Stage.open();
  const startedAt = Date.now();
  const kills = Object.fromEntries(VICTIMS.map((victim) => [victim, 0])) as Record<Victim, number>;
  const findings: string[] = [];
  try {
    const ca = await openCa(stage.state, { create: false });
    const certnames = Array.from({ length: NODES }, (_, index) => `n${index}.crash.test`);
    const nodes = (await ca.issueAll(certnames)).map(({ certname, certificatePem, privateKeyPem }) => ({
      certname,
      cert: certificatePem,
      key: privateKeyPem,
    }));
    const token = await operatorToken(stage);
    const repo = new ControlRepo(stage.directory);
    const load = startLoad({ stage, book, repo, ca: ca.certificatePem, token, nodes });
    await stage.startNode();
    await ca.close();
    await until(() => book.releases.length > 0 && book.catalogs.size > 0, PROGRESS_TIME_MAX_MS);

    for (const victim of victims(KILLS, random)) {
      await sleep(200 + random() * 2_500);
      await until(async () => (await stage.kill(victim)) !== undefined, PROGRESS_TIME_MAX_MS);
      kills[victim] += 1;
      const before = load.progress();
      await until(() => load.progress() > before + NODES, PROGRESS_TIME_MAX_MS);
    }
    await load.stop();

    const database = await stage.database();
    const pool = openPool((await databaseUrl(stage))!, 1);
    const db = openDatabase(pool);
    await until(async () => {
      const depths = await queueDepth(db);
      return depths.every((each) => each.waiting + each.delayed + each.running === 0);
    }, REST_TIME_MAX_MS);
    // The real node comes to rest on what is released to it.
    await until(async () => {
      const { rows } = await database.query(
        `select from node join run on run.certname = node.certname and run.catalog = node.released_catalog
         where node.certname = $1 and run.state = 'finished' and run.status <> 'failed'`,
        [REAL_NODE],
      );
      return rows.length > 0;
    }, REST_TIME_MAX_MS);
    const { rows: failed } = await database.query(
      'select key, last_error from graphile_worker._private_jobs where locked_at is null',
    );
    for (const job of failed) findings.push(`job ${job.key} failed for good: ${job.last_error}`);
    findings.push(...(await audit(stage, database, book)), ...book.findings);
    if (!/^code \d+, facts 0\n$/.test(await managedState(stage)))
      findings.push(`the node's file says ${await managedState(stage)}`);
    await until(() => stage.leftRubies().length === 0).catch(() =>
      findings.push(`Ruby processes outlive the control plane that started them: ${stage.leftRubies()}`),
    );
    await pool.end();
    await database.end();
  } catch (error) {
    findings.push(String((error as Error).stack), ...book.findings);
  } finally {
    findings.push(...stage.findings);
    await stage.close(findings.length > 0);
  }
  findings.push(...stage.findings.filter((finding) => !findings.includes(finding)));
  const acknowledged = {
    facts: [...book.facts.values()].flat().length,
    events: [...book.runs.values()].reduce((sum, run) => sum + run.acknowledged, 0),
    deploys: book.deploys.length,
    releases: book.releases.length,
    compiles_seen: book.compiles.size,
    catalogs_fetched: book.catalogs.size,
    requests_refused: book.refused,
    seconds: Math.round((Date.now() - startedAt) / 1000),
  };
  process.stdout.write(
    `crash: seed ${SEED}, kills ${JSON.stringify(kills)}, acknowledged ${JSON.stringify(acknowledged)}\n`,
  );
  expect(findings).toEqual([]);
  expect(Object.values(kills).reduce((sum, count) => sum + count, 0)).toBe(KILLS);
});

/** Every kind of victim in turn, in an order of its own each time round. */
function victims(count: number, random: () => number): Victim[] {
  const order: Victim[] = [];
  while (order.length < count) {
    order.push(
      ...VICTIMS.map((victim) => ({ victim, at: random() }))
        .sort((a, b) => a.at - b.at)
        .map(({ victim }) => victim),
    );
  }
  return order.slice(0, count);
}

async function databaseUrl(stage: Stage): Promise<string> {
  const database = await stage.database();
  const { host, port, user, password, database: name } = database;
  await database.end();
  return `postgres://${user}:${password}@${host}:${port}/${name}`;
}

async function operatorToken(stage: Stage): Promise<string> {
  const pool = openPool(await databaseUrl(stage), 1);
  const { token } = await createToken(openDatabase(pool), { name: 'crash', role: 'admin', days: 1 });
  await pool.end();
  return token;
}

/** Mulberry32: numbers in [0, 1) that a seed repeats. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
