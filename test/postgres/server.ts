/**
 * One PostgreSQL for the whole test run, with a migrated template database; each test file clones its own from it. It is our
 * embedded server in a temporary state directory; CALLBOARD_TEST_DATABASE_URL takes another server (a superuser's URL) in
 * its place.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { pino } from 'pino';
import type { TestProject } from 'vitest/node';
import { openPool } from '../../src/postgres/database.ts';
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { migrate } from '../../src/postgres/migrate.ts';

declare module 'vitest' {
  interface ProvidedContext {
    databaseUrl: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = await findServer();
  const template = `callboard_template_${process.pid}`;
  const admin = new pg.Client({ connectionString: server.url });
  admin.on('error', () => {});
  await admin.connect();
  await admin.query(`drop database if exists ${template} with (force)`);
  await admin.query(`create database ${template}`);
  const templateUrl = new URL(server.url);
  templateUrl.pathname = `/${template}`;
  const pool = openPool(templateUrl.href, 2);
  await migrate(pool);
  await pool.end();
  project.provide('databaseUrl', templateUrl.href);
  return async () => {
    await admin.query(`drop database if exists ${template} with (force)`);
    await admin.end();
    await server.stop();
  };
}

async function findServer(): Promise<{ url: string; stop(): Promise<void> }> {
  const given = process.env.CALLBOARD_TEST_DATABASE_URL;
  if (given) return { url: given, stop: async () => {} };
  const state = await mkdtemp(join(tmpdir(), 'callboard-test-'));
  const server = await startEmbeddedPostgres(state, pino({ level: 'warn' }));
  return {
    url: server.url,
    async stop() {
      await server.stop();
      await rm(state, { recursive: true, force: true });
    },
  };
}
