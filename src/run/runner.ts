/**
 * The warm Ruby runner (ruby/run/runner.rb, PROTOCOL.md), supervised: started, restarted with growing waits when it dies,
 * replaced when Puppet or Facter was upgraded under it. A job's promise always settles, with how its process ended; when the
 * runner dies under a job, its process is waited for, since it may still be writing events.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { execa, type ResultPromise } from 'execa';
import type { Logger } from 'pino';
import { CallboardError } from '../model/errors.ts';
import { NODE_BACKOFF_MAX_MS, RUN_HALT_MAX_MS, RUNNER_LINE_BYTES_MAX, RUNNER_START_MAX_MS } from '../model/limits.ts';
import { backoffMs } from './schedule.ts';

const PROGRAM = fileURLToPath(new URL('../../ruby/run/runner.rb', import.meta.url));
const PROTOCOL = 1;
/** Puppet's own Ruby comes first where its packages are installed. */
const RUBY_OF_PACKAGES = '/opt/puppetlabs/puppet/bin/ruby';

/** What Puppet's settings are made from, in runs and collections of facts alike. */
export interface PuppetJob {
  certname: string;
  environment: string;
  /** Private directory for Puppet's confdir, vardir and so on. */
  directory: string;
  /** A plugin tree's directory, or null. */
  plugins: string | null;
  noop: boolean;
  log_level: string;
  /** Further settings of Puppet, by name. */
  settings: Record<string, string | number | boolean>;
}

export interface RunJob extends PuppetJob {
  /** The run's id. */
  id: string;
  catalog: string;
  content: string;
  facts: string;
  events: string;
  /** The first sequence number to give. */
  sequence: number;
  events_bytes_max: number;
}

/** What a run says at its end, in short; the whole is in its `end` event. */
export interface RunEnded {
  status: 'unchanged' | 'changed' | 'failed';
  exit_code: number;
  reason?: string;
  noop?: boolean;
  noop_pending?: boolean;
  resources?: Record<string, number> | null;
  seconds?: number | null;
  content_lacking?: string[];
}

export interface JobEnd {
  code: number | null;
  signal: string | null;
  ended?: RunEnded;
  collected?: { bytes: number; count: number };
  failed?: string;
}

interface Job {
  pid?: number;
  appended?: (bytes: number) => void;
  end: Partial<JobEnd>;
  settle: (end: JobEnd) => void;
}

interface Ready {
  protocol: number;
  puppet: string;
  facter: string;
  ruby: string;
  pid: number;
  /** Files whose change means that what is loaded is not what is installed. */
  files: string[];
}

/** What the runner says of a job; one of the members beside `id`. */
interface Message extends Partial<Omit<JobEnd, 'code' | 'signal'>> {
  id: string;
  started?: { pid: number };
  /** The events file has grown to this many bytes. */
  appended?: number;
  exited?: { code: number | null; signal: string | null };
}

export interface RunnerOptions {
  log: Logger;
  stop: AbortSignal;
  ruby?: string;
  /** More environment for the runner: tests point it at another Puppet. */
  env?: Record<string, string>;
}

export class Runner {
  readonly #options: RunnerOptions;
  readonly #jobs = new Map<string, Job>();
  #process: ResultPromise | undefined;
  #ready: Promise<Ready> | undefined;
  #loaded: { ready: Ready; stamps: string } | undefined;
  #failures = 0;

  constructor(options: RunnerOptions) {
    this.#options = options;
  }

  /** Starts the runner if none is up; resolves when it is warm. Throws RUNNER_FAILED when it does not come up. */
  async warm(): Promise<Ready> {
    if (this.#loaded && this.#jobs.size === 0 && stamps(this.#loaded.ready.files) !== this.#loaded.stamps) {
      this.#options.log.info('Puppet has been upgraded: the runner is replaced');
      await this.#end();
    }
    this.#ready ??= this.#start();
    return this.#ready;
  }

  /** Runs Puppet once. */
  async run(
    job: RunJob,
    hooks: { started?: (id: string) => void; appended: (bytes: number) => void },
  ): Promise<JobEnd> {
    return this.#job('run', job, hooks);
  }

  /** Collects facts into `output`. What is not done in time, or at the stop, is killed: nothing is lost by it. */
  async facts(job: PuppetJob & { output: string }, maxMs: number): Promise<JobEnd> {
    const id = randomUUID();
    const kill = (): void => this.kill(id);
    const timer = setTimeout(kill, maxMs);
    this.#options.stop.addEventListener('abort', kill, { once: true });
    try {
      return await this.#job('facts', { ...job, id }, {});
    } finally {
      clearTimeout(timer);
      this.#options.stop.removeEventListener('abort', kill);
    }
  }

  /** Asks a run to end after the resource that it is working on. */
  halt(id: string): void {
    this.#send({ do: 'stop', id });
  }

  kill(id: string): void {
    this.#send({ do: 'kill', id });
  }

  async close(): Promise<void> {
    await this.#end();
  }

