/**
 * Numbered, forward-only migrations from `sql/`, and before them those of graphile-worker (schema `graphile_worker`). Each
 * runs once, in a transaction, under a lock that makes rival processes wait for one another. A database with a newer
 * migration than this program knows is refused, and so is a PostgreSQL that is too old.
 */
import { readdir, readFile } from 'node:fs/promises';
import { Logger, runMigrations } from 'graphile-worker';
import pg from 'pg';
import { CallboardError } from '../model/errors.ts';

const FOLDER = new URL('../../sql/', import.meta.url);
const MIGRATION = /^(\d{6})-[a-z0-9-]+\.sql$/;
/** Any constant: the session lock that says "somebody migrates". */
const LOCK = 7_231_001;
/** The oldest PostgreSQL that is tested. */
const VERSION_MIN = 15;

/** Throws DATABASE_UNREACHABLE, DATABASE_TOO_OLD, DATABASE_TOO_NEW. */
export async function migrate(pool: pg.Pool): Promise<void> {
  // A connection of its own: the lock is held for long, and whoever waits for it must not fill the pool.
  const client = new pg.Client(pool.options);
  client.on('error', () => {});
  try {
    await client.connect();
  } catch (error) {
    throw new CallboardError('DATABASE_UNREACHABLE', { reason: (error as Error).message }, { cause: error });
  }
  try {
    await checkVersion(client);
    await client.query('select pg_advisory_lock($1)', [LOCK]);
    await runMigrations({ pgPool: pool, logger: new Logger(() => () => {}) });
    await migrateOurs(client);
  } finally {
    // Ends the session, and with it the lock.
    await client.end().catch(() => {});
  }
}

async function checkVersion(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ version: string }>("select current_setting('server_version_num') as version");
  const version = Math.floor(Number(rows[0]!.version) / 10_000);
  if (version < VERSION_MIN) throw new CallboardError('DATABASE_TOO_OLD', { found: version, needed: VERSION_MIN });
}

async function migrateOurs(client: pg.Client): Promise<void> {
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
}
