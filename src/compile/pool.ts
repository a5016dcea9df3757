/**
 * The pool of Ruby processes. Each compile runs in a process of its own, forked from the warm interpreter of its code
 * version, and is ended when it takes too long or too much memory. A process that hangs, dies, floods or lies harms no
 * other compile; its request is tried once more and then answered with a sentence that says what happened. What Puppet
 * or a module's code says about a compile is a result and never tried again.
 *
 *   parent (Puppet) ─▶ interpreter (code version, warm) ─▶ one process a compile
 *
 * Where compiles of several nodes load the same code of modules, an interpreter loads it ahead for the next ones (loads.ts).
 */
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { CallboardError } from '../model/errors.ts';
import {
  CATALOG_BYTES_MAX,
  COMPILE_MEMORY_MAX_BYTES,
  COMPILE_TIME_MAX_MS,
  FACTS_BYTES_MAX,
  INTERPRETER_IDLE_MAX_MS,
  INTERPRETERS_MAX,
} from '../model/limits.ts';
import { type CompileHeader, checkCatalog, readHeader } from './answer.ts';
import type { Fork, Interpreter, ProcessEnd } from './interpreter.ts';
import { type LineConnection, LineTooLong } from './lines.ts';
import { type LoadSet, Loads } from './loads.ts';
import { Parent, type ParentOptions } from './parent.ts';
import { Reception } from './reception.ts';
import { type CompileRequest, type CompileResult, requestLine } from './request.ts';

/** Lists of warnings, contents and files: some MB for the largest catalogs. */
const HEADER_BYTES_MAX = 64 * 1024 * 1024;
/** Facts are escaped once more inside the request; ENC and the rest are small. */
const REQUEST_BYTES_MAX = 2 * FACTS_BYTES_MAX + 8 * 1024 * 1024;
const MEMORY_LOOK_MS = 200;
/** How long a killed process may take to be gone before its interpreter, then its parent, is ended. */
const KILL_TIME_MAX_MS = 2000;
/** Compiles that wait for their turn. */
const WAITING_MAX = 10_000;

export interface CompilePoolOptions extends ParentOptions {
  /** Compiles at the same time. */
  concurrency?: number;
  timeMaxMs?: number;
  memoryMaxBytes?: number;
  interpretersMax?: number;
  interpreterIdleMaxMs?: number;
  /** Told what compiles printed and what went wrong with processes; bounded text, for the log. */
  note?: (message: string, detail: Record<string, unknown>) => void;
}

/** What one compile may take; what is not said is the pool's. */
export interface CompileLimits {
  timeMaxMs?: number;
  memoryMaxBytes?: number;
}

/** A code version in an environment. */
type Code = Pick<CompileRequest, 'environment' | 'codeDirectory'>;

/** An interpreter, from the moment when it is to be started. */
interface Kept {
  key: string;
  codeDirectory: string;
  starting: Promise<Interpreter>;
  /** Undefined until it is ready. */
  ready: Interpreter | undefined;
}

/** Something is wrong with a process, not with the code that it compiled. */
class Trouble extends Error {}

export class CompilePool {
  readonly #options: CompilePoolOptions;
  readonly #concurrency: number;
  readonly #timeMaxMs: number;
  readonly #memoryMaxBytes: number;
  readonly #interpreters = new Map<string, Kept>();
  readonly #loads = new Loads();
  readonly #waiting: (() => void)[] = [];
  #reception: Promise<Reception> | undefined;
  #parent: Promise<Parent> | undefined;
  readonly #idleTimer: NodeJS.Timeout;
  #running = 0;
  #closed = false;

  constructor(options: CompilePoolOptions) {
    this.#options = options;
    this.#concurrency = options.concurrency ?? availableParallelism();
    this.#timeMaxMs = options.timeMaxMs ?? COMPILE_TIME_MAX_MS;
    this.#memoryMaxBytes = options.memoryMaxBytes ?? COMPILE_MEMORY_MAX_BYTES;
    const idleMaxMs = options.interpreterIdleMaxMs ?? INTERPRETER_IDLE_MAX_MS;
    this.#idleTimer = setInterval(() => this.#endIdle(Date.now() - idleMaxMs), idleMaxMs / 4).unref();
  }

