/**
 * A node's catalog: 304, and whole as gzip, against nginx serving the same bytes. `node bench/catalog/catalog.ts [case]`
 */
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execaNode } from 'execa';
import pg from 'pg';
import { catalogKeys } from '../../src/catalog/seal.ts';
import { catalogStore } from '../../src/catalog/store.ts';
import { openCa } from '../../src/http/ca.ts';
import { servedCatalog } from '../../src/model/catalog.ts';
import type { Certname, EnvironmentName } from '../../src/model/ids.ts';
import { openDatabase, openPool } from '../../src/postgres/database.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import type { Authority } from '../authority.ts';
import { type Measured, measure } from '../load.ts';
import { freePort, waitForPort } from '../ports.ts';
import { type Figure, keepResult } from '../results.ts';
import { type Serving, startYardstick } from '../yardstick.ts';

const seconds = Number(process.env.BENCH_SECONDS ?? 1.5);
const rounds = Number(process.env.BENCH_ROUNDS ?? 7);
const certname = 'bench.example.com' as Certname;
const directory = await mkdtemp(join(process.env.BENCH_DIRECTORY ?? tmpdir(), 'callboard-bench-'));
const url = process.env.CALLBOARD_TEST_DATABASE_URL;
if (!url) throw new Error('set CALLBOARD_TEST_DATABASE_URL to a PostgreSQL superuser’s URL');
const name = `bench_${randomBytes(4).toString('hex')}`;
const admin = new pg.Client({ connectionString: url });
await admin.connect();
await admin.query(`create database ${name}`);
const databaseUrl = Object.assign(new URL(url), { pathname: `/${name}` }).href;

const cases = [
  { name: 'catalog, 304', resources: 400, connections: 16, aim: 0.4, conditional: true },
  { name: 'catalog of 400 resources', resources: 400, connections: 16 },
  { name: 'catalog of 4,000 resources', resources: 4000, connections: 8 },
].filter((each) => !process.argv[2] || each.name.includes(process.argv[2]));

const pool = openPool(databaseUrl, 2);
try {
  await migrate(pool);
  const db = openDatabase(pool);
  await pool.query(`
    insert into code_version (id, plugins, file_count, byte_count)
      values (repeat('c', 64), repeat('d', 64), 0, 0);
    insert into environment (name, code_version) values ('production', repeat('c', 64))`);
  await pool.query(
    "insert into node (certname, environment, requested_environment) values ($1, 'production', 'production')",
    [certname],
  );
  const keyFile = join(directory, 'catalog.key');
  const keys = await catalogKeys({ file: keyFile, make: true });
  const store = catalogStore({ keys, guardContent: async () => {} });

  const ca = await openCa(directory);
  await ca.tlsOptions(['localhost']);
  const client = await ca.issue(certname);
  const authority = await authorityFiles(ca.certificatePem, client);
  const root = join(directory, 'served');
  await mkdir(root);
  const nginx = await startYardstick({ directory, root, authority });

  const figures: Figure[] = [];
  for (const { name, resources, connections, aim, conditional } of cases) {
    const { id, document } = servedCatalog(Buffer.from(JSON.stringify(catalogOf(resources))));
    await db
      .transaction()
      .execute((tx) =>
        store.storeCatalog(tx, { id, certname, environment: 'production' as EnvironmentName, document, contents: [] }),
      );
    await pool.query("update node set released_catalog = $1, released_code_version = repeat('c', 64)", [id]);
    const gzip = await store.readCatalogGzip(db, id);
    await writeFile(join(root, id), gzip);
    // A server that starts has nothing in memory of the case before.
    const ours = await startOurs({ state: directory, databaseUrl, keyFile });
    const etag = `"${id}.${'d'.repeat(64)}.do"`;
    const common = { 'accept-encoding': 'gzip' };
    const theirRequest = {
      method: 'GET',
      path: `/${id}`,
      status: conditional ? 304 : 200,
      // nginx makes its tags from time and size; the length of the request is what counts.
      headers: conditional ? { ...common, 'if-none-match': '*', 'x-same-length': etag } : common,
    };
    const ourRequest = {
      method: 'GET',
      path: `/node/v1/nodes/${certname}/catalog`,
      status: conditional ? 304 : 200,
      headers: conditional ? { ...common, 'if-none-match': etag } : common,
    };
    // In turn and often, and the median of each: what else the machine does falls on both, and the worst of it on neither.
    const [theirs, own]: [Measured[], Measured[]] = [[], []];
    for (let round = 0; round < rounds; round++) {
      theirs.push(await measure({ serving: nginx, authority, requests: [theirRequest], connections, seconds }));
      const warmRequests = round === 0 ? (resources > 1000 ? 2000 : 20_000) : 0;
      own.push(await measure({ serving: ours, authority, requests: [ourRequest], connections, seconds, warmRequests }));
    }
    await ours.stop();
    const perCpuSecond = (rounds: Measured[]) => median(rounds.map((round) => round.requestsPerCpuSecond));
    const perSecond = (rounds: Measured[]) => Math.round(sum(rounds, 'requests') / sum(rounds, 'seconds'));
    const p99 = (rounds: Measured[]) => Math.max(...rounds.map((round) => round.p99Ms)).toFixed(1);
    figures.push({
      name,
      unit: 'requests per CPU second',
      ours: perCpuSecond(own),
      yardstick: perCpuSecond(theirs),
      ...(aim ? { aim } : {}),
      note: `${conditional ? '' : `${Math.round(gzip.length / 1000)} KB of gzip; `}${perSecond(own)}/s, p99 ${p99(own)} ms; nginx ${perSecond(theirs)}/s, p99 ${p99(theirs)} ms`,
    });
    console.log(name, figures.at(-1));
  }
  if (!process.argv[2])
    await keepResult({ bench: 'catalog', yardstick: 'nginx over TLS, client certificates', figures });
  await nginx.stop();
  ca.close();
} finally {
  await pool.end();
  await admin.query(`drop database if exists ${name} with (force)`);
  await admin.end();
  await rm(directory, { recursive: true });
}

