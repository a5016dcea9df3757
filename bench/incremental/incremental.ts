/**
 * What a push costs: a fleet on Debian's modules in five roles, a control plane as in production, and commits that concern nobody,
 * one node, one role, everybody. The yardstick is the same workers compiling every node, as without read sets.
 *
 *   node bench/incremental/incremental.ts [--nodes 1000]
 *
 * Facts come in through the facts room's own intake, without HTTP: what is measured begins with a push or a change.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { execa, type ResultPromise } from 'execa';
import pg from 'pg';
import { ApiClient } from '../../src/cli/client.ts';
import { queueChangedNodes, queueCompiles } from '../../src/compile/queue.ts';
import { factsIntake } from '../../src/facts/submission.ts';
import { splitFacts } from '../../src/model/facts.ts';
import type { Certname } from '../../src/model/ids.ts';
import { openDatabase, openPool } from '../../src/postgres/database.ts';
import { type Figure, keepResult } from '../results.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/callboard.ts', import.meta.url));
const REPO = fileURLToPath(new URL('../../test/fixtures/differential-repo', import.meta.url));
const FACTS = new URL('../../test/fixtures/facts/debian-12.json', import.meta.url);
const ROLES = ['web', 'db', 'time', 'bastion', 'cloud'] as const;
const TEMPLATE = 'site-modules/profile/templates/time.epp';
const WORKERS = 2;
const CHURNS = 48;
const WARM_COMPILES = 3;
/** Puppet's default: each agent asks for a catalog in this time. */
const RUN_INTERVAL_MINUTES = 30;

const { values } = parseArgs({ options: { nodes: { type: 'string', default: '1000' } } });
const nodeCount = Number(values.nodes);
const databaseUrl = process.env.CALLBOARD_TEST_DATABASE_URL;
if (!databaseUrl) throw new Error('CALLBOARD_TEST_DATABASE_URL names no PostgreSQL: see bench/README.md');

const folder = await mkdtemp(join(tmpdir(), 'callboard-incremental-'));
const admin = new pg.Client({ connectionString: databaseUrl });
await admin.connect();
const database = `bench_incremental_${process.pid}`;
let server: ResultPromise | undefined;
try {
  await admin.query(`create database ${database}`);
  await bench();
} finally {
  server?.kill('SIGTERM');
  await server?.catch(() => {});
  await admin.query(`drop database if exists ${database} with (force)`);
  await admin.end();
  await rm(folder, { recursive: true, force: true });
}

