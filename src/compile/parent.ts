/**
 * The Ruby process that holds Puppet and forks all interpreters. It runs in a process group of its own and ends when its
 * standard input does, so that nothing of it is left however we end. When it is gone, so are its interpreters and compiles.
 */
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { CallboardError } from '../model/errors.ts';
import { RUNNER_START_MAX_MS } from '../model/limits.ts';
import { Interpreter } from './interpreter.ts';
import type { LineConnection } from './lines.ts';
import type { Reception } from './reception.ts';
import { RUBY_ENVIRONMENT } from './ruby-environment.ts';

const PROGRAM = fileURLToPath(new URL('../../ruby/compile/parent.rb', import.meta.url));
const EVENT_BYTES_MAX = 256 * 1024;

const LOG_BYTES_MAX = 64 * 1024;

export interface ParentOptions {
  /** The Ruby that has Puppet. */
  ruby: string;
  /** What `$settings::certname` reads. */
  certname: string;
  /** A fileserver.conf with custom mounts. */
  fileserverConfig?: string | undefined;
  /** Further Puppet settings of the compilers, such as strict_variables. */
  puppetSettings?: Record<string, string>;
}

export class Parent {
  readonly pid: number;
  readonly puppetVersion: string;
  readonly rubyVersion: string;
  readonly gone: Promise<void>;
  alive = true;
  readonly #connection: LineConnection;
  readonly #reception: Reception;
  readonly #log: () => string;
  #nextInterpreter = 1;

  private constructor(
    pid: number,
    versions: { puppet: string; ruby: string },
    connection: LineConnection,
    reception: Reception,
    exited: Promise<unknown>,
    log: () => string,
  ) {
    this.pid = pid;
    this.puppetVersion = versions.puppet;
    this.rubyVersion = versions.ruby;
    this.#connection = connection;
    this.#reception = reception;
    this.#log = log;
    this.gone = Promise.race([exited, this.#listen()]).then(() => {
      this.alive = false;
      this.kill();
    });
  }

  /** Throws WORKER_FAILED. */
  static async start(options: ParentOptions, reception: Reception): Promise<Parent> {
    const expected = reception.expect();
    const child = execa(options.ruby, [PROGRAM], {
      detached: true,
      cleanup: false,
      reject: false,
      buffer: false,
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'pipe',
      extendEnv: false,
      // Ruby's garbage collector is left as it is: larger limits, or none at all, changed the CPU of a compile by less than
      // runs differ (20 resources 320 to 380 ms, 479 resources 1750 to 1970 ms either way) and cost a third more memory.
      env: RUBY_ENVIRONMENT,
    });
    let log = '';
    const keep = (chunk: Buffer) => {
      log = (log + chunk.toString()).slice(-LOG_BYTES_MAX);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.stdin.on('error', () => {});
    const exited = child.then((result) => {
      throwUnless(false, result.shortMessage ?? `it ended with status ${result.exitCode}`, log);
    });
    exited.catch(() => {});
    child.stdin.write(
      `${JSON.stringify({
        socket: reception.socketPath,
        token: expected.token,
        certname: options.certname,
        fileserver_config: options.fileserverConfig,
        puppet_settings: options.puppetSettings ?? {},
      })}\n`,
    );
    const timer = Promise.withResolvers<never>();
    const timeout = setTimeout(
      () => timer.reject(new CallboardError('WORKER_FAILED', { reason: 'Ruby did not start in time' })),
      RUNNER_START_MAX_MS,
    );
    try {
      const connection = (await Promise.race([expected.arrival, exited, timer.promise])) as LineConnection;
      const ready = JSON.parse(String(await connection.read(EVENT_BYTES_MAX)));
      return new Parent(
        child.pid!,
        { puppet: String(ready.puppet), ruby: String(ready.ruby) },
        connection,
        reception,
        exited.catch(() => {}),
        () => log,
      );
    } catch (error) {
      if (child.pid) endGroup(child.pid);
      throw error;
    } finally {
      clearTimeout(timeout);
      expected.cancel();
    }
  }

  /** The last lines that the parent and its interpreters printed. */
  get log(): string {
    return this.#log();
  }

  /**
   * Throws WORKER_FAILED where the code version cannot be used at all, or `loads`, the code of modules that it is to load ahead
   * (relative files), cannot be loaded by itself.
   */
  async startInterpreter(
    { environment, codeDirectory, loads }: { environment: string; codeDirectory: string; loads?: readonly string[] },
    timeMaxMs: number,
  ): Promise<Interpreter> {
    const id = this.#nextInterpreter++;
    const expected = this.#reception.expect();
    this.#connection.send({
      do: 'interpreter',
      interpreter: id,
      token: expected.token,
      environment,
      code_directory: codeDirectory,
      loads,
    });
    const timer = Promise.withResolvers<null>();
    const timeout = setTimeout(() => timer.resolve(null), timeMaxMs);
    try {
      const connection = await Promise.race([expected.arrival, this.gone.then(() => null), timer.promise]);
      throwUnless(connection !== null, 'an interpreter did not start', this.log);
      const line = await Promise.race([connection!.read(EVENT_BYTES_MAX), timer.promise]);
      const ready = line === null ? {} : JSON.parse(String(line));
      if (ready.event !== 'ready') {
        connection!.close();
        throwUnless(false, ready.reason ?? 'an interpreter ended while it started', this.log);
      }
      return new Interpreter(id, codeDirectory, connection!);
    } catch (error) {
      this.killInterpreter(id);
      throw error;
    } finally {
      clearTimeout(timeout);
      expected.cancel();
    }
  }

  killInterpreter(id: number): void {
    this.#connection.send({ do: 'kill', interpreter: id });
  }

  warm(codeDirectory: string, files: string[]): void {
    if (files.length > 0) this.#connection.send({ do: 'warm', code_directory: codeDirectory, files });
  }

  /** Ends it and everything below it at once. */
  kill(): void {
    this.#connection.close();
    endGroup(this.pid);
  }

  async #listen(): Promise<void> {
    try {
      while ((await this.#connection.read(EVENT_BYTES_MAX)) !== null);
    } catch {
      // Fall through: it does not speak the protocol.
    }
  }
}

function throwUnless(condition: boolean, reason: string, log: string): void {
  if (condition) return;
  const last = log.trim().split('\n').slice(-3).join(' ');
  throw new CallboardError('WORKER_FAILED', { reason: last ? `${reason}: ${last}` : reason });
}

function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}
