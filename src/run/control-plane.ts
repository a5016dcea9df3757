/**
 * What a node asks of the control plane: one keep-alive client over TLS, which shows the node's certificate and trusts only
 * the CA of its ssldir. Each call fails with a CallboardError, SERVER_UNREACHABLE when there was no answer, or with Refused.
 * Nothing is retried here: who calls knows when it is worth another try.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import { Agent, type Dispatcher } from 'undici';
import { CallboardError } from '../model/errors.ts';
import { type CatalogHash, type ContentHash, parseCatalogHash, parseContentHash, type RunId } from '../model/ids.ts';
import { BODY_BYTES_MAX, CATALOG_BYTES_MAX, NODE_REQUEST_MAX_MS, WAKEUPS_SILENCE_MAX_MS } from '../model/limits.ts';
import { type SentEvent, sentEvents } from './sse.ts';
import { parseRunRequest, type RunMode, type RunRequest } from './wanted.ts';

/** The control plane answered, and the answer is no. */
export class Refused extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.name = 'Refused';
    this.status = status;
    this.code = code;
  }
}

/** What the control plane says about the node's catalog. */
export type CatalogAnswer = { request: RunRequest | null } & (
  | { kind: 'unchanged' }
  | { kind: 'none' }
  | {
      kind: 'catalog';
      etag: string;
      id: CatalogHash;
      codeVersion: string | null;
      plugins: ContentHash | null;
      runMode: RunMode;
      document: Buffer;
    }
);

export interface ControlPlaneOptions {
  /** Base URL, `https://…`. */
  server: string;
  certname: string;
  /** Puppet's layout: certs/ca.pem, certs/NAME.pem, private_keys/NAME.pem. */
  ssldir: string;
  /** Ends everything that is under way but the delivery of events. */
  stop: AbortSignal;
}

export class ControlPlane {
  readonly #agent: Agent;
  readonly #stop: AbortSignal;
  readonly #origin: string;
  readonly #node: string;

