/**
 * The real programs, to be killed: the control plane with its own PostgreSQL and Ruby workers, and a node daemon that runs
 * Puppet. Each is started again as soon as it is gone. A program that ends without having been killed is a finding.
 */
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import pg from 'pg';
import { isRunning } from '../../src/config/state.ts';
import { openCa } from '../../src/http/ca.ts';
import { until } from '../postgres/until.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/callboard.ts', import.meta.url));
export const REAL_NODE = 'real.crash.test';
export const ENVIRONMENT = 'production';
export const VICTIMS = ['control plane', 'PostgreSQL', 'Ruby worker', 'node daemon'] as const;
export type Victim = (typeof VICTIMS)[number];

/** A program that is kept running. */
interface Kept {
  name: string;
  child: ResultPromise;
  killed: boolean;
}

export class Stage {
  readonly directory: string;
  readonly url: string;
  /** What ended although nobody killed it. */
  readonly findings: string[] = [];
  #server: Kept | undefined;
  #node: Kept | undefined;
  #stopping = false;
  /** Ruby processes of control planes that were killed. */
  readonly #left = new Set<number>();

  constructor(directory: string, port: number) {
    this.directory = directory;
    this.url = `https://localhost:${port}`;
  }

  /** Starts the control plane alone. */
  static async open(): Promise<Stage> {
    const stage = new Stage(await mkdtemp(join(tmpdir(), 'callboard-crash-')), await freePort());
    await mkdir(stage.managed);
    const args = ['server', '--state', stage.state, '--listen', new URL(stage.url).host, '--server-name', 'localhost'];
    args.push('--metrics-listen', 'off', '--base-modulepath', '', '--compile-workers', '2', '--log-level', 'warn');
    stage.#server = stage.#keep('server', args);
    await until(() => stage.isReady(), 120_000);
    return stage;
  }

  get state(): string {
    return join(this.directory, 'server');
  }

  /** Where the real node's managed files are. */
  get managed(): string {
    return join(this.directory, 'managed');
  }

  async startNode(): Promise<void> {
    const state = join(this.directory, 'node');
    await execa(process.execPath, [
      ...[PROGRAM, 'cert', 'issue', REAL_NODE, '--state', this.state, '--out', join(state, 'ssl')],
    ]);
    const args = ['node', '--server', this.url, '--certname', REAL_NODE, '--state', state, '--splay', '0s'];
    args.push('--wake-splay', '0s', '--poll-interval', '2s', '--run-interval', '5s', '--facts-interval', '10s');
    this.#node = this.#keep('node', args, { FACTER_crash_directory: this.managed, FACTER_revision: '0' });
  }

  async isReady(): Promise<boolean> {
    const ca = await openCa(this.state, { create: false });
    const { Agent, fetch } = await import('undici');
    const dispatcher = new Agent({ connect: { ca: ca.certificatePem } });
    try {
      return (await fetch(`${this.url}/readyz`, { dispatcher, signal: AbortSignal.timeout(5_000) })).status === 200;
    } finally {
      await dispatcher.destroy();
      await ca.close();
    }
  }

  /** A connection to the embedded database, past the control plane. */
  async database(): Promise<pg.Client> {
    const { url } = JSON.parse(await readFile(join(this.state, 'database.json'), 'utf8')) as { url: string };
    const client = new pg.Client({ connectionString: url });
    client.on('error', () => {});
    await client.connect();
    return client;
  }