  /** For figures: compiles under way, compiles waiting, interpreters, and those of them that are being started. */
  get state(): { running: number; waiting: number; interpreters: number; starting: number } {
    const kept = [...this.#interpreters.values()];
    const starting = kept.filter(({ ready }) => !ready).length;
    return { running: this.#running, waiting: this.#waiting.length, interpreters: kept.length, starting };
  }

  /** Loads Puppet ahead of the first compile; gives its version. Throws WORKER_FAILED. */
  async start(): Promise<{ puppetVersion: string; rubyVersion: string; pid: number }> {
    const { puppetVersion, rubyVersion, pid } = await this.#theParent();
    return { puppetVersion, rubyVersion, pid };
  }

  /**
   * Compiles. Throws WORKER_FAILED where Ruby or Puppet cannot be run, BUSY where too many wait, and the signal's reason
   * when it is aborted.
   */
  async compile(request: CompileRequest, signal?: AbortSignal, limits: CompileLimits = {}): Promise<CompileResult> {
    await this.#turn(signal);
    try {
      try {
        const loaded = request.apart ? undefined : this.#loaded(request);
        const result = await this.#attempt(request, loaded, limits, signal);
        // Only what fails without anything loaded ahead is the code's own fault.
        if (loaded === undefined || result.status === 'compiled') return result;
      } catch (error) {
        if (!(error instanceof Trouble) || this.#closed) throw error;
        this.#note('a compile is tried again', { certname: request.certname, reason: error.message });
      }
      return await this.#attempt(request, undefined, limits, signal);
    } catch (error) {
      if (!(error instanceof Trouble)) throw error;
      if (this.#closed) throw new CallboardError('WORKER_FAILED', { reason: 'it is being stopped' });
      return {
        status: 'failed',
        error: { message: error.message, file: null, line: null },
        warnings: [],
        cpuMs: null,
        reads: null,
      };
    } finally {
      this.#running -= 1;
      this.#waiting.shift()?.();
    }
  }

  /** Says that compiles under a code version are about to come, so that they find it warm. What goes wrong is theirs to say. */
  expect(environment: string, codeDirectory: string): void {
    if (!this.#closed) void this.#plain({ environment, codeDirectory }).catch(() => {});
  }

  /** Ends everything. Compiles under way fail with WORKER_FAILED. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#idleTimer);
    for (const wake of this.#waiting.splice(0)) wake();
    const parent = await this.#parent?.catch(() => undefined);
    parent?.kill();
    await parent?.gone;
    await (await this.#reception)?.close();
  }

  async #turn(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (this.#waiting.length >= WAITING_MAX) throw new CallboardError('BUSY', { reason: 'Too many compiles wait' });
    if (this.#running >= this.#concurrency && !this.#closed) {
      await new Promise<void>((resolve, reject) => {
        const abort = () => {
          const at = this.#waiting.indexOf(wake);
          if (at >= 0) this.#waiting.splice(at, 1);
          reject(signal?.reason);
        };
        const wake = () => {
          signal?.removeEventListener('abort', abort);
          this.#running += 1;
          resolve();
        };
        this.#waiting.push(wake);
        signal?.addEventListener('abort', abort, { once: true });
      });
    } else {
      this.#running += 1;
    }
    if (!this.#closed) return;
    this.#running -= 1;
    throw new CallboardError('WORKER_FAILED', { reason: 'it is being stopped' });
  }

  async #attempt(
    request: CompileRequest,
    loaded: Interpreter | undefined,
    limits: CompileLimits,
    signal: AbortSignal | undefined,
  ): Promise<CompileResult> {
    const interpreter = loaded ?? (await this.#plain(request));
    const reception = await this.#reception!;
    interpreter.running += 1;
    interpreter.usedAt = Date.now();
    const expected = reception.expect();
    const fork = interpreter.fork(expected.token, REQUEST_BYTES_MAX);
    const watch = new Watch(
      fork,
      limits.timeMaxMs ?? this.#timeMaxMs,
      limits.memoryMaxBytes ?? this.#memoryMaxBytes,
      signal,
    );
    try {
      const answer = await watch.during(expected.arrival.then((connection) => converse(connection, request)));
      this.#loads.learn(request.certname, codeKey(request), answer.header.loads, loaded !== undefined);
      if (answer.header.parsed.length > 0) {
        interpreter.warm(answer.header.parsed);
        void this.#parent?.then((parent) => parent.warm(request.codeDirectory, answer.header.parsed)).catch(() => {});
      }
      return answer.result;
    } finally {
      expected.cancel();
      watch.stop();
      await this.#end(fork, interpreter, request);
      interpreter.running -= 1;
    }
  }

  /** The slot is free only when the process is gone. */
  async #end(fork: Fork, interpreter: Interpreter, request: CompileRequest): Promise<void> {
    const end = await withinTime(fork.ended, 500);
    if (end === undefined) fork.kill();
    const last = end ?? (await withinTime(fork.ended, KILL_TIME_MAX_MS));
    if (last === undefined) {
      this.#note('an interpreter that does not answer is ended', { code_directory: interpreter.codeDirectory });
      const parent = await this.#parent;
      parent?.killInterpreter(interpreter.id);
      if ((await withinTime(interpreter.gone, KILL_TIME_MAX_MS)) === undefined) parent?.kill();
    } else if (last.output.trim() !== '') {
      this.#note('a compile printed', { certname: request.certname, output: last.output });
    }
  }

  /** The interpreter of a code version that has loaded no code of modules. */
  #plain(code: Code): Promise<Interpreter> {
    const kept = this.#interpreters.get(codeKey(code));
    if (kept) return kept.starting;
    const { starting } = this.#start(code, undefined);
    this.#endOldest();
    return starting;
  }

  /** The interpreter that has loaded what the node's compile will; undefined where there is none, or none yet. */
  #loaded(request: CompileRequest): Interpreter | undefined {
    const set = this.#loads.expected(request.certname, codeKey(request));
    if (!set) return undefined;
    const kept = this.#interpreters.get(`${codeKey(request)}\n${set.key}`);
    if (kept) return kept.ready?.alive ? kept.ready : undefined;
    if (!this.#makeRoom(request.codeDirectory)) return undefined;
    this.#start(request, set).starting.catch((error) => {
      set.fit = false;
      if (!this.#closed) this.#note('code is not loaded ahead', { reason: (error as Error).message });
    });
    return undefined;
  }

  #start({ environment, codeDirectory }: Code, set: LoadSet | undefined): Kept {
    const code = { environment, codeDirectory, ...(set && { loads: set.files }) };
    const kept: Kept = {
      key: set ? `${codeKey(code)}\n${set.key}` : codeKey(code),
      codeDirectory,
      starting: this.#theParent().then((parent) => parent.startInterpreter(code, this.#timeMaxMs)),
      ready: undefined,
    };
    this.#interpreters.set(kept.key, kept);
    const forget = () => {
      if (this.#interpreters.get(kept.key) === kept) this.#interpreters.delete(kept.key);
    };
    kept.starting.then((interpreter) => {
      kept.ready = interpreter;
      void interpreter.gone.then(forget);
    }, forget);
    return kept;
  }

  get #interpretersMax(): number {
    return this.#options.interpretersMax ?? INTERPRETERS_MAX;
  }

  /** Whether there is room for one more interpreter of this code version, at the cost of idle ones of others. */
  #makeRoom(codeDirectory: string): boolean {
    if (this.#interpreters.size < this.#interpretersMax) return true;
    const oldest = this.#idle().find((kept) => kept.codeDirectory !== codeDirectory);
    if (oldest) this.#forget(oldest);
    return oldest !== undefined;
  }

  /** Ends interpreters that nobody uses, the longest unused first, until there are few enough. */
  #endOldest(): void {
    const surplus = this.#interpreters.size - this.#interpretersMax;
    for (const kept of this.#idle().slice(0, Math.max(0, surplus))) this.#forget(kept);
  }

  /** Ends interpreters that nobody used since then. */
  #endIdle(since: number): void {
    for (const kept of this.#idle()) if (kept.ready!.usedAt < since) this.#forget(kept);
  }

  /** Those without a compile, the longest unused first. */
  #idle(): Kept[] {
    const idle = [...this.#interpreters.values()].filter(({ ready }) => ready?.running === 0);
    return idle.sort((a, b) => a.ready!.usedAt - b.ready!.usedAt);
  }

  #forget(kept: Kept): void {
    this.#interpreters.delete(kept.key);
    kept.ready?.close();
  }