function sum(rounds: Measured[], of: 'requests' | 'seconds'): number {
  return rounds.map((round) => round[of]).reduce((a, b) => a + b, 0);
}

function median(figures: number[]): number {
  return figures.sort((a, b) => a - b)[figures.length >> 1]!;
}

/** Sizes as in the field: some 300 bytes a resource, and text that gzip can do something with. */
function catalogOf(resources: number): object {
  return {
    catalog_format: 2,
    classes: ['main'],
    edges: Array.from({ length: resources }, (_, n) => ({ source: 'Class[Main]', target: `File[/etc/app/${n}.conf]` })),
    environment: 'production',
    name: certname,
    resources: Array.from({ length: resources }, (_, n) => ({
      exported: false,
      file: 'modules/app/manifests/init.pp',
      kind: 'compilable_type',
      line: n,
      parameters: { content: `# ${randomBytes(24).toString('hex')}\nport = ${n}\n`, mode: '0644', owner: 'root' },
      tags: ['file', 'class', 'app'],
      title: `/etc/app/${n}.conf`,
      type: 'File',
    })),
    tags: ['class'],
  };
}

/** The embedded CA's files, so that nginx checks the same certificates as we do. */
async function authorityFiles(
  caPem: string,
  client: { certificatePem: string; privateKeyPem: string },
): Promise<Authority> {
  const at = (file: string) => join(directory, file);
  await writeFile(at('bench-ca.pem'), caPem);
  await writeFile(at('client.pem'), client.certificatePem);
  await writeFile(at('client.key'), client.privateKeyPem);
  return {
    ca: await readFile(at('bench-ca.pem'), 'utf8'),
    files: {
      ca: at('bench-ca.pem'),
      serverCert: at('ca/server_crt.pem'),
      serverKey: at('ca/server_key.pem'),
      clientCert: at('client.pem'),
      clientKey: at('client.key'),
    },
  };
}

async function startOurs(order: { state: string; databaseUrl: string; keyFile: string }): Promise<Serving> {
  const port = await freePort();
  const server = execaNode(join(import.meta.dirname, 'server.ts'), [JSON.stringify({ ...order, port })], {
    reject: false,
    stderr: 'inherit',
    nodeOptions: (process.env.BENCH_NODE_OPTIONS ?? '').split(' ').filter(Boolean),
  });
  await waitForPort(port, server);
  return {
    host: '127.0.0.1',
    port,
    pids: [server.pid!],
    async stop() {
      server.kill('SIGTERM');
      await server;
    },
  };
}