async function bench(): Promise<void> {
  const url = Object.assign(new URL(databaseUrl!), { pathname: `/${database}` }).href;
  const api = await startServer(url);
  const pool = openPool(url);
  const db = openDatabase(pool);
  const repo = join(folder, 'repo');
  await execa('cp', ['-r', REPO, repo]);
  await writeFile(join(repo, 'manifests/site.pp'), sitePp(''));
  await withoutWholeFacts(join(repo, 'site-modules/profile/manifests/base.pp'));
  await withTemplate(repo);
  await execa('git', ['init', '-q', '-b', 'main', repo]);

  const commit = async (path: string, edit: (text: string) => string): Promise<void> => {
    const file = join(repo, path);
    await writeFile(file, edit(await readFile(file, 'utf8').catch(() => '')));
    const git = ['-C', repo, '-c', 'user.name=Bench', '-c', 'user.email=bench@callboard.test'];
    await execa('git', [...git, 'add', '-A']);
    await execa('git', [...git, 'commit', '-qm', `edit ${path}`]);
  };
  const push = async (): Promise<void> => {
    const { id } = await api.post<{ id: string }>('/api/v1/environments/production/deploys', { repo, ref: 'main' });
    for (;;) {
      const { state, error } = await api.get<{ state: string; error: string | null }>(`/api/v1/deploys/${id}`);
      if (state === 'done') return;
      if (state !== 'queued' && state !== 'running') throw new Error(`the deploy ${state}: ${error}`);
      await sleep(25);
    }
  };
  /** Everything that a push or a submission made necessary is done. */
  const settled = async (): Promise<void> => {
    for (;;) {
      const { rows } = await pool.query(
        `select count(*)::int as left from graphile_worker._private_jobs
         where key like 'compile:%' or key like 'affected:%' or key like 'deploy%'`,
      );
      if (rows[0].left === 0) return;
      await sleep(20);
    }
  };
  const compiles = async (): Promise<number> => (await pool.query('select count(*)::int as n from compile')).rows[0].n;
  const failures = async (): Promise<void> => {
    const { rows } = await pool.query('select certname, error from compile where error is not null limit 3');
    if (rows.length > 0) throw new Error(`compiles failed: ${JSON.stringify(rows)}`);
  };

  await commit('README.md', () => 'The bench\n');
  await push();
  const intake = factsIntake(db, { queueCompiles, queueChangedNodes });
  const facts = JSON.parse(await readFile(FACTS, 'utf8')) as Record<string, unknown>;
  const nodes = Array.from(
    { length: nodeCount },
    (_, at) => `${ROLES[at % ROLES.length]}${at}.example.net` as Certname,
  );
  const submit = (certname: Certname, over: object): Promise<boolean> => {
    const { hash, stable, volatile } = splitFacts(
      Buffer.from(JSON.stringify({ ...facts, clientcert: certname, ...over })),
    );
    return intake.submit({ certname, facts: hash, stable, volatile, environment: 'production', extensions: '{}' });
  };
  say(`${nodeCount} nodes in ${ROLES.length} roles: the first compiles`);
  await Promise.all(nodes.map((certname) => submit(certname, {})));
  await settled();
  await failures();

  // The yardstick: everybody, warm, as often as the code changes.
  const allStartedAt = performance.now();
  const before = await compiles();
  await commit('manifests/site.pp', () => sitePp("notify { 'everybody': }\n"));
  await push();
  await settled();
  const allSeconds = (performance.now() - allStartedAt) / 1000;
  const all = (await compiles()) - before;
  await failures();
  const perCompile = (allSeconds * WORKERS) / all;
  say(`all: ${all} compiles in ${allSeconds.toFixed(1)} s, ${(perCompile * 1000).toFixed(0)} ms each in one worker`);
  await pool.query("update environment set audit_share = 0 where name = 'production'");

  const figures: Figure[] = [];
  const measure = async (path: string, edit: (text: string) => string) => {
    const had = await compiles();
    await commit(path, edit);
    const startedAt = performance.now();
    await push();
    await settled();
    const seconds = (performance.now() - startedAt) / 1000;
    const done = (await compiles()) - had;
    await failures();
    return { seconds, done };
  };
  const keep = (name: string, figure: Omit<Figure, 'name' | 'unit'>, unit: string, seconds: number, done: number) => {
    const stock = `${nodeCount} compiles in ${RUN_INTERVAL_MINUTES} minutes at stock; all took ${allSeconds.toFixed(0)} s`;
    figures.push({
      name,
      unit,
      aimIsMost: true,
      ...figure,
      note: `${done} compiles in ${seconds.toFixed(2)} s; ${stock}`,
    });
    say(`${name}: ${done} compiles, ${seconds.toFixed(2)} s`);
  };

  const one = nodes[0]!;
  const warm: number[] = [];
  for (let n = 0; n < WARM_COMPILES; n++) {
    const startedAt = performance.now();
    await db.transaction().execute((tx) => queueCompiles(tx, one, 'bench'));
    await settled();
    warm.push((performance.now() - startedAt) / 1000);
  }
  const warmSeconds = Math.min(...warm);
  say(`${one}, warm: ${warmSeconds.toFixed(2)} s`);

  const unrelated = await measure('README.md', () => 'Something else\n');
  keep('unrelated file', { ours: unrelated.seconds, aim: 1 }, 's', unrelated.seconds, unrelated.done);
  await measure(`data/nodes/${one}.yaml`, () => 'profile::base::contact: one\n');
  const single = await measure(`data/nodes/${one}.yaml`, () => 'profile::base::contact: another\n');
  const beyond = single.seconds - warmSeconds;
  keep("one node's hiera file", { ours: beyond, aim: 1 }, 's beyond the compile', single.seconds, single.done);
  const first = { ours: single.seconds, yardstick: 2 * warmSeconds + 1, aim: 1 };
  keep('its catalog, against 2 warm compiles and 1 s', first, 's', single.seconds, single.done);
  const many = async (name: string, path: string, edit: (text: string) => string): Promise<void> => {
    const { seconds, done } = await measure(path, edit);
    const figure = { ours: seconds / ((done / WORKERS) * perCompile), aim: 1.1 };
    keep(name, figure, '× affected ÷ workers × warm compile', seconds, done);
  };
  await many("one role's template", TEMPLATE, () => 'edited\n');
  await many('site.pp', 'manifests/site.pp', () => sitePp("notify { 'everybody again': }\n"));

  const had = await compiles();
  const churnStartedAt = performance.now();
  for (let round = 0; round < CHURNS; round++) {
    await Promise.all(nodes.map((certname) => submit(certname, { bench_churn: round, another: { nested: round } })));
  }
  await settled();
  const churned = (await compiles()) - had;
  const perSecond = (nodeCount * CHURNS) / ((performance.now() - churnStartedAt) / 1000);
  say(`fact churn: ${nodeCount * CHURNS} submissions, ${churned} compiles, ${perSecond.toFixed(0)}/s`);
  figures.push({
    name: 'fact churn',
    unit: 'compiles',
    ours: churned,
    aim: 0,
    aimIsMost: true,
    note: `${nodeCount} nodes submit ${CHURNS} times, each time with other facts that no compile read; ${perSecond.toFixed(0)} submissions/s`,
  });
  await api.close();
  await pool.end();
  await keepResult({
    bench: 'incremental',
    yardstick: `all ${nodeCount} nodes compiled by the same ${WORKERS} workers`,
    figures,
  });
}

