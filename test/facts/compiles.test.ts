/** Submissions with the compile room's own queue: what is queued for whom, in one statement for many nodes. */
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { queueChangedNodes, queueCompiles } from '../../src/compile/queue.ts';
import { factsRoutes } from '../../src/facts/routes.ts';
import { type App, buildApp } from '../../src/http/app.ts';
import { parseCertname } from '../../src/model/ids.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';

let database: FreshDatabase;
let app: App;

beforeAll(async () => {
  database = await freshDatabase();
  await database.pool.query(`
    insert into code_version (id, plugins, file_count, byte_count) values ('new', 'p', 1, 1), ('old', 'p', 1, 1);
    insert into environment (name, code_version, released_code_version) values ('production', 'new', 'old'), ('staging', 'new', null)`);
  app = await buildApp({
    logger: pino({ level: 'silent' }),
    identify: (request) => ({
      kind: 'node',
      certname: parseCertname(request.headers['x-test-node'] as string),
      extensions: {},
    }),
    rooms: [factsRoutes({ db: database.db, queueCompiles, queueChangedNodes })],
  });
});
afterAll(() => app.close());

async function put(certname: string, body: string, environment = 'production'): Promise<{ changed: boolean }> {
  const answer = await app.inject({
    method: 'PUT',
    url: `/node/v1/nodes/${certname}/facts?environment=${environment}`,
    headers: { 'x-test-node': certname, 'content-type': 'application/json' },
    payload: body,
  });
  expect(answer.statusCode).toBe(200);
  return answer.json();
}

async function queued(): Promise<string[]> {
  const { rows } = await database.pool.query('select key from graphile_worker._private_jobs order by key collate "C"');
  return rows.map((row) => row.key);
}

test('each of many nodes that come at once is queued under the newest and the released code version', async () => {
  const certnames = Array.from({ length: 100 }, (_, i) => `n${i}.example`);
  await Promise.all(certnames.map((certname, i) => put(certname, '{"a":1}', i % 4 === 0 ? 'staging' : 'production')));
  const expected = certnames.flatMap((certname, i) =>
    i % 4 === 0
      ? [`compile:staging:new:${certname}`]
      : [`compile:production:new:${certname}`, `compile:production:old:${certname}`],
  );
  expect(await queued()).toEqual(expected.sort());
});

test('batches and a deploy that queue the same compiles do not stop each other', async () => {
  const certnames = Array.from({ length: 60 }, (_, i) => `n${i}.example`);
  const deploy = async (): Promise<void> => {
    const { queueEnvironmentCompiles } = await import('../../src/compile/queue.ts');
    await database.db.transaction().execute(async (tx) => {
      await queueEnvironmentCompiles(tx, 'production', 'new' as never, 'deployed');
    });
  };
  for (let round = 0; round < 5; round += 1) {
    const [results] = await Promise.all([
      Promise.all(certnames.map((certname) => put(certname, `{"a":"round ${round}"}`))),
      deploy(),
      deploy(),
    ]);
    expect(results.every((result) => result.changed)).toBe(true);
  }
});
