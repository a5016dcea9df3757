/**
 * The control plane's side of the node's API, over real TLS with client certificates: as much of it as the daemon speaks with,
 * with what it was told in plain sight. It stands in for the API only; the daemon, Puppet, facter, TLS and the disk are real.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { gunzipSync, gzipSync } from 'node:zlib';
import { catalogContents, servedCatalog } from '../../src/model/catalog.ts';
import { splitFacts } from '../../src/model/facts.ts';
import { type TreeEntry, treeHash, writeTree } from '../../src/model/tree.ts';
import type { TestCa } from './certificates.ts';

/** The members of `data` that tests look at, of whatever kind of event. */
export interface EventData {
  [name: string]: unknown;
  resource?: string;
  message?: string;
  changed?: boolean;
  corrective_change?: boolean;
  events?: { name: string; status: string }[];
}

export interface SeenEvent {
  sequence: number;
  at: string;
  kind: string;
  data: EventData;
  /** When it came, epoch milliseconds. */
  seenAt: number;
}

export class TestControlPlane {
  readonly content = new Map<string, Buffer>();
  /** Every request as `METHOD path`. */
  readonly requests: string[] = [];
  /** By run, by sequence: what the node told; `repeats` counts what came again. */
  readonly runs = new Map<string, Map<number, SeenEvent>>();
  repeats = 0;
  facts: Record<string, unknown> | null = null;
  factsHash: string | null = null;
  catalog: { id: string; document: Buffer } | null = null;
  codeVersion = '0'.repeat(64);
  plugins: string | null = null;
  runMode = 'do';
  request: { id: string; mode: string } | null = null;
  /** Answers every POST of events with this status, when set. */
  eventsStatus: number | null = null;
  /** Corrupts this content when it is asked for. */
  corrupt: string | null = null;
  port = 0;
  readonly #ca: TestCa;
  #server: Server | undefined;
  #sockets = new Set<Socket>();
  #streams = new Set<ServerResponse>();

  constructor(ca: TestCa) {
    this.#ca = ca;
  }

  get url(): string {
    return `https://localhost:${this.port}`;
  }

