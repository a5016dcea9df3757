/**
 * Where Ruby processes report: a unix socket in a directory that only we can enter. Each process is given a one-time
 * token and shows it first; whoever comes without a token that is waited for is turned away at once.
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LineConnection } from './lines.ts';

const TOKEN_LINE_BYTES_MAX = 256;
/** Connections that have not shown a token yet. */
const STRANGERS_MAX = 64;
const TOKEN_TIME_MAX_MS = 10_000;

const PREFIX = 'callboard-compile-';

export interface Expected {
  token: string;
  arrival: Promise<LineConnection>;
  /** Nobody is waited for any more. */
  cancel(): void;
}

export class Reception {
  readonly #directory: string;
  readonly #server: Server;
  readonly #expected = new Map<string, (connection: LineConnection) => void>();

  private constructor(directory: string, server: Server) {
    this.#directory = directory;
    this.#server = server;
  }

  get socketPath(): string {
    return join(this.#directory, 'compile.sock');
  }

  static async open(): Promise<Reception> {
    await sweep();
    const directory = await mkdtemp(join(tmpdir(), `${PREFIX}${process.pid}-`));
    const server = createServer({ pauseOnConnect: true });
    const reception = new Reception(directory, server);
    server.maxConnections = 4096;
    let strangers = 0;
    server.on('connection', (socket) => {
      if (strangers >= STRANGERS_MAX) {
        socket.destroy();
        return;
      }
      strangers += 1;
      void reception.#welcome(new LineConnection(socket)).finally(() => {
        strangers -= 1;
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(reception.socketPath, resolve);
    });
    return reception;
  }

  /** Waits for a process that is about to be started. */
  expect(): Expected {
    const token = randomBytes(32).toString('hex');
    const { promise, resolve } = Promise.withResolvers<LineConnection>();
    this.#expected.set(token, resolve);
    return { token, arrival: promise, cancel: () => this.#expected.delete(token) };
  }

  async #welcome(connection: LineConnection): Promise<void> {
    const timer = setTimeout(() => connection.close(), TOKEN_TIME_MAX_MS);
    try {
      const line = await connection.read(TOKEN_LINE_BYTES_MAX);
      const { token } = JSON.parse(String(line)) as { token?: string };
      const arrived = this.#expected.get(String(token));
      this.#expected.delete(String(token));
      if (arrived) arrived(connection);
      else connection.close();
    } catch {
      connection.close();
    } finally {
      clearTimeout(timer);
    }
  }

  async close(): Promise<void> {
    this.#server.close();
    await rm(this.#directory, { recursive: true, force: true });
  }
}

/** Removes what processes left that were killed. What is not ours to remove stays. */
async function sweep(): Promise<void> {
  const names = await readdir(tmpdir()).catch(() => []);
  for (const name of names) {
    const pid = Number(new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1]);
    if (pid && !isRunning(pid)) await rm(join(tmpdir(), name), { recursive: true, force: true }).catch(() => {});
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
