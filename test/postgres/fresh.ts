/** A database of its own for a test file: cloned from the migrated template, dropped at the end. */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { afterAll, inject } from 'vitest';
import { type Database, openDatabase, openPool } from '../../src/postgres/database.ts';

export interface FreshDatabase {
  url: string;
  pool: pg.Pool;
  db: Database;
}

export async function freshDatabase(): Promise<FreshDatabase> {
  const template = new URL(inject('databaseUrl'));
  const name = `test_${randomBytes(6).toString('hex')}`;
  const admin = new pg.Client({ connectionString: Object.assign(new URL(template), { pathname: '/postgres' }).href });
  await admin.connect();
  await admin.query(`create database ${name} template ${template.pathname.slice(1)}`);
  const url = Object.assign(new URL(template), { pathname: `/${name}` }).href;
  const pool = openPool(url, 10);
  afterAll(async () => {
    await pool.end();
    await admin.query(`drop database if exists ${name} with (force)`);
    await admin.end();
  });
  return { url, pool, db: openDatabase(pool) };
}
