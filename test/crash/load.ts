/**
 * The load, and the book of what was acknowledged under it. Simulated nodes send facts, fetch their catalog with all its
 * content and stream events; an operator commits, deploys and releases. Everybody tries again until they are answered, as
 * the real ones do. An answer that should never be given, whatever was killed, is a finding.
 */
import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, fetch, type Response } from 'undici';
import { catalogContents, checkedCatalogId } from '../../src/model/catalog.ts';
import { type ControlRepo, ENVIRONMENT, REAL_NODE, type Stage } from './stage.ts';

const REQUEST_TIME_MAX_MS = 15_000;
const RETRY_MS = 100;
/** A release that leaves nodes out is tried again for so long. */
const COMPILES_TIME_MAX_MS = 240_000;
const EVENTS_PER_RUN = 12;
const ROUND_WAIT_MS = 150;
const ROUNDS_PER_FACTS = 10;

export interface Book {
  /** By certname: the hash of each facts document that was answered 200, in order. */
  facts: Map<string, string[]>;
  /** By run: whose it is, the lines sent, and the highest acknowledged sequence. */
  runs: Map<string, { certname: string; lines: string[]; acknowledged: number }>;
  deploys: string[];
  releases: string[];
  /** Ids of compiles that somebody was shown. */
  compiles: Set<string>;
  /** Ids of catalogs that were served whole, with all their content. */
  catalogs: Set<string>;
  /** Requests that failed because something was dead; for interest. */
  refused: number;
  findings: string[];
}

export function emptyBook(): Book {
  return {
    facts: new Map(),
    runs: new Map(),
    deploys: [],
    releases: [],
    compiles: new Set(),
    catalogs: new Set(),
    refused: 0,
    findings: [],
  };
}

/** A client that knows which failures a kill explains. */
class Client {
  readonly #stage: Stage;
  readonly #book: Book;
  readonly #headers: Record<string, string>;
  readonly #agent: Agent;

  constructor(stage: Stage, book: Book, tls: { ca: string; cert?: string; key?: string }, token?: string) {
    this.#stage = stage;
    this.#book = book;
    this.#headers = token ? { authorization: `Bearer ${token}` } : {};
    this.#agent = new Agent({ connect: tls });
  }

  /**
   * One try: the answer with its body, or undefined where the server or its database was away. `expected` are the statuses that
   * make sense; any other below 500 is a finding.
   */
  async try(
    method: string,
    path: string,
    expected: number[],
    body?: string | object,
  ): Promise<{ status: number; headers: Response['headers']; body: Buffer } | undefined> {
    try {
      const response = await fetch(this.#stage.url + path, {
        method,
        headers: {
          ...this.#headers,
          ...(typeof body === 'object' ? { 'content-type': 'application/json' } : {}),
          ...(typeof body === 'string' ? { 'content-type': 'application/x-ndjson' } : {}),
        },
        body: typeof body === 'object' ? JSON.stringify(body) : (body ?? null),
        dispatcher: this.#agent,
        signal: AbortSignal.timeout(REQUEST_TIME_MAX_MS),
      });
      const answer = Buffer.from(await response.arrayBuffer());
      if (expected.includes(response.status))
        return { status: response.status, headers: response.headers, body: answer };
      if (response.status < 500) {
        this.#book.findings.push(
          `${method} ${path} was answered ${response.status}: ${answer.toString().slice(0, 300)}`,
        );
      }
    } catch {
      // The connection was cut, refused, or took too long.
    }
    this.#book.refused += 1;
    await sleep(RETRY_MS);
    return undefined;
  }

  close(): Promise<void> {
    return this.#agent.destroy();
  }
}

export interface Load {
  /** Things done so far; grows while the control plane works. */
  progress(): number;
  /** Ends all senders after what they are about is acknowledged. */
  stop(): Promise<void>;
}

