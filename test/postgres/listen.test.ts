import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { type Listener, notify, startListener } from '../../src/postgres/listen.ts';
import { freshDatabase } from './fresh.ts';
import { until } from './until.ts';

const { pool, db, url } = await freshDatabase();
const logger = pino({ level: 'silent' });

async function listen(): Promise<Listener> {
  const listener = await startListener(url, logger);
  onTestFinished(() => listener.close());
  return listener;
}

async function cutListeners(): Promise<void> {
  await pool.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where application_name = 'callboard listener' and datname = current_database()`,
  );
}

test('a notification arrives after the commit of its transaction, and only then', async () => {
  const listener = await listen();
  const heard: unknown[] = [];
  listener.on('callboard_node', (payload) => heard.push(payload));
  await db
    .transaction()
    .execute(async (tx) => {
      await notify(tx, 'callboard_node', { environment: 'lost' });
      throw new Error('roll back');
    })
    .catch(() => {});
  await db.transaction().execute((tx) => notify(tx, 'callboard_node', { environment: 'kept', certnames: ['a'] }));
  await until(() => heard.length > 0);
  expect(heard).toEqual([{ environment: 'kept', certnames: ['a'] }]);
});

test('after its connection was cut it listens again, and tells that something may have been missed', async () => {
  const listener = await listen();
  const heard: string[] = [];
  listener.on('callboard_progress', ({ id }) => heard.push(id));
  listener.onGap(() => heard.push('gap'));
  for (const round of ['1', '2']) {
    await cutListeners();
    await until(() => heard.at(-1) === 'gap');
    await notify(db, 'callboard_progress', { kind: 'deploy', id: round });
    await until(() => heard.at(-1) === round);
  }
  expect(heard).toEqual(['gap', '1', 'gap', '2']);
});

test('what is no JSON object is skipped, and a listener that throws keeps no other from hearing', async () => {
  const listener = await listen();
  const heard: string[] = [];
  listener.on('callboard_progress', () => {
    throw new Error('mine alone');
  });
  listener.on('callboard_progress', ({ id }) => heard.push(id));
  for (const junk of ['', '{', '"text"', 'null', '12'])
    await pool.query("select pg_notify('callboard_progress', $1)", [junk]);
  await notify(db, 'callboard_progress', { kind: 'compile', id: 'good' });
  await until(() => heard.length > 0);
  expect(heard).toEqual(['good']);
});

test('a database that cannot be reached at the start is an error', async () => {
  const nowhere = Object.assign(new URL(url), { port: '1' }).href;
  await expect(startListener(nowhere, logger)).rejects.toThrow(/ECONNREFUSED/);
});