  async start(): Promise<void> {
    const server = createServer(
      {
        key: readFileSync(this.#ca.serverKey),
        cert: readFileSync(this.#ca.serverCert),
        ca: readFileSync(this.#ca.ca),
        requestCert: true,
        rejectUnauthorized: true,
      },
      (request, response) => {
        this.#answer(request, response).catch((error) => {
          if (!response.headersSent) response.writeHead(500);
          response.end(String(error));
        });
      },
    );
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.port, '127.0.0.1', resolve));
    this.port = (server.address() as AddressInfo).port;
  }

  /** As a crash would: connections are cut. The port stays known, so that `start` brings it back. */
  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server?.close(resolve));
    this.#streams.clear();
  }

  put(bytes: Buffer | string): string {
    const buffer = Buffer.from(bytes);
    const hash = createHash('sha256').update(buffer).digest('hex');
    this.content.set(hash, buffer);
    return hash;
  }

  /** Makes a plugin tree of these files (`lib/…`, `facts.d/…`); a path ending in `*` is executable. */
  setPlugins(files: Record<string, string>): string {
    const entries = Object.entries(files).map(([path, text]): TreeEntry => {
      const hash = this.put(text) as never;
      const mode = path.endsWith('*') ? '755' : '644';
      return { kind: 'file', path: path.replace(/\*$/, ''), mode, hash, size: Buffer.byteLength(text) };
    });
    const manifest = writeTree(entries);
    this.put(manifest);
    this.plugins = treeHash(manifest);
    return this.plugins;
  }

  /** Releases a catalog, given in canonical form. Everything it names must have been put before (P4). */
  setCatalog(canonical: object): string {
    const { id, document } = servedCatalog(Buffer.from(JSON.stringify(sorted(canonical))));
    for (const hash of catalogContents(document)) if (!this.content.has(hash)) throw new Error(`no content ${hash}`);
    this.catalog = { id, document };
    return id;
  }

  wake(event: string): void {
    for (const stream of this.#streams) stream.write(`event: ${event}\ndata: {}\n\n`);
  }

  get streams(): number {
    return this.#streams.size;
  }

  events(run: string): SeenEvent[] {
    return [...(this.runs.get(run) ?? new Map<number, SeenEvent>()).values()].sort((a, b) => a.sequence - b.sequence);
  }

  /** The runs whose end has come, by the order of their ids. */
  ended(): { id: string; start: SeenEvent; end: SeenEvent; events: SeenEvent[] }[] {
    return [...this.runs.keys()].sort().flatMap((id) => {
      const events = this.events(id);
      const end = events.find((event) => event.kind === 'end');
      return end ? [{ id, start: events[0]!, end, events }] : [];
    });
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url!, 'https://localhost');
    this.requests.push(`${request.method} ${url.pathname}`);
    const certname = (request.socket as TLSSocket).getPeerCertificate().subject.CN;
    const refuse = (status: number, code: string): void => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ code, message: code, hint: '' }));
    };
    const answer = (value: unknown): void => {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify(value));
    };
    const content = /^\/content\/v1\/sha256\/([0-9a-f]{64})$/.exec(url.pathname)?.[1];
    if (content) {
      const bytes = this.content.get(content);
      if (!bytes) return refuse(404, 'CONTENT_NOT_FOUND');
      response.writeHead(200, { 'content-type': 'application/octet-stream' });
      response.end(this.corrupt === content ? Buffer.concat([bytes, Buffer.from('!')]) : bytes);
      return;
    }
    const [, node, rest] = /^\/node\/v1\/nodes\/([^/]+)\/(.*)$/.exec(url.pathname) ?? [];
    if (node !== certname) return refuse(403, 'ACCESS_DENIED');
    if (rest === 'plugins') return answer({ plugins: this.plugins });
    if (rest === 'facts') {
      const known = request.headers['if-none-match'];
      if (known) {
        if (known !== `"${this.factsHash}"`) return refuse(428, 'FACTS_NEEDED');
        response.writeHead(304, { etag: known });
        response.end();
        return;
      }
      let bytes = await body(request);
      if (request.headers['content-encoding'] === 'gzip') bytes = gunzipSync(bytes);
      const { hash } = splitFacts(bytes);
      const changed = hash !== this.factsHash;
      this.factsHash = hash;
      this.facts = JSON.parse(bytes.toString('utf8'));
      return answer({ facts: hash, changed });
    }
    if (rest === 'catalog') return this.#serveCatalog(request, response, refuse);
    if (rest === 'wakeups') {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(': hello\n\n');
      this.#streams.add(response);
      const beat = setInterval(() => response.write(': beat\n\n'), 15_000);
      response.once('close', () => {
        clearInterval(beat);
        this.#streams.delete(response);
      });
      return;
    }
    const run = /^runs\/([0-9a-f-]{36})\/events$/.exec(rest ?? '')?.[1];
    if (run && request.method === 'POST') {
      const lines = (await body(request)).toString('utf8').split('\n').filter(Boolean);
      if (this.eventsStatus) return refuse(this.eventsStatus, 'REQUEST_INVALID');
      const events = this.runs.get(run) ?? new Map<number, SeenEvent>();
      this.runs.set(run, events);
      for (const line of lines) {
        const event = { ...JSON.parse(line), seenAt: Date.now() };
        if (events.has(event.sequence)) this.repeats++;
        else events.set(event.sequence, event);
        if (event.kind === 'start' && event.data.request === this.request?.id) this.request = null;
      }
      let acknowledged = 0;
      while (events.has(acknowledged + 1)) acknowledged++;
      return answer({ acknowledged });
    }
    refuse(404, 'ROUTE_NOT_FOUND');
  }

  #serveCatalog(
    request: IncomingMessage,
    response: ServerResponse,
    refuse: (status: number, code: string) => void,
  ): void {
    if (this.request) response.setHeader('callboard-run-request', `${this.request.id};mode=${this.request.mode}`);
    if (!this.catalog) {
      refuse(404, 'CATALOG_NOT_RELEASED');
      return;
    }
    const etag = `"${this.catalog.id}.${this.plugins}.${this.runMode}"`;
    response.setHeader('etag', etag);
    response.setHeader('callboard-catalog', this.catalog.id);
    response.setHeader('callboard-code-version', this.codeVersion);
    if (this.plugins) response.setHeader('callboard-plugins', this.plugins);
    response.setHeader('callboard-run-mode', this.runMode);
    if (request.headers['if-none-match'] === etag) {
      response.writeHead(304);
      response.end();
      return;
    }
    response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' });
    response.end(gzipSync(this.catalog.document));
  }
}

async function body(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Keys in order, as the canonical form has them: all but those of rich data. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const members = Object.entries(value).map(([key, inner]) => [key, sorted(inner)] as const);
  if (!('__ptype' in value)) members.sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(members);
}
