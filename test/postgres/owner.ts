/**
 * A small control plane to be killed: takes the state directory, starts PostgreSQL, runs jobs. It says `ready` with its
 * database's URL and postmaster as one line of JSON, or the code of the error that kept it from that.
 *
 * Its jobs: `collect` never ends; `compile` writes its certname into the table `done`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { createLogger } from '../../src/config/log.ts';
import { openStateDirectory } from '../../src/config/state.ts';
import { openPool } from '../../src/postgres/database.ts';
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { startQueue } from '../../src/postgres/queue.ts';

const logger = createLogger({ level: 'error', destination: process.stderr });
try {
  const state = await openStateDirectory(process.argv[2]!);
  const postgres = await startEmbeddedPostgres(state.path, logger);
  const pool = openPool(postgres.url, 10);
  await migrate(pool);
  await pool.query('create table if not exists done (certname text)');
  const queue = await startQueue({
    pool,
    logger,
    concurrency: { compile: 2 },
    handlers: {
      collect: (_, { signal }) => sleep(3_600_000, undefined, { signal }),
      compile: async ({ certname }) => {
        await pool.query('insert into done values ($1)', [certname]);
      },
    },
  });
  process.once('SIGTERM', async () => {
    await queue.stop();
    await pool.end();
    await postgres.stop();
    await state.release();
    process.exit(0);
  });
  console.log(JSON.stringify({ ready: true, url: postgres.url, postmaster: postgres.pid() }));
} catch (error) {
  console.log(JSON.stringify({ error: (error as { code?: string }).code ?? String(error) }));
  process.exit(1);
}