  /** Throws NODE_CERTIFICATE_MISSING when the ssldir lacks a file. */
  constructor(options: ControlPlaneOptions) {
    const { certname, ssldir } = options;
    const pem = (path: string): Buffer => {
      const file = join(ssldir, path);
      if (!existsSync(file))
        throw new CallboardError('NODE_CERTIFICATE_MISSING', { certname, ssldir, reason: `${path} is not there` });
      return readFileSync(file);
    };
    this.#stop = options.stop;
    this.#origin = new URL(options.server).origin;
    this.#node = `/node/v1/nodes/${encodeURIComponent(certname)}`;
    this.#agent = new Agent({
      allowH2: false,
      connect: {
        ca: pem('certs/ca.pem'),
        cert: pem(`certs/${certname}.pem`),
        key: pem(`private_keys/${certname}.pem`),
        timeout: 10_000,
      },
      // Longer than the flush of events and the polls of a busy moment; below the 72 s after which servers close.
      keepAliveTimeout: 30_000,
      headersTimeout: NODE_REQUEST_MAX_MS,
      bodyTimeout: NODE_REQUEST_MAX_MS,
    });
  }

  /** The plugin tree that facts need first; null when the environment has none yet. */
  async plugins(): Promise<ContentHash | null> {
    const response = await this.#request('GET', `${this.#node}/plugins`);
    const { plugins } = await json<{ plugins: string | null }>(response);
    return plugins === null ? null : parseContentHash(plugins);
  }

  /** Asks whether the facts with this hash are the ones it has. */
  async hasFacts(environment: string, hash: string): Promise<boolean> {
    const response = await this.#request('PUT', `${this.#node}/facts?environment=${environment}`, {
      headers: { 'if-none-match': `"${hash}"` },
      expect: [304, 428],
    });
    await response.body.dump();
    return response.statusCode === 304;
  }

  /** Sends the facts whole. */
  async sendFacts(environment: string, values: Buffer): Promise<{ facts: string; changed: boolean }> {
    const response = await this.#request('PUT', `${this.#node}/facts?environment=${environment}`, {
      headers: { 'content-type': 'application/json', 'content-encoding': 'gzip' },
      body: await promisify(gzip)(values),
    });
    return json(response);
  }

  async catalog(etag: string | null): Promise<CatalogAnswer> {
    const response = await this.#request('GET', `${this.#node}/catalog`, {
      headers: { 'accept-encoding': 'gzip', ...(etag ? { 'if-none-match': etag } : {}) },
      expect: [200, 304, 404],
    });
    const header = (name: string): string | undefined => [response.headers[name]].flat()[0];
    const request = parseRunRequest(header('callboard-run-request'));
    if (response.statusCode === 304) {
      await response.body.dump();
      return { kind: 'unchanged', request };
    }
    if (response.statusCode === 404) {
      const refused = await refusal(response);
      if (refused.code === 'CATALOG_NOT_RELEASED') return { kind: 'none', request };
      throw refused;
    }
    const received = await bytes(response.body, CATALOG_BYTES_MAX);
    const document =
      header('content-encoding') === 'gzip'
        ? await promisify(gunzip)(received, { maxOutputLength: CATALOG_BYTES_MAX })
        : received;
    const plugins = header('callboard-plugins');
    return {
      kind: 'catalog',
      request,
      etag: header('etag') ?? '',
      id: parseCatalogHash(header('callboard-catalog') ?? ''),
      codeVersion: header('callboard-code-version') ?? null,
      plugins: plugins ? parseContentHash(plugins) : null,
      runMode: header('callboard-run-mode') === 'noop' ? 'noop' : 'do',
      document,
    };
  }

  /** The bytes of one piece of content, not verified yet. */
  async content(hash: ContentHash): Promise<Readable> {
    const response = await this.#request('GET', `/content/v1/sha256/${hash}`);
    return response.body;
  }

  /** Sends NDJSON events of a run; resolves to the highest sequence up to which the control plane has all. */
  async events(run: RunId, lines: Buffer): Promise<number> {
    const response = await this.#request('POST', `${this.#node}/runs/${run}/events`, {
      headers: { 'content-type': 'application/x-ndjson' },
      body: lines,
      signal: null,
    });
    return (await json<{ acknowledged: number }>(response)).acknowledged;
  }

  /** The stream of wake-ups: yields a first `open` when it stands, ends or throws when it breaks. */
  async *wakeups(): AsyncGenerator<SentEvent> {
    const response = await this.#request('GET', `${this.#node}/wakeups`, {
      headers: { accept: 'text/event-stream' },
      bodyTimeout: WAKEUPS_SILENCE_MAX_MS,
    });
    yield { event: 'open', data: '' };
    yield* sentEvents(response.body);
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #request(
    method: 'GET' | 'PUT' | 'POST',
    path: string,
    options: {
      headers?: Record<string, string>;
      body?: Buffer;
      expect?: number[];
      bodyTimeout?: number;
      signal?: null;
    } = {},
  ): Promise<Dispatcher.ResponseData> {
    const { expect = [200], ...rest } = options;
    let response: Dispatcher.ResponseData;
    try {
      response = await this.#agent.request({ origin: this.#origin, method, path, signal: this.#stop, ...rest });
    } catch (error) {
      throw unreachable(this.#origin, error);
    }
    if (expect.includes(response.statusCode)) return response;
    throw await refusal(response);
  }
}

function unreachable(url: string, cause: unknown): CallboardError {
  const error = cause as NodeJS.ErrnoException;
  const reason = error.message || error.code || String(cause);
  return new CallboardError('SERVER_UNREACHABLE', { url, reason }, { cause });
}

async function refusal(response: Dispatcher.ResponseData): Promise<Refused> {
  const text = (await bytes(response.body, BODY_BYTES_MAX)).toString('utf8');
  try {
    const { code, message } = JSON.parse(text);
    return new Refused(response.statusCode, String(code ?? ''), String(message ?? text));
  } catch {
    return new Refused(response.statusCode, '', `HTTP ${response.statusCode}: ${text.slice(0, 200)}`);
  }
}

async function json<T>(response: Dispatcher.ResponseData): Promise<T> {
  return JSON.parse((await bytes(response.body, BODY_BYTES_MAX)).toString('utf8')) as T;
}

/** A body as a whole. Throws when it is larger than `max`, or breaks. */
async function bytes(body: Readable, max: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > max) {
      body.destroy();
      throw new CallboardError('BODY_TOO_LARGE', { max });
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
