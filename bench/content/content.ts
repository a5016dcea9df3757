/** Content GET by a node: 1 KB, 100 KB, 100 MB, and 304, against nginx serving the same bytes. `node bench/content/content.ts` */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execaNode } from 'execa';
import pg from 'pg';
import { migrate } from '../../src/postgres/migrate.ts';
import { makeAuthority } from '../authority.ts';
import { type Measured, measure } from '../load.ts';
import { freePort, waitForPort } from '../ports.ts';
import { type Figure, keepResult } from '../results.ts';
import { type Serving, startYardstick } from '../yardstick.ts';

const seconds = Number(process.env.BENCH_SECONDS ?? 3);
const directory = await mkdtemp(join(process.env.BENCH_DIRECTORY ?? tmpdir(), 'callboard-bench-'));
const authority = await makeAuthority(join(directory, 'ca'), 'bench.example.com');

const url = process.env.CALLBOARD_TEST_DATABASE_URL;
if (!url) throw new Error('set CALLBOARD_TEST_DATABASE_URL to a PostgreSQL superuser’s URL');
const name = `bench_${randomBytes(4).toString('hex')}`;
const admin = new pg.Client({ connectionString: url });
await admin.connect();
await admin.query(`create database ${name}`);
const databaseUrl = Object.assign(new URL(url), { pathname: `/${name}` }).href;

const cases = [
  { name: 'GET 1 KB', size: 1000, pieces: 100, connections: 16, aim: 0.4 },
  { name: 'GET 1 KB, 304', size: 1001, pieces: 100, connections: 16, aim: 0.4, conditional: true },
  { name: 'GET 100 KB', size: 100_000, pieces: 100, connections: 16, aim: 0.6 },
  { name: 'GET 1 MB', size: 1_000_000, pieces: 20, connections: 8 },
  { name: 'GET 100 MB', size: 100_000_000, pieces: 1, connections: 2, aim: 0.95 },
].filter(({ name }) => !process.argv[2] || name.includes(process.argv[2]));

const stops: (() => Promise<unknown>)[] = [];
try {
  const content = join(directory, 'content');
  const hashes = new Map<string, string[]>();
  for (const { name, size, pieces } of cases) {
    const bytes = randomBytes(size);
    const named: string[] = [];
    for (let n = 0; n < pieces; n++) {
      bytes.writeUInt32LE(n);
      const hash = createHash('sha256').update(bytes).digest('hex');
      await mkdir(join(content, hash.slice(0, 2)), { recursive: true });
      await writeFile(join(content, hash.slice(0, 2), hash), bytes);
      named.push(hash);
    }
    hashes.set(name, named);
  }
  await prepareDatabase([...hashes.values()].flat());
  const nginx = await startYardstick({ directory, root: content, authority });
  stops.push(nginx.stop);
  const ours = await startOurs(content);

  const figures: Figure[] = [];
  for (const { name, size, connections, aim, conditional } of cases) {
    const named = hashes.get(name)!;
    const yardstickRequests = await Promise.all(
      named.map(async (hash) => {
        const path = `/${hash.slice(0, 2)}/${hash}`;
        if (!conditional) return { method: 'GET', path, status: 200 };
        // nginx makes its tags from time and size; the length of the request is what counts.
        return { method: 'GET', path, status: 304, headers: { 'if-none-match': '*', 'x-same-length': hash } };
      }),
    );
    const ourRequests = named.map((hash) => ({
      method: 'GET',
      path: `/content/v1/sha256/${hash}`,
      status: conditional ? 304 : 200,
      ...(conditional ? { headers: { 'if-none-match': `"${hash}"` } } : {}),
    }));
    const warmRequests = size < 1e6 ? 20_000 : 0;
    // In turn, so that what else the machine does falls on both.
    const rounds = await inTurn(5, [
      () => measure({ serving: nginx, authority, requests: yardstickRequests, connections, seconds }),
      () => measure({ serving: ours, authority, requests: ourRequests, connections, seconds, warmRequests }),
    ]);
    // Large answers are counted by their bytes, since few end within the time.
    const figure = (of: Measured) => (size >= 1e6 ? of.bodyBytes / size / of.cpuSeconds : of.requestsPerCpuSecond);
    const [theirs, own] = rounds.map((each) => best(each, figure)) as [Measured, Measured];
    figures.push({
      name,
      unit: 'requests per CPU second',
      ours: figure(own),
      yardstick: figure(theirs),
      ...(aim ? { aim } : {}),
      note: `${Math.round(own.requests / own.seconds)}/s, p99 ${own.p99Ms.toFixed(1)} ms; nginx ${Math.round(theirs.requests / theirs.seconds)}/s, p99 ${theirs.p99Ms.toFixed(1)} ms`,
    });
    console.log(name, figures.at(-1));
  }
  if (!process.argv[2])
    await keepResult({ bench: 'content', yardstick: 'nginx over TLS, client certificates', figures });
} finally {
  for (const stop of stops) await stop();
  await admin.query(`drop database if exists ${name} with (force)`);
  await admin.end();
  await rm(directory, { recursive: true });
}

async function prepareDatabase(contents: string[]): Promise<void> {
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 1 });
  await migrate(pool);
  await pool.query(`
    insert into environment (name) values ('production');
    insert into code_version (id, plugins, file_count, byte_count) values ('code', 'plugins', 0, 0);
    insert into node (certname, environment, requested_environment) values ('bench.example.com', 'production', 'production');
    insert into catalog (id, certname, environment, document, document_bytes, resource_count)
      values ('catalog', 'bench.example.com', 'production', '', 0, 0);
    update node set released_catalog = 'catalog', released_code_version = 'code'`);
  await pool.query(`insert into content_reference select 'catalog', unnest($1::text[])`, [contents]);
  await pool.end();
}

async function startOurs(content: string): Promise<Serving> {
  const port = await freePort();
  const order = JSON.stringify({ directory: content, databaseUrl, port, files: authority.files });
  const server = execaNode(join(import.meta.dirname, 'server.ts'), [order], {
    reject: false,
    stderr: 'inherit',
    nodeOptions: (process.env.BENCH_NODE_OPTIONS ?? '').split(' ').filter(Boolean),
  });
  stops.push(async () => {
    server.kill('SIGTERM');
    await server;
  });
  await waitForPort(port, server);
  return {
    host: '127.0.0.1',
    port,
    pids: [server.pid!],
    stop: async () => {},
  };
}

/** Each of the measures once, again and again. */
async function inTurn(rounds: number, measures: (() => Promise<Measured>)[]): Promise<Measured[][]> {
  const results: Measured[][] = measures.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [n, take] of measures.entries()) results[n]!.push(await take());
  }
  return results;
}

/** The best round: what else the machine does can only take from a server's caches, never add to them. */
function best(rounds: Measured[], figure: (of: Measured) => number): Measured {
  return rounds.reduce((a, b) => (figure(a) >= figure(b) ? a : b));
}
