/**
 * A fleet for benches: a server with its own CA and database, and nodes that each have a certificate and a connection of their
 * own, since a node may only touch itself.
 */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execaNode } from 'execa';
import pg from 'pg';
import { openCa } from '../../src/http/ca.ts';
import { createToken } from '../../src/http/tokens.ts';
import { openDatabase } from '../../src/postgres/database.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { keepPartitions } from '../../src/report/partitions.ts';
import { cpuSecondsOf } from '../cpu.ts';
import { freePort, waitForPort } from '../ports.ts';
import type { FleetOrder, FleetResult } from './fleet-client.ts';

export interface FleetMeasured extends FleetResult {
  /** Requests in a second. */
  rate: number;
  /** CPU of the server's process while the load ran, and of its PostgreSQL connections, in seconds. */
  serverCpu: number;
  databaseCpu: number;
}

export interface Fleet {
  port: number;
  ca: string;
  /** An operator's. */
  token: string;
  nodes: { certname: string; certificatePem: string; privateKeyPem: string }[];
  pool: pg.Pool;
  /** Each node asks again as soon as it is answered; `module` says what, see fleet-client.ts. */
  load(module: URL, seconds: number, connections?: number): Promise<FleetMeasured>;
  stop(): Promise<void>;
}

export async function startFleet(nodes: number): Promise<Fleet> {
  const url = process.env.CALLBOARD_TEST_DATABASE_URL;
  if (!url) throw new Error('set CALLBOARD_TEST_DATABASE_URL to a PostgreSQL superuser’s URL');
  const name = `bench_${randomBytes(4).toString('hex')}`;
  const admin = new pg.Client({ connectionString: url });
  await admin.connect();
  await admin.query(`create database ${name}`);
  const databaseUrl = Object.assign(new URL(url), { pathname: `/${name}` }).href;
  const state = await mkdtemp(join(process.env.BENCH_DIRECTORY ?? tmpdir(), 'callboard-bench-'));

  const pool = new pg.Pool({ connectionString: databaseUrl, max: 4 });
  pool.on('error', () => {});
  await migrate(pool);
  const db = openDatabase(pool);
  await keepPartitions(db, 3, 30);
  // As in a fleet that works: the environment has code, so a change of facts queues a compile.
  await pool.query(`
    insert into code_version (id, plugins, file_count, byte_count) values ('code', 'plugins', 0, 0);
    insert into environment (name, code_version, released_code_version) values ('production', 'code', 'code')`);
  const ca = await openCa(state);
  const issued = await ca.issueAll(Array.from({ length: nodes }, (_, i) => `node${i}.bench.example`));
  const { token } = await createToken(db, { name: 'bench', role: 'viewer', days: 1 });

  const port = await freePort();
  const server = execaNode(join(import.meta.dirname, 'server.ts'), [JSON.stringify({ state, databaseUrl, port })], {
    reject: false,
    stderr: 'inherit',
    nodeOptions: (process.env.BENCH_NODE_OPTIONS ?? '').split(' ').filter(Boolean),
  });
  await waitForPort(port, server);
  /** CPU seconds of the server, and of the PostgreSQL processes that work for it. */
  const cpu = async (): Promise<[number, number]> => {
    const { rows } = await admin.query<{ pid: number }>('select pid from pg_stat_activity where datname = $1', [name]);
    return [cpuSecondsOf([server.pid!]), cpuSecondsOf(rows.map(({ pid }) => pid))];
  };

  return {
    port,
    ca: ca.certificatePem,
    token,
    nodes: issued,
    pool,
    async load(module, seconds, connections = nodes) {
      const order: FleetOrder = {
        port,
        ca: ca.certificatePem,
        nodes: issued.slice(0, connections),
        module: module.pathname,
        seconds,
        // Long enough that every node has sent its first, whole document.
        warmSeconds: 3,
      };
      const client = execaNode(join(import.meta.dirname, 'fleet-client.ts'), [], { ipc: true, reject: false });
      await client.sendMessage(order as never);
      let before: [number, number] = [0, 0];
      for await (const message of client.getEachMessage()) {
        if (message === 'warm') before = await cpu();
        else {
          const after = await cpu();
          const result = message as unknown as FleetResult;
          if (result.unexpected) throw new Error(`unexpected answer: ${result.unexpected}`);
          return {
            ...result,
            rate: result.requests / result.seconds,
            serverCpu: after[0] - before[0],
            databaseCpu: after[1] - before[1],
          };
        }
      }
      throw new Error(`the fleet ended: ${(await client).stderr}`);
    },
    async stop() {
      server.kill('SIGTERM');
      await server;
      ca.close();
      await pool.end();
      await admin.query(`drop database if exists ${name} with (force)`);
      await admin.end();
      await rm(state, { recursive: true });
    },
  };
}
