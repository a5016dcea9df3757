/**
 * The door to PostgreSQL. SQL stays SQL: rooms write statements with kysely's `sql` template, one exported function a
 * statement in their `store.ts`, values always bound, the row's type beside it. A `Queries` may be a transaction or not;
 * functions that need one say so by taking a `Transaction`.
 */
import { Kysely, type Transaction as KyselyTransaction, PostgresDialect, type RawBuilder } from 'kysely';
import pg from 'pg';

export type Database = Kysely<unknown>;
export type Transaction = KyselyTransaction<unknown>;
export type Queries = Database | Transaction;

/** int8 comes as a number: our counters and byte counts stay far below 2^53. */
pg.types.setTypeParser(pg.types.builtins.INT8, Number);
/** Dates (a partition's day) stay the text that SQL wrote; times become `Date`. */
pg.types.setTypeParser(pg.types.builtins.DATE, (value) => value);

export function openPool(databaseUrl: string, connectionsMax = 32): pg.Pool {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: connectionsMax,
    application_name: 'callboard',
    connectionTimeoutMillis: 30_000,
    keepAlive: true,
  });
  // A connection that breaks (the database restarts) fails its query, if it has one, and is replaced at its next use. The
  // pool and each of its clients only want to be heard: an 'error' event that nobody hears ends the whole process.
  pool.on('error', () => {});
  pool.on('connect', (client) => client.on('error', () => {}));
  return pool;
}

export function openDatabase(pool: pg.Pool): Database {
  return new Kysely<unknown>({ dialect: new PostgresDialect({ pool }) });
}

/** All rows of one statement. */
export async function rows<Row>(statement: RawBuilder<Row>, db: Queries): Promise<Row[]> {
  return (await statement.execute(db)).rows;
}

/** The one row of a statement, or undefined. */
export async function row<Row>(statement: RawBuilder<Row>, db: Queries): Promise<Row | undefined> {
  return (await statement.execute(db)).rows[0];
}

/**
 * Whether a failure means that the database is away for the moment (killed, restarting, stopping, unreachable, out of
 * connections), and not that a statement was wrong: the same call may work soon.
 */
export function isDatabaseAway(error: unknown): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (typeof code === 'string' && AWAY_CODES.test(code)) return true;
  return typeof message === 'string' && AWAY_MESSAGES.test(message);
}

/** 08…: connection exceptions; 53300: too many connections; 57P01 to 57P05: it stops, crashed, starts, or dropped us. */
const AWAY_CODES = /^(08...|53300|57P0[1-5]|ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH)$/;
/** pg's own failures have no code. */
const AWAY_MESSAGES =
  /^(Connection terminated|timeout (exceeded )?when trying to connect|timeout expired|Client has encountered a connection error|Client was closed)/;
