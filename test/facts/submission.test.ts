/** Facts submitted through the real routes to a real PostgreSQL, with compiles queued as real graphile-worker jobs. */
import { createHash, randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { pino } from 'pino';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { factsRoutes } from '../../src/facts/routes.ts';
import { type App, buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import { splitFacts } from '../../src/model/facts.ts';
import { parseCertname } from '../../src/model/ids.ts';
import type { Transaction } from '../../src/postgres/database.ts';
import { enqueue, PRIORITY } from '../../src/postgres/queue.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { until } from '../postgres/until.ts';

let database: FreshDatabase;
let app: App;
/** Called in the transaction of a submission, before its compiles are queued. */
let atQueue: () => Promise<void>;

beforeAll(async () => {
  database = await freshDatabase();
  app = await buildApp({
    logger: pino({ level: 'silent' }),
    identify: (request): Identity => {
      const name = request.headers['x-test-node'];
      if (typeof name !== 'string') return { kind: 'anonymous' };
      const extensions = JSON.parse((request.headers['x-test-extensions'] as string | undefined) ?? '{}');
      return { kind: 'node', certname: parseCertname(name), extensions };
    },
    rooms: [factsRoutes({ db: database.db, queueCompiles, queueChangedNodes: queueCompiles })],
  });
});
afterAll(() => app.close());
beforeEach(async () => {
  atQueue = async () => {};
  await database.pool.query('truncate node, fact_document, fact_history, enc_answer, catalog, compile cascade');
  await database.pool.query('select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))');
});

async function queueCompiles(tx: Transaction, certnames: string[], trigger: string): Promise<void> {
  await atQueue();
  for (const certname of certnames) {
    const job = { certname, environment: 'production', code_version: '0', trigger };
    await enqueue(tx, 'compile', job, { key: `compile:production:0:${certname}`, priority: PRIORITY.facts });
  }
}

interface Submission {
  certname?: string;
  as?: string;
  body?: string | Buffer;
  environment?: string;
  extensions?: object;
  headers?: Record<string, string>;
}

function put({ certname = 'web1.example', as = certname, body, environment, extensions, headers }: Submission) {
  return app.inject({
    method: 'PUT',
    url: `/node/v1/nodes/${certname}/facts${environment === undefined ? '' : `?environment=${environment}`}`,
    headers: {
      'x-test-node': as,
      ...(extensions ? { 'x-test-extensions': JSON.stringify(extensions) } : {}),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { payload: body }),
  });
}

const unchanged = (hash: string, submission: Submission = {}) =>
  put({ ...submission, headers: { 'if-none-match': `"${hash}"` } });

async function node(certname = 'web1.example') {
  const found = await database.pool.query(
    `select node.*, trusted_extensions::text as extensions, document,
       (select count(*)::int from fact_history where fact_history.certname = node.certname) as submissions
     from node left join fact_document on hash = facts where certname = $1`,
    [certname],
  );
  return found.rows[0];
}

async function queued(): Promise<{ key: string; trigger: string; revision: number }[]> {
  const found = await database.pool.query(
    `select key, (payload::json) ->> 'trigger' as trigger, revision
     from graphile_worker._private_jobs as jobs where key is not null order by key`,
  );
  return found.rows;
}

const FACTS = '{"os":{"family":"Debian"},"uptime":"1 day","big":9223372036854775807,"float":1.0}';
const STABLE = '{"os":{"family":"Debian"},"big":9223372036854775807,"float":1.0}';
const HASH = createHash('sha256').update(STABLE).digest('hex');

describe('a whole document', () => {
  test('is stored to the byte, creates the node and queues its compile', async () => {
    const answer = await put({ body: FACTS, environment: 'staging', extensions: { pp_role: 'web', '1.3.6': 'x' } });
    expect(answer.statusCode).toBe(200);
    expect(answer.json()).toEqual({ facts: HASH, changed: true });
    expect(answer.headers.etag).toBe(`"${HASH}"`);
    expect(await node()).toMatchObject({
      environment: 'staging',
      requested_environment: 'staging',
      facts: HASH,
      document: STABLE,
      volatile_facts: '{"uptime":"1 day"}',
      extensions: '{"1.3.6":"x","pp_role":"web"}',
      submissions: 1,
    });
    expect(await queued()).toMatchObject([{ key: 'compile:production:0:web1.example', trigger: 'facts changed' }]);
  });

  test('that differs only in volatile values renews them and queues nothing', async () => {
    await put({ body: FACTS });
    const [job] = await queued();
    const answer = await put({ body: FACTS.replace('1 day', '2 days') });
    expect(answer.json()).toEqual({ facts: HASH, changed: false });
    expect(await node()).toMatchObject({ volatile_facts: '{"uptime":"2 days"}', submissions: 1 });
    expect(await queued()).toEqual([job]);
  });

  test('may come gzipped, and from many nodes is kept once', async () => {
    for (const certname of ['a.example', 'b.example']) {
      const answer = await put({ certname, body: gzipSync(FACTS), headers: { 'content-encoding': 'gzip' } });
      expect(answer.json()).toEqual({ facts: HASH, changed: true });
    }
    const { rows } = await database.pool.query('select count(*)::int as count from fact_document');
    expect(rows[0].count).toBe(1);
  });

  test('and the one before, again: the history tells each change', async () => {
    for (const value of [1, 2, 1]) await put({ body: `{"a":${value}}` });
    expect(await node()).toMatchObject({ document: '{"a":1}', submissions: 3 });
  });

  test('is refused with the reason, and leaves no trace', async () => {
    const refusals: [Submission, number, string][] = [
      [{ body: '{"a":1,}' }, 400, 'JSON_INVALID'],
      [{ body: '[]' }, 400, 'FACTS_INVALID'],
      [{ body: '{"a::b":1}' }, 400, 'FACTS_INVALID'],
      [{ body: Buffer.from([0x7b, 0xff, 0x7d]) }, 400, 'JSON_INVALID'],
      [{ body: FACTS, environment: 'No-Such' }, 400, 'ENVIRONMENT_NAME_INVALID'],
      [{ body: FACTS, as: 'other.example' }, 403, 'ACCESS_DENIED'],
      [{ body: FACTS, headers: { 'content-encoding': 'br' } }, 415, 'ENCODING_UNSUPPORTED'],
      [{ body: FACTS, headers: { 'content-encoding': 'gzip' } }, 400, 'ENCODING_BROKEN'],
      [{ body: gzipSync(Buffer.alloc(17 << 20, ' ')), headers: { 'content-encoding': 'gzip' } }, 413, 'BODY_TOO_LARGE'],
      [{}, 428, 'FACTS_NEEDED'],
    ];
    for (const [submission, status, code] of refusals) {
      const answer = await put(submission);
      expect([answer.statusCode, answer.json().code]).toEqual([status, code]);
    }
    expect(await node()).toBeUndefined();
    expect(await queued()).toEqual([]);
  });
});

describe('an unchanged submission', () => {
  test('costs a hash, renews the time, and queues nothing', async () => {
    await put({ body: FACTS });
    const before = await node();
    const [job] = await queued();
    const answer = await unchanged(HASH);
    expect(answer.statusCode).toBe(304);
    expect(answer.headers.etag).toBe(`"${HASH}"`);
    expect(answer.body).toBe('');
    expect((await node()).facts_at.getTime()).toBeGreaterThan(before.facts_at.getTime());
    expect(await queued()).toEqual([job]);
  });

  test('whose hash is not the stored one asks for the facts', async () => {
    expect((await unchanged(HASH)).json()).toMatchObject({ code: 'FACTS_NEEDED' });
    await put({ body: '{"a":1}' });
    expect((await unchanged(HASH)).statusCode).toBe(428);
    expect((await unchanged('nonsense')).json()).toMatchObject({ code: 'HASH_INVALID' });
  });

  test('under another environment or certificate moves the node and queues its compile', async () => {
    await put({ body: FACTS });
    expect((await unchanged(HASH, { environment: 'staging' })).statusCode).toBe(304);
    expect(await node()).toMatchObject({ environment: 'staging', requested_environment: 'staging' });
    expect((await queued())[0]).toMatchObject({ trigger: 'environment changed' });
    await unchanged(HASH, { environment: 'staging', extensions: { pp_role: 'db' } });
    expect(await node()).toMatchObject({ extensions: '{"pp_role":"db"}' });
    expect((await queued())[0]).toMatchObject({ trigger: 'certificate extensions changed' });
  });

  test("leaves the ENC's environment alone as long as the node asks for the same", async () => {
    await put({ body: FACTS });
    await database.pool.query("update node set environment = 'from_enc'");
    await unchanged(HASH);
    await put({ body: '{"a":1}' });
    expect(await node()).toMatchObject({ environment: 'from_enc', requested_environment: 'production' });
    await put({ body: '{"a":1}', environment: 'staging' });
    expect(await node()).toMatchObject({ environment: 'staging' });
  });
});

describe('many at once', () => {
  test('unchanged ones of 100 nodes, some twice, some wrong: each gets its own answer', async () => {
    const certnames = Array.from({ length: 100 }, (_, i) => `n${i}.example`);
    await Promise.all(certnames.map((certname) => put({ certname, body: FACTS })));
    const wrong = createHash('sha256').update('another').digest('hex');
    const answers = await Promise.all(
      certnames.flatMap((certname, i) => [
        unchanged(i % 3 === 0 ? wrong : HASH, { certname }),
        unchanged(HASH, { certname, environment: i % 5 === 0 ? 'staging' : 'production' }),
      ]),
    );
    for (const [i, certname] of certnames.entries()) {
      expect(answers[2 * i]!.statusCode, certname).toBe(i % 3 === 0 ? 428 : 304);
      expect(answers[2 * i + 1]!.statusCode, certname).toBe(304);
    }
    const { rows } = await database.pool.query("select count(*)::int as moved from node where environment = 'staging'");
    expect(rows[0].moved).toBe(20);
  });

  test('different documents of one new node: one wins, each is in the history', async () => {
    const bodies = Array.from({ length: 8 }, (_, i) => `{"a":${i}}`);
    const answers = await Promise.all(bodies.map((body) => put({ body })));
    expect(answers.map((answer) => answer.statusCode)).toEqual(bodies.map(() => 200));
    const stored = await node();
    expect(bodies).toContain(stored.document);
    expect(stored.submissions).toBe(8);
    expect(splitFacts(Buffer.from(stored.document)).hash).toBe(stored.facts);
  });

  test('one document sent again and again at once changes the node once', async () => {
    await put({ body: '{"a":0}' });
    const answers = await Promise.all(Array.from({ length: 8 }, () => put({ body: FACTS })));
    expect(answers.filter((answer) => answer.json().changed)).toHaveLength(1);
    expect(await node()).toMatchObject({ facts: HASH, submissions: 2 });
  });
});

describe('a database that fails in between (P2)', () => {
  test('stores neither facts nor compile, is not acknowledged, and the same submission works later', async () => {
    await put({ body: '{"a":1}' });
    const before = { node: await node(), jobs: await queued() };
    atQueue = async () => {
      // The server ends every other connection of this database, this transaction's among them.
      await database.pool.query(
        'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
      );
    };
    const lost = await put({ body: FACTS });
    expect(lost.json().code).toBe('DATABASE_UNREACHABLE');
    const lostMove = await unchanged(before.node.facts, { environment: 'staging' });
    expect(lostMove.json().code).toBe('DATABASE_UNREACHABLE');
    atQueue = async () => {};
    expect({ node: await node(), jobs: await queued() }).toEqual(before);
    expect((await put({ body: FACTS })).json()).toEqual({ facts: HASH, changed: true });
    expect(await node()).toMatchObject({ facts: HASH, submissions: 2 });
  });

  test('a compile that cannot be queued takes the facts back', async () => {
    atQueue = async () => {
      throw new Error('no');
    };
    expect((await put({ body: FACTS })).statusCode).toBe(500);
    expect(await node()).toBeUndefined();
  });
});

test('a document that the collector takes in the same moment is stored anew', async () => {
  await put({ certname: 'other.example', body: FACTS });
  const collector = await database.pool.connect();
  try {
    await collector.query('begin');
    await collector.query("delete from fact_history where certname = 'other.example'");
    await collector.query("update node set facts = null where certname = 'other.example'");
    await collector.query('delete from fact_document');
    const waiting = put({ body: FACTS });
    await until(async () => {
      const { rows } = await database.pool.query(
        "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
      );
      return rows.length > 0;
    }, 20_000);
    await collector.query('commit');
    expect((await waiting).json()).toEqual({ facts: HASH, changed: true });
  } finally {
    collector.release();
  }
  expect(await node()).toMatchObject({ facts: HASH, document: STABLE });
});

test('random facts survive whole: what is read back is what came, number by number', async () => {
  const digits = BigInt(`0x${randomBytes(20).toString('hex')}`).toString();
  const text = `{"n":${digits},"e":1E+2,"s":"\\u00e9\\ud83d\\ude00\\u0000","ü":"é"}`;
  await put({ body: text });
  expect((await node()).document).toBe(text);
});
