/**
 * The command line's door to the control plane: `/api/v1` over TLS with an operator's token. Where the server is, who we
 * are and which CA to believe comes from flags, then CALLBOARD_SERVER, CALLBOARD_TOKEN and CALLBOARD_CA, then the
 * configuration file that `callboard operator token create --save` writes.
 */
import { openAsBlob, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { Agent, fetch } from 'undici';
import { CallboardError } from '../model/errors.ts';

export interface Connection {
  server: string;
  token: string;
  ca: string; // PEM
}

/** What the server answered with an error: its own code, sentence and hint. */
export class ApiError extends Error {
  readonly code: string;
  readonly hint: string;
  readonly status: number;

  constructor(status: number, body: { code?: string; message?: string; hint?: string }) {
    super(body.message ?? `The server answered ${status}`);
    this.status = status;
    this.code = body.code ?? 'UNEXPECTED';
    this.hint = body.hint ?? '';
  }
}

export const CONFIG_FILE = join(process.env.XDG_CONFIG_HOME ?? join(homedir(), '.config'), 'callboard', 'config.json');

/** Adds the flags that every command needs which speaks to the server. */
export function withConnection(command: Command): Command {
  return command
    .option('--server <url>', 'the control plane, such as https://callboard.example:8140 (CALLBOARD_SERVER)')
    .option('--token <token>', "an operator's token (CALLBOARD_TOKEN)")
    .option('--ca <file>', 'the CA certificate to believe, PEM (CALLBOARD_CA)');
}

export function findConnection(flags: { server?: string; token?: string; ca?: string }): Connection {
  let saved: Partial<Record<'server' | 'token' | 'ca', string>> = {};
  try {
    saved = JSON.parse(readFileSync(CONFIG_FILE, 'utf8'));
  } catch {
    // No file: flags and the environment may say all.
  }
  const setting = (name: 'server' | 'token' | 'ca'): string => {
    const value = flags[name] ?? process.env[`CALLBOARD_${name.toUpperCase()}`] ?? saved[name];
    if (!value) {
      const hint = `Give --${name}, set CALLBOARD_${name.toUpperCase()}, or run on the server's machine: callboard operator token create --role admin --save --state DIR`;
      throw new CallboardError('SETTING_INVALID', { setting: name, value: '', reason: 'is not known' }, { hint });
    }
    return value;
  };
  return {
    server: setting('server').replace(/\/$/, ''),
    token: setting('token'),
    ca: readFileSync(setting('ca'), 'utf8'),
  };
}

export class ApiClient {
  readonly #connection: Connection;
  readonly #agent: Agent;

  constructor(connection: Connection) {
    this.#connection = connection;
    this.#agent = new Agent({ connect: { ca: connection.ca }, bodyTimeout: 0 });
  }

  static from(flags: { server?: string; token?: string; ca?: string }): ApiClient {
    return new ApiClient(findConnection(flags));
  }

  get = <Answer>(path: string): Promise<Answer> => this.#ask<Answer>('GET', path);
  post = <Answer>(path: string, body: unknown = {}): Promise<Answer> => this.#ask<Answer>('POST', path, body);
  put = <Answer>(path: string, body: unknown): Promise<Answer> => this.#ask<Answer>('PUT', path, body);
  delete = <Answer>(path: string): Promise<Answer> => this.#ask<Answer>('DELETE', path);

  /** The answer's text, where JSON.parse would round its numbers. */
  async text(path: string): Promise<string> {
    return (await this.#send('GET', path)).text();
  }

  /** Follows a stream of server-sent events until `signal` ends it or the server closes. */
  async *events(path: string, signal?: AbortSignal): AsyncGenerator<{ event: string; data: string }> {
    const response = await this.#send('GET', path, undefined, signal);
    const decoder = new TextDecoder();
    let waiting = '';
    for await (const chunk of response.body!) {
      waiting += decoder.decode(chunk, { stream: true });
      let end = waiting.indexOf('\n\n');
      while (end >= 0) {
        const fields = waiting.slice(0, end).split('\n');
        waiting = waiting.slice(end + 2);
        const event = fields.find((field) => field.startsWith('event: '))?.slice(7);
        const data = fields.filter((field) => field.startsWith('data: ')).map((field) => field.slice(6));
        if (event) yield { event, data: data.join('\n') };
        end = waiting.indexOf('\n\n');
      }
    }
  }

  /** The lines of a stream of JSON lines, as text, as they come. */
  async *lines(path: string): AsyncGenerator<string> {
    const response = await this.#send('GET', path);
    const decoder = new TextDecoder();
    let waiting = '';
    try {
      for await (const chunk of response.body!) {
        waiting += decoder.decode(chunk, { stream: true });
        const lines = waiting.split('\n');
        waiting = lines.pop()!;
        yield* lines.filter((line) => line !== '');
      }
    } catch (error) {
      const url = this.#connection.server + path;
      throw new CallboardError('SERVER_UNREACHABLE', { url, reason: 'the answer broke off' }, { cause: error });
    }
    if (waiting !== '') yield waiting;
  }

  /** Sends a file's bytes as they are. */
  async upload<Answer>(path: string, file: string): Promise<Answer> {
    return (await this.#send('POST', path, await openAsBlob(file))).json() as Promise<Answer>;
  }

  close(): Promise<void> {
    return this.#agent.destroy();
  }

  async #ask<Answer>(method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await this.#send(method, path, body);
    return (response.status === 204 ? undefined : await response.json()) as Answer;
  }

  /** A body is sent as JSON, unless it is bytes. */
  async #send(method: string, path: string, body?: unknown, signal?: AbortSignal) {
    const isBytes = body instanceof Blob;
    const url = this.#connection.server + path;
    let response: Awaited<ReturnType<typeof fetch>>;
    try {
      response = await fetch(url, {
        method,
        headers: {
          authorization: `Bearer ${this.#connection.token}`,
          ...(body === undefined ? {} : { 'content-type': isBytes ? 'application/octet-stream' : 'application/json' }),
        },
        body: body === undefined ? null : isBytes ? body : JSON.stringify(body),
        dispatcher: this.#agent,
        ...(signal ? { signal } : {}),
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      const cause = (error as Error).cause ?? error;
      throw new CallboardError('SERVER_UNREACHABLE', { url, reason: (cause as Error).message }, { cause: error });
    }
    if (!response.ok) {
      const answer = await response.json().catch(() => ({}));
      throw new ApiError(response.status, answer as { code?: string });
    }
    return response;
  }
}