export function startLoad(options: {
  stage: Stage;
  book: Book;
  repo: ControlRepo;
  ca: string;
  token: string;
  nodes: { certname: string; cert: string; key: string }[];
}): Load {
  const { stage, book, repo, ca, token, nodes } = options;
  let going = true;
  let progress = 0;
  const clients: Client[] = [];
  const client = (tls: { cert?: string; key?: string }, bearer?: string): Client => {
    const made = new Client(stage, book, { ca, ...tls }, bearer);
    clients.push(made);
    return made;
  };

  async function node({ certname, cert, key }: (typeof nodes)[number]): Promise<void> {
    const http = client({ cert, key });
    for (let round = 0; going; round += 1) {
      // Each change is a compile: more would only make this a test of the machine.
      if (round % ROUNDS_PER_FACTS === 0) await sendFacts(http, certname, round);
      await fetchCatalog(http, certname);
      await sendEvents(http, certname);
      progress += 1;
      await sleep(ROUND_WAIT_MS);
    }
  }

  async function sendFacts(http: Client, certname: string, revision: number): Promise<void> {
    const facts = {
      crash_directory: '/nowhere',
      revision: String(revision),
      big: 2 ** 53 - 1,
      uptime_seconds: Date.now(),
    };
    for (;;) {
      const path = `/node/v1/nodes/${certname}/facts?environment=${ENVIRONMENT}`;
      const answer = await http.try('PUT', path, [200], facts);
      if (!answer) continue;
      const { facts: hash } = JSON.parse(answer.body.toString()) as { facts: string };
      book.facts.set(certname, [...(book.facts.get(certname) ?? []), hash]);
      return;
    }
  }

  /** Whatever is served must be whole: its id made of its bytes, and each content that it names there, as named (P3, P4). */
  async function fetchCatalog(http: Client, certname: string): Promise<void> {
    const answer = await http.try('GET', `/node/v1/nodes/${certname}/catalog`, [200, 404]);
    if (answer?.status !== 200) return;
    const told = answer.headers.get('callboard-catalog');
    try {
      const id = checkedCatalogId(answer.body);
      if (id !== told) throw new Error(`is called ${told}`);
      const { name } = JSON.parse(answer.body.toString()) as { name: string };
      if (name !== certname) throw new Error(`is of ${name}`);
    } catch (error) {
      book.findings.push(`a catalog served to ${certname} ${(error as Error).message}`);
      return;
    }
    if (book.catalogs.has(told!)) return;
    for (const hash of catalogContents(answer.body)) {
      const content = await http.try('GET', `/content/v1/sha256/${hash}`, [200]);
      if (!content) return;
      const found = createHash('sha256').update(content.body).digest('hex');
      if (found !== hash) book.findings.push(`content ${hash} was served with the hash ${found}`);
    }
    book.catalogs.add(told!);
  }

  async function sendEvents(http: Client, certname: string): Promise<void> {
    const id = randomUUID();
    const run = { certname, lines: runLines(), acknowledged: 0 };
    book.runs.set(id, run);
    while (run.acknowledged < run.lines.length) {
      const lines = run.lines.slice(run.acknowledged, run.acknowledged + 5);
      const answer = await http.try('POST', `/node/v1/nodes/${certname}/runs/${id}/events`, [200], lines.join(''));
      if (!answer) continue;
      const { acknowledged } = JSON.parse(answer.body.toString()) as { acknowledged: number };
      if (acknowledged < run.acknowledged) {
        book.findings.push(`run ${id}: ${acknowledged} was acknowledged after ${run.acknowledged}`);
      }
      run.acknowledged = acknowledged;
    }
  }

  async function operator(): Promise<void> {
    const http = client({}, token);
    while (going) {
      await deployAndRelease(http);
      progress += 1;
    }
    await deployAndRelease(http);
  }

  async function deployAndRelease(http: Client): Promise<void> {
    await repo.commit();
    const path = `/api/v1/environments/${ENVIRONMENT}/deploys`;
    const asked = await insist(() => http.try('POST', path, [202], { repo: repo.path, ref: 'main' }));
    const { id } = JSON.parse(asked.body.toString()) as { id: string };
    book.deploys.push(id);
    const deploy = await insist(async () => {
      const answer = await http.try('GET', `/api/v1/deploys/${id}`, [200]);
      const found = answer && (JSON.parse(answer.body.toString()) as DeployView);
      if (found && !['queued', 'running'].includes(found.state)) return found;
      await sleep(RETRY_MS);
      return undefined;
    });
    if (deploy.state !== 'done') {
      book.findings.push(`deploy ${id} ended as ${deploy.state}: ${deploy.error}`);
      return;
    }
    await release(http, deploy.code_version!);
    await lookAround(http);
  }

  /** Released as soon as every node has a catalog of it: a commit that follows too soon makes their compiles needless. */
  async function release(http: Client, codeVersion: string): Promise<void> {
    const deadline = Date.now() + COMPILES_TIME_MAX_MS;
    for (; going && Date.now() < deadline; await sleep(500)) {
      const wish = { environment: ENVIRONMENT, code_version: codeVersion, nodes: 'all' };
      // 409: no node has a catalog of it yet.
      const answer = await http.try('POST', '/api/v1/releases', [200, 409], wish);
      if (answer?.status !== 200) continue;
      const made = JSON.parse(answer.body.toString()) as { release: string; skipped: unknown[] };
      book.releases.push(made.release);
      if (made.skipped.length === 0) return;
    }
  }

  async function lookAround(http: Client): Promise<void> {
    for (const certname of [REAL_NODE, ...nodes.map((each) => each.certname)]) {
      const answer = await http.try('GET', `/api/v1/nodes/${certname}`, [200, 404]);
      if (answer?.status !== 200) continue;
      const { last_compile } = JSON.parse(answer.body.toString()) as { last_compile: { id: string } | null };
      if (last_compile) book.compiles.add(last_compile.id);
    }
  }

  const senders = [...nodes.map(node), operator()];
  return {
    progress: () => progress,
    async stop() {
      going = false;
      await Promise.all(senders);
      await Promise.all(clients.map((each) => each.close()));
    },
  };
}

interface DeployView {
  state: string;
  error: string | null;
  code_version: string | null;
}

/** Tries until there is an answer. */
async function insist<Answer>(attempt: () => Promise<Answer | undefined>): Promise<Answer> {
  for (;;) {
    const answer = await attempt();
    if (answer !== undefined) return answer;
  }
}

function runLines(): string[] {
  const line = (sequence: number, kind: string, data: object) =>
    `${JSON.stringify({ sequence, at: new Date().toISOString(), kind, data })}\n`;
  const start = { catalog: null, code_version: null, plugins: null, noop: false, request: null, trigger: 'schedule' };
  return [
    line(1, 'start', { ...start, puppet_version: '7.23.0' }),
    ...Array.from({ length: EVENTS_PER_RUN - 2 }, (_, index) =>
      line(index + 2, 'log', { level: 'notice', message: `message ${randomUUID()}`, source: 'Puppet', tags: [] }),
    ),
    line(EVENTS_PER_RUN, 'end', { status: 'unchanged', exit_code: 0, metrics: {} }),
  ];
}
