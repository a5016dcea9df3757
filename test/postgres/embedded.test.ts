/** The embedded server with real kills. Each test has a state directory of its own. */
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { homedir, networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import { sql } from 'kysely';
import pg from 'pg';
import { pino } from 'pino';
import { afterEach, expect, test, vi } from 'vitest';
import { isRunning } from '../../src/config/state.ts';
import { openDatabase, openPool } from '../../src/postgres/database.ts';
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { startListener } from '../../src/postgres/listen.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { enqueue, queueDepth, startQueue } from '../../src/postgres/queue.ts';
import { until } from './until.ts';

vi.setConfig({ testTimeout: 120_000 });
const OWNER = fileURLToPath(new URL('owner.ts', import.meta.url));
const logger = pino({ level: 'silent' });
const isRoot = process.getuid?.() === 0;
/** In a checkout that only root can reach PostgreSQL's programs are out of anybody else's reach, too. */
const isCheckoutOpen =
  isRoot &&
  !(await execa('test', ['-x', OWNER.replace(/\/[^/]*$/, '')], { uid: 65534, gid: 65534, cwd: '/', reject: false }))
    .failed;
const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function stateDirectory(parent = tmpdir(), mode = 0o711): Promise<string> {
  const directory = await mkdtemp(join(parent, 'callboard-embedded-'));
  await chmod(directory, mode);
  ends.push(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

async function start(state: string) {
  const server = await startEmbeddedPostgres(state, logger);
  ends.push(() => server.stop());
  return server;
}

interface Owner {
  child: ResultPromise;
  said: { ready?: boolean; error?: string; url: string; postmaster: number };
}

/** Starts the fixture program, and waits for what it says. It and its postmaster are gone at the end of the test. */
async function owner(state: string): Promise<Owner> {
  const child = execa(process.execPath, [OWNER, state], { reject: false, stderr: 'inherit' });
  ends.push(async () => {
    child.kill('SIGTERM');
    await child;
  });
  const [line] = await once(child.stdout!, 'data');
  return { child, said: JSON.parse(String(line)) };
}

async function kill(child: ResultPromise): Promise<void> {
  child.kill('SIGKILL');
  await child;
}

async function uidOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^Uid:\s+(\d+)/m.exec(status)![1]);
}

async function inNamespaceOfItsOwn(pid: number): Promise<boolean> {
  const map = (await readFile(`/proc/${pid}/uid_map`, 'utf8')).trim().split(/\s+/);
  return map[0] !== '0' && map[2] === '1';
}

test('data and address survive a stop, and nobody gets in without the password or from another machine', async () => {
  const state = await stateDirectory();
  const first = await start(state);
  const pool = openPool(first.url, 2);
  await pool.query('create table kept as select 1 as n');
  expect((await pool.query('show server_encoding')).rows).toEqual([{ server_encoding: 'UTF8' }]);
  await pool.end();
  expect((await stat(join(state, 'database.json'))).mode & 0o777).toBe(0o600);
  const noPassword = Object.assign(new URL(first.url), { password: 'wrong' }).href;
  await expect(new pg.Client({ connectionString: noPassword }).connect()).rejects.toMatchObject({ code: '28P01' });
  const outside = Object.values(networkInterfaces())
    .flat()
    .find((address) => address && !address.internal && address.family === 'IPv4');
  if (outside) {
    const url = Object.assign(new URL(first.url), { hostname: outside.address }).href;
    await expect(new pg.Client({ connectionString: url }).connect()).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  }
  const postmaster = first.pid()!;
  await first.stop();
  expect(isRunning(postmaster)).toBe(false);

  const second = await start(state);
  expect(second.url).toBe(first.url);
  const again = openPool(second.url, 2);
  expect((await again.query('select n from kept')).rows).toEqual([{ n: 1 }]);
  await again.end();
});

test('it runs as a user that is not root, and writes nothing that another user could read', async () => {
  const state = await stateDirectory();
  const server = await start(state);
  expect((await stat(join(state, 'postgres'))).mode & 0o077).toBe(0);
  if (isCheckoutOpen) expect(await uidOf(server.pid()!)).not.toBe(0);
  else if (isRoot) expect(await inNamespaceOfItsOwn(server.pid()!)).toBe(true);
});

test.runIf(isRoot)('with a state directory that only root can reach it runs in a user namespace', async () => {
  for (const state of [await stateDirectory(homedir()), await stateDirectory(tmpdir(), 0o700)]) {
    const server = await start(state);
    expect(await uidOf(server.pid()!)).toBe(0);
    expect(await inNamespaceOfItsOwn(server.pid()!)).toBe(true);
    const pool = openPool(server.url, 2);
    await migrate(pool);
    await pool.end();
    await server.stop();
  }
});

test.runIf(isRoot)(
  'data made under one account is used by another when the directory is closed and opened',
  async () => {
    const state = await stateDirectory();
    for (const [mode, inNamespace] of [
      [0o711, !isCheckoutOpen],
      [0o700, true],
      [0o700, true],
    ] as const) {
      await chmod(state, mode);
      const server = await start(state);
      expect(await inNamespaceOfItsOwn(server.pid()!)).toBe(inNamespace);
      const pool = openPool(server.url, 2);
      await pool.query('create table if not exists seen (mode int)');
      await pool.query('insert into seen values ($1)', [mode]);
      if (mode === 0o700) expect((await pool.query('select from seen where mode = $1', [0o711])).rowCount).toBe(1);
      await pool.end();
      await server.stop();
    }
  },
);

/*
 * The postmaster is killed with SIGKILL while rows are written, jobs run and a listener listens. Each row whose insert was
 * acknowledged must be there afterwards, each job must have run, and whoever listens must hear that it missed something.
 */
test('killed under load it comes back, and nothing that was acknowledged is lost', async () => {
  const server = await start(await stateDirectory());
  const pool = openPool(server.url, 10);
  ends.push(() => pool.end());
  await migrate(pool);
  const db = openDatabase(pool);
  await pool.query('create table acknowledged (n int primary key); create table ran (certname text)');
  const listener = await startListener(server.url, logger);
  ends.push(() => listener.close());
  let gaps = 0;
  listener.onGap(() => {
    gaps += 1;
  });
  let exits = 0;
  server.onExit(() => {
    exits += 1;
  });
  const queue = await startQueue({
    pool,
    logger,
    concurrency: { compile: 2 },
    handlers: {
      compile: async ({ certname }) => {
        await pool.query('insert into ran values ($1)', [certname]);
        await sleep(5);
      },
    },
  });
  ends.push(() => queue.stop());

  const acknowledged: number[] = [];
  let next = 0;
  let writing = true;
  const writers = Array.from({ length: 4 }, async () => {
    while (writing) {
      const n = next++;
      const job = { certname: String(n), environment: 'production', code_version: 'c', trigger: 'test' };
      try {
        await db.transaction().execute(async (tx) => {
          await sql`insert into acknowledged values (${n})`.execute(tx);
          await enqueue(tx, 'compile', job, { key: String(n), priority: 20 });
        });
        acknowledged.push(n);
      } catch {
        await sleep(50);
      }
      // Not faster than the jobs run.
      await sleep(40);
    }
  });
  for (let kills = 1; kills <= 3; kills += 1) {
    await until(() => acknowledged.length > kills * 50, 60_000);
    const postmaster = server.pid()!;
    process.kill(postmaster, 'SIGKILL');
    await until(async () => server.pid() !== undefined && server.pid() !== postmaster, 60_000);
    await until(async () => (await pool.query('select 1')).rowCount === 1, 60_000);
  }
  const before = acknowledged.length;
  await until(() => acknowledged.length > before + 50, 60_000);
  writing = false;
  await Promise.all(writers);

  const found = new Set((await pool.query('select n from acknowledged')).rows.map((row) => row.n));
  expect(acknowledged.filter((n) => !found.has(n))).toEqual([]);
  await until(async () => (await queueDepth(db)).length === 0, 60_000);
  const ran = new Set((await pool.query('select certname from ran')).rows.map((row) => Number(row.certname)));
  expect(acknowledged.filter((n) => !ran.has(n))).toEqual([]);
  expect(exits).toBe(3);
  expect(gaps).toBeGreaterThan(0);
});

test('its killed owner leaves it running; the next owner stops it, starts it anew and runs the jobs of the dead', async () => {
  const state = await stateDirectory();
  const first = await owner(state);
  expect(first.said.ready).toBe(true);
  const pool = openPool(first.said.url, 2);
  await enqueue(openDatabase(pool), 'collect', {}, { key: 'collect', priority: 0 });
  const running = async (session: pg.Pool) => (await queueDepth(openDatabase(session)))[0]?.running === 1;
  await until(() => running(pool));
  await kill(first.child);
  expect(isRunning(first.said.postmaster)).toBe(true);
  await pool.end();

  const second = await owner(state);
  expect(second.said).toMatchObject({ ready: true, url: first.said.url });
  expect(isRunning(first.said.postmaster)).toBe(false);
  const again = openPool(second.said.url, 2);
  ends.push(() => again.end());
  await until(() => running(again), 5_000);
  const { rows } = await again.query('select attempts, locked_by from graphile_worker._private_jobs');
  expect(rows).toMatchObject([{ attempts: 1 }]);
  const { rows: processes } = await again.query('select id, pid from process');
  expect(processes).toMatchObject([{ pid: second.child.pid }]);
  expect(rows[0].locked_by.startsWith(`${processes[0].id}/`)).toBe(true);
});

test('a second owner of the same state directory is refused, and the first goes on', async () => {
  const state = await stateDirectory();
  const first = await owner(state);
  const second = await owner(state);
  expect(second.said).toEqual({ error: 'STATE_IN_USE' });
  expect(isRunning(first.said.postmaster)).toBe(true);
});

// As another user and, where we are root, in a namespace: there the stranger is of PostgreSQL's own user.
test.for([0o711, 0o700])(
  'after both were killed at once the next owner starts over the left postmaster.pid: mode %o',
  async (mode) => {
    const state = await stateDirectory(tmpdir(), mode);
    const first = await owner(state);
    process.kill(first.said.postmaster, 'SIGKILL');
    await kill(first.child);
    // And somebody else has that pid now.
    const file = join(state, 'postgres', 'postmaster.pid');
    await writeFile(file, (await readFile(file, 'utf8')).replace(/^\d+/, String(process.pid)));
    const second = await owner(state);
    expect(second.said.ready).toBe(true);
  },
);

test('an owner killed while it makes the data leaves nothing that the next one stumbles over', async () => {
  const state = await stateDirectory();
  for (const patienceMs of [300, 600, 1200]) {
    const child = execa(process.execPath, [OWNER, state], { reject: false, stdio: 'ignore' });
    await sleep(patienceMs);
    await kill(child);
  }
  const { said } = await owner(state);
  expect(said.ready).toBe(true);
});

test('SIGTERM stops owner and database within 10 s, sessions or not', async () => {
  const state = await stateDirectory();
  const { child, said } = await owner(state);
  const pool = openPool(said.url, 2);
  ends.push(() => pool.end());
  const busy = pool.query('select pg_sleep(60)').catch((error: Error) => error);
  await sleep(200);
  const startedAt = Date.now();
  child.kill('SIGTERM');
  const { exitCode } = await child;
  expect(exitCode).toBe(0);
  expect(Date.now() - startedAt).toBeLessThan(10_000);
  expect(isRunning(said.postmaster)).toBe(false);
  expect(await busy).toBeInstanceOf(Error);
});