  /** SIGKILL. Gives the pid, or undefined where there is no such process now. */
  async kill(victim: Victim): Promise<number | undefined> {
    if (victim === 'PostgreSQL') return this.#killPostgres();
    if (victim === 'Ruby worker') return this.#killRuby();
    const kept = victim === 'control plane' ? this.#server! : this.#node!;
    const pid = kept.child.pid!;
    if (kept.killed || !isRunning(pid)) return undefined;
    if (victim === 'control plane') for (const ruby of await this.#rubies()) this.#left.add(ruby);
    kept.killed = true;
    process.kill(pid, 'SIGKILL');
    return pid;
  }

  /** Ruby processes that outlive the control plane that started them. */
  leftRubies(): number[] {
    return [...this.#left].filter(isRunning);
  }

  /** Stops all, the node first, and removes the directory. Where something went wrong the logs are shown. */
  async close(showLogs: boolean): Promise<void> {
    this.#stopping = true;
    for (const kept of [this.#node, this.#server]) {
      if (!kept) continue;
      const startedAt = Date.now();
      kept.child.kill('SIGTERM');
      const { exitCode, signal } = await kept.child;
      if (exitCode !== 0) {
        this.findings.push(`${kept.name} stopped with ${signal ?? exitCode} after ${Date.now() - startedAt} ms`);
      }
    }
    if ((await this.#killPostgres()) !== undefined)
      this.findings.push('PostgreSQL outlived the stop of its control plane');
    if (showLogs || this.findings.length > 0) {
      for (const name of ['server.log', 'node.log']) {
        const log = await readFile(join(this.directory, name), 'utf8').catch(() => '');
        process.stderr.write(`--- ${name}\n${log.slice(-8_000)}\n`);
      }
    }
    await rm(this.directory, { recursive: true, force: true });
  }

  #keep(name: string, args: string[], env: Record<string, string> = {}): Kept {
    const start = () => {
      // A file, not a pipe: what a killed program started may hold a pipe open, and its end would be noticed late.
      const log = openSync(join(this.directory, `${name}.log`), 'a');
      const child = execa(process.execPath, [PROGRAM, ...args], {
        env,
        reject: false,
        buffer: false,
        // Longer than a stop may take: that it must be killed is a finding.
        forceKillAfterDelay: 20_000,
        stdin: 'ignore',
        stdout: log as 1,
        stderr: log as 1,
      });
      closeSync(log);
      return child as ResultPromise;
    };
    const kept: Kept = { name, child: start(), killed: false };
    const watch = (child: ResultPromise): void => {
      void child.then(async ({ exitCode, signal }) => {
        if (this.#stopping) return;
        if (!kept.killed) {
          this.findings.push(`${name} ended by itself: exit code ${exitCode}, signal ${signal}`);
          await sleep(1_000);
        }
        kept.killed = false;
        kept.child = start();
        watch(kept.child);
      });
    };
    watch(kept.child);
    return kept;
  }

  async #killPostgres(): Promise<number | undefined> {
    const data = join(this.state, 'postgres');
    const text = await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '');
    const pid = Number(text.split('\n')[0]);
    const isOurs = pid > 1 && (await readlink(`/proc/${pid}/cwd`).catch(() => '')) === data;
    if (!isOurs) return undefined;
    process.kill(pid, 'SIGKILL');
    return pid;
  }

  async #killRuby(): Promise<number | undefined> {
    const rubies = await this.#rubies();
    const pid = rubies[Math.floor(Math.random() * rubies.length)];
    if (pid !== undefined) process.kill(pid, 'SIGKILL');
    return pid;
  }

  /** Ruby processes under the control plane, however deep. */
  async #rubies(): Promise<number[]> {
    const processes = new Map<number, { name: string; parent: number }>();
    for (const entry of await readdir('/proc')) {
      const stat = /^\d+$/.test(entry) ? await readFile(`/proc/${entry}/stat`, 'utf8').catch(() => '') : '';
      const match = /^(\d+) \((.*)\) \S (\d+)/s.exec(stat);
      if (match) processes.set(Number(match[1]), { name: match[2]!, parent: Number(match[3]) });
    }
    const server = this.#server!.child.pid!;
    const isUnder = (pid: number): boolean => {
      for (let at = processes.get(pid); at; at = processes.get(at.parent)) if (at.parent === server) return true;
      return false;
    };
    return [...processes].flatMap(([pid, { name }]) => (/ruby/.test(name) && isUnder(pid) ? [pid] : []));
  }
}

/** A git control repo whose every commit changes a manifest and a file. */
export class ControlRepo {
  readonly path: string;
  revision = 0;

  constructor(directory: string) {
    this.path = join(directory, 'control-repo');
  }

  async commit(): Promise<number> {
    this.revision += 1;
    const module = join(this.path, 'modules/crash');
    await mkdir(join(this.path, 'manifests'), { recursive: true });
    await mkdir(join(module, 'files/tree/deep'), { recursive: true });
    await mkdir(join(module, 'manifests'), { recursive: true });
    await writeFile(join(this.path, 'environment.conf'), 'modulepath = modules\n');
    await writeFile(join(this.path, 'manifests/site.pp'), 'node default { include crash }\n');
    await writeFile(join(module, 'manifests/init.pp'), manifest(this.revision));
    await writeFile(join(module, 'files/asset'), `asset of revision ${this.revision}\n`.repeat(100));
    await writeFile(join(module, 'files/tree/deep/leaf'), `leaf of revision ${this.revision}\n`);
    if (this.revision === 1) await execa('git', ['init', '-q', '-b', 'main', this.path]);
    await this.#git('add', '-A');
    await this.#git('commit', '-qm', `Revision ${this.revision}`);
    return this.revision;
  }

  async #git(...args: string[]): Promise<void> {
    await execa('git', ['-c', 'user.name=Crash', '-c', 'user.email=crash@example.test', '-C', this.path, ...args]);
  }
}

function manifest(revision: number): string {
  return `class crash {
  $directory = $facts['crash_directory']
  file { "\${directory}/state":
    content => "code ${revision}, facts \${facts['revision']}\\n",
  }
  file { "\${directory}/asset":
    source => 'puppet:///modules/crash/asset',
  }
  file { "\${directory}/tree":
    ensure  => directory,
    recurse => true,
    source  => 'puppet:///modules/crash/tree',
  }
}
`;
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
