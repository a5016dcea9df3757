/**
 * The Ruby interpreter of one code version in one environment, as seen from here: it forks a process for every compile
 * and tells when that process ended and how. It may die at any moment; then `gone` settles and all its compiles end.
 */
import type { LineConnection } from './lines.ts';

const EVENT_BYTES_MAX = 256 * 1024;

/** How a compile's process ended. */
export interface ProcessEnd {
  exit: number | null;
  signal: number | null;
  /** It was ended because it printed without end. */
  flooded: boolean;
  /** The beginning of what it printed. */
  output: string;
  /** The interpreter was lost together with it. */
  interpreterGone: boolean;
}

export interface Fork {
  id: number;
  /** Settles when the process exists. */
  pid: Promise<number>;
  ended: Promise<ProcessEnd>;
  kill(): void;
}

interface Pending {
  started: (pid: number) => void;
  ended: (end: ProcessEnd) => void;
}

const GONE: ProcessEnd = { exit: null, signal: null, flooded: false, output: '', interpreterGone: true };

export class Interpreter {
  readonly id: number;
  readonly codeDirectory: string;
  /** Settles when it is gone, for whatever reason. */
  readonly gone: Promise<void>;
  running = 0;
  usedAt = Date.now();
  alive = true;
  readonly #connection: LineConnection;
  readonly #forks = new Map<number, Pending>();
  #nextFork = 1;

  constructor(id: number, codeDirectory: string, connection: LineConnection) {
    this.id = id;
    this.codeDirectory = codeDirectory;
    this.#connection = connection;
    this.gone = this.#listen();
  }

  /** Has a process forked that will connect with `token`. */
  fork(token: string, requestBytesMax: number): Fork {
    const id = this.#nextFork++;
    const pid = Promise.withResolvers<number>();
    const ended = Promise.withResolvers<ProcessEnd>();
    this.#forks.set(id, { started: pid.resolve, ended: ended.resolve });
    if (!this.alive) ended.resolve(GONE);
    this.#connection.send({ do: 'compile', compile: id, token, request_bytes_max: requestBytesMax });
    return {
      id,
      pid: pid.promise,
      ended: ended.promise,
      kill: () => this.#connection.send({ do: 'kill', compile: id }),
    };
  }

  /** Files of the code version to be parsed in an idle moment. */
  warm(files: string[]): void {
    if (files.length > 0) this.#connection.send({ do: 'warm', files });
  }

  /** Hangs up; the interpreter ends its compiles and itself. */
  close(): void {
    this.#connection.close();
  }

  async #listen(): Promise<void> {
    try {
      for (;;) {
        const line = await this.#connection.read(EVENT_BYTES_MAX);
        if (line === null) break;
        this.#heard(JSON.parse(String(line)));
      }
    } catch {
      // What does not speak the protocol is not to be kept.
    }
    this.alive = false;
    this.#connection.close();
    for (const fork of this.#forks.values()) fork.ended(GONE);
    this.#forks.clear();
  }

  #heard(event: Record<string, unknown>): void {
    const fork = this.#forks.get(Number(event.compile));
    if (!fork) return;
    if (event.event === 'started') fork.started(Number(event.pid));
    if (event.event === 'ended') {
      this.#forks.delete(Number(event.compile));
      fork.ended({
        exit: typeof event.exit === 'number' ? event.exit : null,
        signal: typeof event.signal === 'number' ? event.signal : null,
        flooded: event.flooded === true,
        output: String(event.output ?? ''),
        interpreterGone: false,
      });
    }
  }
}