  #theParent(): Promise<Parent> {
    if (this.#closed) throw new CallboardError('WORKER_FAILED', { reason: 'it is being stopped' });
    if (!this.#parent) {
      this.#reception ??= Reception.open();
      const starting = this.#reception.then((reception) => Parent.start(this.#options, reception));
      this.#parent = starting;
      const forget = () => {
        if (this.#parent === starting) this.#parent = undefined;
      };
      starting.then((parent) => {
        void parent.gone.then(() => {
          if (!this.#closed) this.#note('the parent of the compilers is gone', { log: parent.log });
          forget();
        });
      }, forget);
    }
    return this.#parent;
  }

  #note(message: string, detail: Record<string, unknown>): void {
    this.#options.note?.(message, detail);
  }
}

/** What tells one code version in one environment from others. */
function codeKey({ environment, codeDirectory }: Code): string {
  return `${environment}\n${codeDirectory}`;
}

interface Answer {
  header: CompileHeader;
  result: CompileResult;
}

/** Hands the request over and reads the answer. Throws Trouble on anything that is not an answer. */
async function converse(connection: LineConnection, request: CompileRequest): Promise<Answer | null> {
  try {
    connection.write(requestLine(request));
    const line = await connection.read(HEADER_BYTES_MAX);
    if (line === null) return null;
    const header = readHeader(line);
    const { warnings, cpuMs, reads } = header;
    if (header.status === 'failed')
      return { header, result: { status: 'failed', error: header.error!, warnings, cpuMs, reads } };
    const canonical = await connection.read(CATALOG_BYTES_MAX);
    if (canonical === null) return null;
    checkCatalog(canonical, header, request);
    return {
      header,
      result: { status: 'compiled', canonical, contents: header.contents, warnings, cpuMs, reads },
    };
  } catch (error) {
    if (error instanceof LineTooLong) throw new Trouble(`The compile's process sent too much: ${error.message}`);
    throw new Trouble(`The compile's process did not keep to the protocol: ${(error as Error).message}`);
  } finally {
    connection.close();
  }
}

/** Looks after one process while it compiles: time, memory, its end, and our caller's patience. */
class Watch {
  readonly #fork: Fork;
  readonly #trouble = Promise.withResolvers<never>();
  readonly #stops: (() => void)[] = [];

