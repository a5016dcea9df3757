/**
 * Numbered, forward-only migrations from `sql/`. Each runs once, in a transaction, under a lock that makes rival processes
 * wait for one another. A database with a newer migration than this program knows is refused.
 */
import { readdir, readFile } from 'node:fs/promises';
import type pg from 'pg';
import { CallboardError } from '../model/errors.ts';

const FOLDER = new URL('../../sql/', import.meta.url);
const MIGRATION = /^(\d{6})-[a-z0-9-]+\.sql$/;
/** Any constant: the session lock that says "somebody migrates". */
const LOCK = 7_231_001;

export async function migrate(pool: pg.Pool): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query('select pg_advisory_lock($1)', [LOCK]);
    await client.query(
      'create table if not exists migration (number integer primary key, name text not null, at timestamptz not null default now())',
    );
    const { rows } = await client.query<{ found: number }>('select coalesce(max(number), 0) as found from migration');
    const found = rows[0]!.found;
    const names = (await readdir(FOLDER)).filter((name) => MIGRATION.test(name)).sort();
    const known = Number(names.at(-1)!.slice(0, 6));
    if (found > known) throw new CallboardError('DATABASE_TOO_NEW', { found, known });
    for (const name of names) {
      const number = Number(name.slice(0, 6));
      if (number <= found) continue;
      const text = await readFile(new URL(name, FOLDER), 'utf8');
      await client.query('begin');
      try {
        await client.query(text);
        await client.query('insert into migration (number, name) values ($1, $2)', [number, name]);
        await client.query('commit');
      } catch (error) {
        await client.query('rollback');
        throw error;
      }
    }
  } finally {
    await client.query('select pg_advisory_unlock($1)', [LOCK]).catch(() => {});
    client.release();
  }
}