  async #job(
    kind: 'run' | 'facts',
    job: object & { id: string },
    hooks: { appended?: (bytes: number) => void },
  ): Promise<JobEnd> {
    await this.warm();
    return new Promise<JobEnd>((settle) => {
      this.#jobs.set(job.id, { ...hooks, end: {}, settle });
      this.#send({ do: kind, ...job });
    });
  }

  #send(command: Record<string, unknown>): void {
    this.#process?.stdin?.write(`${JSON.stringify(command)}\n`);
  }

  async #start(): Promise<Ready> {
    const { log, stop } = this.#options;
    if (this.#failures > 0)
      await sleep(backoffMs(this.#failures, 1000, NODE_BACKOFF_MAX_MS, Math.random()), undefined, {
        signal: stop,
      }).catch(() => {});
    const ruby = this.#options.ruby ?? (existsSync(RUBY_OF_PACKAGES) ? RUBY_OF_PACKAGES : 'ruby');
    // UTF-8 whatever the locale of the daemon: catalogs and facts are.
    const child = execa(ruby, ['-E', 'UTF-8', PROGRAM], {
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'pipe',
      buffer: false,
      reject: false,
      cwd: '/',
      env: this.#options.env,
    });
    this.#process = child;
    const ready = new Promise<Ready>((resolve, reject) => {
      const timer = setTimeout(() => {
        child.kill('SIGKILL');
        reject(new CallboardError('RUNNER_FAILED', { reason: `it was not ready after ${RUNNER_START_MAX_MS} ms` }));
      }, RUNNER_START_MAX_MS);
      readLines(child.stdout!, (line) => {
        const message: Message & { ready?: Ready } = JSON.parse(line);
        if (message.ready) {
          clearTimeout(timer);
          if (message.ready.protocol === PROTOCOL) resolve(message.ready);
          else reject(new CallboardError('RUNNER_FAILED', { reason: `it speaks protocol ${message.ready.protocol}` }));
        } else this.#message(message);
      });
      readLines(child.stderr!, (line) => log.info({ runner: child.pid }, `runner: ${line.slice(0, 2000)}`));
      child.stdin!.on('error', () => {}); // told by its exit
      const abandon = (): void => void (this.#loaded === undefined && child.kill('SIGKILL'));
      stop.addEventListener('abort', abandon, { once: true });
      void child.then((result) => {
        clearTimeout(timer);
        stop.removeEventListener('abort', abandon);
        const how =
          result.code === 'ENOENT' ? `${ruby} is not there` : `it ended (${result.exitCode ?? result.signal})`;
        reject(new CallboardError('RUNNER_FAILED', { reason: how }));
        if (this.#process === child) void this.#lost(how);
      });
    });
    try {
      const value = await ready;
      this.#failures = 0;
      this.#loaded = { ready: value, stamps: stamps(value.files) };
      log.info(
        { runner: value.pid, puppet: value.puppet, facter: value.facter, ruby: value.ruby },
        'the runner is warm',
      );
      return value;
    } catch (error) {
      this.#failures++;
      this.#ready = undefined;
      throw error;
    }
  }

  #message(message: Message): void {
    const job = this.#jobs.get(message.id);
    if (!job) return;
    if (message.appended !== undefined) job.appended?.(message.appended);
    else if (message.started) job.pid = message.started.pid;
    else if (message.exited) {
      this.#jobs.delete(message.id);
      job.settle({ ...job.end, ...message.exited });
    } else Object.assign(job.end, message);
  }

  /** The runner died. Its children know, and end soon; only then are their jobs at an end. */
  async #lost(how: string): Promise<void> {
    this.#process = undefined;
    this.#ready = undefined;
    this.#loaded = undefined;
    this.#failures++;
    const jobs = [...this.#jobs];
    this.#jobs.clear();
    this.#options.log.error({ jobs: jobs.map(([id]) => id) }, `the runner is gone: ${how}`);
    await Promise.all(
      jobs.map(async ([id, job]) => {
        if (job.pid) await waitForOrphan(job.pid, id);
        job.settle({ code: null, signal: null, failed: 'the runner died', ...job.end });
      }),
    );
  }

  async #end(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    this.#ready = undefined;
    this.#loaded = undefined;
    child?.stdin?.end();
    if (child) await Promise.race([child, sleep(2000).then(() => child.kill('SIGKILL'))]);
  }
}

/** Waits until the process of a job that lost its runner has ended; what does not end in time is killed. */
export async function waitForOrphan(pid: number, job: string, maxMs: number = RUN_HALT_MAX_MS): Promise<void> {
  const until = Date.now() + maxMs;
  while (isJob(pid, job)) {
    if (Date.now() > until) {
      try {
        process.kill(-pid, 'SIGKILL');
      } catch {
        // It ended just now.
      }
    }
    await sleep(50);
  }
}

/** Whether a process is alive and is this job's: it carries the job's id in its title. */
function isJob(pid: number, job: string): boolean {
  try {
    return (
      readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(job) &&
      !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'))
    );
  } catch {
    return false;
  }
}

function stamps(files: string[]): string {
  return files.map((file) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0).join();
}

/** Calls `line` for each line of a stream; a line without end is cut. */
function readLines(stream: NodeJS.ReadableStream, line: (text: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop()!;
    if (rest.length > RUNNER_LINE_BYTES_MAX) rest = '';
    for (const text of lines) if (text !== '') line(text);
  });
}