  constructor(fork: Fork, timeMaxMs: number, memoryMaxBytes: number, signal: AbortSignal | undefined) {
    this.#fork = fork;
    this.#trouble.promise.catch(() => {});
    const timer = setTimeout(
      () => this.#end(new Trouble(`The compile took longer than ${timeMaxMs / 1000} s and was ended`)),
      timeMaxMs,
    );
    this.#stops.push(() => clearTimeout(timer));
    const abort = () => this.#end(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort);
    this.#stops.push(() => signal?.removeEventListener('abort', abort));
    void fork.pid.then((pid) => {
      const look = setInterval(async () => {
        if ((await residentBytes(pid)) <= memoryMaxBytes) return;
        const most = `${Math.round(memoryMaxBytes / 1024 / 1024)} MiB`;
        this.#end(new Trouble(`The compile took more than ${most} of memory and was ended`));
      }, MEMORY_LOOK_MS);
      this.#stops.push(() => clearInterval(look));
    });
  }

  /** The answer, unless something happens first. */
  async during(answer: Promise<Answer | null>): Promise<Answer> {
    answer.catch(() => {});
    // The process may end right after its answer: the end alone decides nothing, an answer that is not there does.
    const died = this.#fork.ended.then(async (end) => (await withinTime(answer, 1000)) ?? explainEnd(end));
    const first = await Promise.race([answer, died, this.#trouble.promise]);
    if (first !== null) return first;
    const hungUp = withinTime(died, 1000).then((end) => {
      if (end === undefined) throw new Trouble("The compile's process hung up before it gave a result");
      return end;
    });
    return Promise.race([hungUp, this.#trouble.promise]);
  }

  stop(): void {
    for (const stop of this.#stops) stop();
  }

  #end(reason: unknown): void {
    this.#fork.kill();
    this.#trouble.reject(reason);
  }
}

function explainEnd(end: ProcessEnd): never {
  if (end.flooded) throw new Trouble('The compile printed without end and was ended');
  if (end.interpreterGone) throw new Trouble('The interpreter of the code version ended during the compile');
  const how = end.signal === null ? `with exit status ${end.exit}` : `by signal ${end.signal}`;
  throw new Trouble(`The compile's process ended ${how} before it gave a result`);
}

async function withinTime<Value>(promise: Promise<Value>, ms: number): Promise<Value | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What the process holds in memory now; 0 when it is gone. */
async function residentBytes(pid: number): Promise<number> {
  try {
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}
