/**
 * One PostgreSQL for the whole test run, with a migrated template database; each test file clones its own from it.
 * CALLBOARD_TEST_DATABASE_URL takes another server (a superuser's URL) in its place.
 */
import pg from 'pg';
import type { TestProject } from 'vitest/node';
import { migrate } from '../../src/postgres/migrate.ts';

declare module 'vitest' {
  interface ProvidedContext {
    databaseUrl: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const url = process.env.CALLBOARD_TEST_DATABASE_URL;
  if (!url) throw new Error('the embedded server is not wired in yet');
  const template = `callboard_template_${process.pid}`;
  const admin = new pg.Pool({ connectionString: url, max: 1 });
  await admin.query(`create database ${template}`);
  const templateUrl = new URL(url);
  templateUrl.pathname = `/${template}`;
  const pool = new pg.Pool({ connectionString: templateUrl.href, max: 1 });
  await migrate(pool);
  await pool.end();
  project.provide('databaseUrl', templateUrl.href);
  return async () => {
    await admin.query(`drop database if exists ${template} with (force)`);
    await admin.end();
  };
}