/** The differential repo writes all facts to a file, on purpose: such a catalog depends on every one of them, uptime included. */
async function withoutWholeFacts(file: string): Promise<void> {
  const text = await readFile(file, 'utf8');
  await writeFile(file, text.replace('profile::summary($facts)', "$facts['os']['family']"));
}

/** Gives the role `time` a template of its own. */
async function withTemplate(repo: string): Promise<void> {
  const file = join(repo, 'site-modules/profile/manifests/time.pp');
  const text = await readFile(file, 'utf8');
  await writeFile(join(repo, TEMPLATE), 'as it was\n');
  await writeFile(file, text.replace(/^}$/m, "  notify { 'in time': message => epp('profile/time.epp') }\n}"));
}

function sitePp(more: string): string {
  const roles = { web: 'web', db: 'database', time: 'time', bastion: 'bastion', cloud: 'cloud' };
  const blocks = Object.entries(roles).map(([name, role]) => `node /^${name}/ { include role::${role} }\n`);
  return `File { backup => false }\n${blocks.join('')}${more}`;
}

async function startServer(url: string): Promise<ApiClient> {
  const state = join(folder, 'server');
  const log = join(folder, 'server.log');
  const args = ['--state', state, '--database-url', url, '--listen', '127.0.0.1:0', '--server-name', 'localhost'];
  const more = [
    '--metrics-listen',
    'off',
    '--base-modulepath',
    '/usr/share/puppet/modules',
    '--compile-workers',
    String(WORKERS),
  ];
  server = execa(process.execPath, [PROGRAM, 'server', ...args, ...more], {
    stdout: { file: log },
    stderr: { file: log },
    reject: false,
  });
  for (;;) {
    const answers = /"url":"(https:[^"]+)"/.exec(await readFile(log, 'utf8').catch(() => ''))?.[1];
    if (answers) {
      const token = await execa(process.execPath, [
        PROGRAM,
        'operator',
        'token',
        'create',
        '--role',
        'admin',
        '--state',
        state,
        '--database-url',
        url,
      ]);
      const ca = await readFile(join(state, 'ca/ca_crt.pem'), 'utf8');
      return new ApiClient({ server: answers, token: token.stdout.trim(), ca });
    }
    if (await hasEnded(server)) throw new Error(await readFile(log, 'utf8'));
    await sleep(100);
  }
}

async function hasEnded(child: ResultPromise): Promise<boolean> {
  return await Promise.race([child.then(() => true), sleep(0).then(() => false)]);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
