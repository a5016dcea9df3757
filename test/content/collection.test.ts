import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, truncate, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { sql } from 'kysely';
import pino from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { collect } from '../../src/content/collection.ts';
import { collectionRoutes } from '../../src/content/collection-routes.ts';
import { isScrubbedOn, type Listed, planRemoval, SCRUB_DAYS } from '../../src/content/collector.ts';
import { type DiskContent, openDiskContent } from '../../src/content/disk.ts';
import { guardContent } from '../../src/content/guard.ts';
import { collections } from '../../src/content/jobs.ts';
import { buildApp } from '../../src/http/app.ts';
import type { Identity } from '../../src/http/identity.ts';
import type { CodeVersionHash, ContentHash } from '../../src/model/ids.ts';
import { writeTree } from '../../src/model/tree.ts';
import { hashOf } from '../contract/content.ts';
import { freshDatabase } from '../postgres/fresh.ts';

const logger = pino({ enabled: false });
const { db, pool } = await freshDatabase();
let directory: string;
let store: DiskContent;
const fileOf = (hash: string) => join(directory, hash.slice(0, 2), hash);
const LONG_AGO = new Date(Date.now() - 100 * 24 * 3600_000);

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'callboard-collect-'));
  store = await openDiskContent({ directory, fsync: false });
  await pool.query(`
    truncate environment, code_version, node, catalog, content_reference, compile, compiled, pointer_move, release, deploy,
      fact_document, fact_history cascade`);
});
afterEach(() => rm(directory, { recursive: true }));

/** Content as it is long after it was put. */
async function oldContent(text: string): Promise<ContentHash> {
  const hash = hashOf(Buffer.from(text));
  await store.put(hash, Buffer.from(text));
  await utimes(fileOf(hash), LONG_AGO, LONG_AGO);
  return hash;
}

/** A code version of long ago with one file, and a plugin tree with another. */
async function oldCode(name: string): Promise<{ id: CodeVersionHash; contents: ContentHash[] }> {
  const file = await oldContent(`file of ${name}`);
  const manifest = writeTree([{ kind: 'file', path: 'a.pp', mode: '644', hash: file, size: 1 }]);
  const id = (await oldContent(manifest.toString())) as string as CodeVersionHash;
  const plugin = await oldContent(`plugin of ${name}`);
  const plugins = await oldContent(`plugin tree of ${name}`);
  await pool.query('insert into code_version values ($1, $2, 1, 1, $3)', [id, plugins, LONG_AGO]);
  for (const content of [plugin, plugins])
    await pool.query('insert into content_reference values ($1, $2)', [plugins, content]);
  return { id, contents: [file, id as string as ContentHash, plugin, plugins] };
}

async function oldCatalog(certname: string, name: string): Promise<{ id: string; content: ContentHash }> {
  const content = await oldContent(`content of ${name}`);
  await pool.query(
    `insert into catalog (id, certname, environment, document, document_bytes, resource_count, created_at)
     values ($1, $2, 'production', '', 0, 0, $3)`,
    [name, certname, LONG_AGO],
  );
  await pool.query('insert into content_reference values ($1, $2)', [name, content]);
  return { id: name, content };
}

async function node(certname: string): Promise<void> {
  await pool.query(`insert into environment (name) values ('production') on conflict do nothing`);
  await pool.query(
    `insert into node (certname, environment, requested_environment) values ($1, 'production', 'production')`,
    [certname],
  );
}

async function compiled(certname: string, codeVersion: string, catalog: string, finishedAt = LONG_AGO): Promise<void> {
  const { rows } = await pool.query(
    `insert into compile (certname, environment, code_version, trigger, catalog, started_at, finished_at)
     values ($1, 'production', $2, 'test', $3, $4, $4) returning id`,
    [certname, codeVersion, catalog, finishedAt],
  );
  await pool.query(
    `insert into compiled values ($1, 'production', $2, $3, $4)
     on conflict (certname, environment, code_version) do update set compile = excluded.compile, catalog = excluded.catalog`,
    [certname, codeVersion, rows[0].id, catalog],
  );
}

const names = async (table: string, column = 'id') =>
  (await pool.query(`select ${column} as name from ${table} order by 1`)).rows.map(({ name }) => name);
const kept = async (hashes: ContentHash[]) => (await store.missing(hashes)).length === 0;
const gone = async (hashes: ContentHash[]) => (await store.missing(hashes)).length === hashes.length;

describe('a collection', () => {
  test('removes content that nothing names, and spares the young', async () => {
    const old = await oldContent('nobody names this');
    const young = hashOf(Buffer.from('just put'));
    await store.put(young, Buffer.from('just put'));
    const collected = await collect({ db, store, logger });
    expect(collected).toMatchObject({ content_removed: 1, bytes_removed: 17, content_spared: 1 });
    expect(await gone([old])).toBe(true);
    expect(await kept([young])).toBe(true);
  });

  test('keeps the newest and the released code version, those of nodes, and those of the latest deploys', async () => {
    await node('web');
    const [newest, released, ofNode, deployed, dead] = [
      await oldCode('newest'),
      await oldCode('released'),
      await oldCode('of a node'),
      await oldCode('deployed'),
      await oldCode('dead'),
    ];
    await pool.query('update environment set code_version = $1, released_code_version = $2', [newest.id, released.id]);
    await pool.query('update node set released_code_version = $1', [ofNode.id]);
    const deploy = `insert into deploy (environment, repo, ref, code_version, state, requested_by, created_at)
      values ('production', 'r', 'main', $1, 'done', 'dora', $2)`;
    await pool.query(deploy, [dead.id, LONG_AGO]);
    for (let n = 0; n < 10; n++) {
      await pool.query(deploy, [deployed.id, new Date(LONG_AGO.getTime() + 1000 + n)]);
    }
    const removed: string[] = [];
    const code = {
      listCodeDirectories: async () => [newest.id, dead.id],
      removeCodeDirectory: async (id: CodeVersionHash) => void removed.push(id),
    };
    const collected = await collect({ db, store, logger, code });
    expect(collected).toMatchObject({ code_versions_forgotten: 1, content_removed: 4 });
    for (const version of [newest, released, ofNode, deployed]) expect(await kept(version.contents)).toBe(true);
    expect(await gone(dead.contents)).toBe(true);
    expect(removed).toEqual([dead.id]);
    // The history of deploys stays; it only loses the name of what is gone.
    const { rows } = await pool.query('select count(*)::int, count(code_version)::int as named from deploy');
    expect(rows[0]).toEqual({ count: 11, named: 10 });
  });

  test('keeps the code of trials for as long as they last, and no deploy makes room for one', async () => {
    await node('web');
    const [newest, pushed, trial] = [await oldCode('newest'), await oldCode('pushed'), await oldCode('trial')];
    await pool.query('update environment set code_version = $1', [newest.id]);
    const deploy = `insert into deploy (environment, repo, ref, code_version, state, requested_by, created_at, trial)
      values ('production', 'r', 'main', $1, 'done', 'dora', $2, $3)`;
    await pool.query(deploy, [pushed.id, LONG_AGO, false]);
    for (let n = 0; n < 10; n++) await pool.query(deploy, [trial.id, new Date(LONG_AGO.getTime() + 1000 + n), true]);
    await pool.query("insert into trial (environment, code_version, expires_at) values ('production', $1, now())", [
      trial.id,
    ]);
    await collect({ db, store, logger });
    for (const version of [newest, pushed, trial]) expect(await kept(version.contents)).toBe(true);
    await pool.query('delete from trial');
    expect(await collect({ db, store, logger })).toMatchObject({ code_versions_forgotten: 1 });
    expect(await names('code_version')).toEqual([newest.id, pushed.id].sort());
  });

  test('keeps plugins that a code version shares with one that goes', async () => {
    await node('web');
    const [live, dead] = [await oldCode('live'), await oldCode('dead')];
    await pool.query('update environment set code_version = $1', [live.id]);
    await pool.query('update code_version set plugins = (select plugins from code_version where id = $1)', [dead.id]);
    await collect({ db, store, logger });
    expect(await names('code_version')).toEqual([live.id]);
    expect(await kept(dead.contents.slice(2))).toBe(true);
    expect(await gone(dead.contents.slice(0, 2))).toBe(true);
  });

  test('keeps catalogs that are released, are candidates, or that a rollback can reach, with their content', async () => {
    await node('web');
    const [live, dead] = [await oldCode('live'), await oldCode('dead')];
    await pool.query('update environment set code_version = $1', [live.id]);
    const keep = [];
    const go = [];
    const catalogs = new Map<string, ContentHash>();
    for (const name of [
      'released',
      'candidate',
      'compiled under dead code',
      'stale',
      'before the release',
      'forgotten',
    ]) {
      catalogs.set(name, (await oldCatalog('web', name)).content);
    }
    await pool.query(`update node set released_catalog = 'released', released_code_version = $1`, [live.id]);
    await compiled('web', live.id, 'stale');
    await compiled('web', live.id, 'candidate');
    await compiled('web', dead.id, 'compiled under dead code');
    const move = `insert into pointer_move (certname, cause, previous_catalog, catalog, code_version, moved_at)
      values ('web', $1, $2, $3, $4, $5)`;
    await pool.query(move, ['join', null, 'forgotten', live.id, LONG_AGO]);
    for (let n = 0; n < 12; n++) await pool.query(move, ['facts', 'forgotten', 'forgotten', live.id, LONG_AGO]);
    await pool.query(move, ['release', 'before the release', 'released', live.id, LONG_AGO]);
    // Any number of changed facts later, the release can still be taken back.
    for (let n = 0; n < 12; n++) await pool.query(move, ['facts', 'released', 'released', live.id, LONG_AGO]);
    // The join is among the latest decisions, so what it moved to stays as well.
    keep.push('released', 'candidate', 'before the release', 'forgotten');
    go.push('compiled under dead code', 'stale');
    const collected = await collect({ db, store, logger });
    expect(await names('catalog')).toEqual(keep.sort());
    for (const name of keep) expect(await kept([catalogs.get(name)!])).toBe(true);
    for (const name of go) expect(await gone([catalogs.get(name)!])).toBe(true);
    expect(await names('content_reference', 'holder')).toEqual(expect.not.arrayContaining(go));
    // The last compile under the live code stays; the ones before it, and those under dead code once that is gone, do not.
    expect(collected.compiles_forgotten).toBe(1);
    expect((await collect({ db, store, logger })).compiles_forgotten).toBe(1);
    // 10 latest, and the decisions before them.
    expect((await pool.query('select cause, count(*)::int from pointer_move group by 1 order by 1')).rows).toEqual([
      { cause: 'facts', count: 10 },
      { cause: 'join', count: 1 },
      { cause: 'release', count: 1 },
    ]);
  });

  test('forgets old facts but each node’s latest, and documents that nothing names then', async () => {
    await node('web');
    for (const hash of ['now', 'before', 'never named', 'of a compile']) {
      await pool.query('insert into fact_document values ($1, $2, $3)', [hash, '{}', LONG_AGO]);
    }
    const history = 'insert into fact_history values ($1, $2, $3)';
    await pool.query(history, ['web', LONG_AGO, 'before']);
    await pool.query(history, ['web', new Date(LONG_AGO.getTime() + 1000), 'now']);
    await pool.query(
      `insert into compile (certname, environment, code_version, trigger, facts, catalog, started_at)
       values ('web', 'production', 'x', 'test', 'of a compile', 'y', now())`,
    );
    const collected = await collect({ db, store, logger });
    expect(collected.fact_documents_forgotten).toBe(2);
    expect(await names('fact_document', 'hash')).toEqual(['now', 'of a compile']);
  });

  test('removes no content while a code version’s manifest cannot be read', async () => {
    await node('web');
    const live = await oldCode('live');
    await pool.query('update environment set code_version = $1', [live.id]);
    const old = await oldContent('nobody names this');
    await truncate(fileOf(live.id), 3);
    await expect(collect({ db, store, logger })).rejects.toThrow(
      `the manifest of code version ${live.id} cannot be read`,
    );
    expect(await kept([old, live.contents[0]!])).toBe(true);
  });

  test('finds damaged content in its week’s round and puts it aside', async () => {
    await node('web');
    const { content } = await oldCatalog('web', 'released');
    await pool.query(`update node set released_catalog = 'released'`);
    await truncate(fileOf(content), 3);
    const collected = await collect({ db, store, logger }, { scrub: 'all' });
    expect(collected).toMatchObject({ content_checked: 1, content_damaged: 1 });
    expect(await store.missing([content])).toEqual([content]);
  });

  test('changes nothing the second time', async () => {
    await node('web');
    await oldCode('dead');
    await oldCatalog('web', 'unreleased');
    await collect({ db, store, logger });
    expect(await collect({ db, store, logger })).toMatchObject({
      compiles_forgotten: 0,
      read_sets_forgotten: 0,
      code_versions_forgotten: 0,
      catalogs_forgotten: 0,
      content_removed: 0,
    });
  });

  test('is an admin’s to start, and tells what it did', async () => {
    await oldContent('nobody names this');
    let identity: Identity = { kind: 'operator', name: 'dora', role: 'deployer' };
    const app = await buildApp({
      logger,
      identify: () => identity,
      rooms: [collectionRoutes(collections({ db, store, logger }))],
    });
    const start = () => app.inject({ method: 'POST', url: '/api/v1/collections' });
    expect((await start()).statusCode).toBe(403);
    identity = { kind: 'operator', name: 'ada', role: 'admin' };
    const latest = () => app.inject({ method: 'GET', url: '/api/v1/collections/latest' });
    expect((await latest()).json()).toEqual({ state: 'none' });
    const started = await start();
    expect([started.statusCode, started.json().content_removed]).toEqual([200, 1]);
    expect((await latest()).json()).toMatchObject({ state: 'done', collected: { content_removed: 1 } });
    await app.close();
  });
});

/**
 * Storers put content and commit a catalog that names it, under the guard, while collectors run without pause and spare
 * nothing young, and content is wanted again moments after it was given up. No committed catalog may ever lack content.
 */
test('no committed catalog ever lacks content while collectors run all the time', async () => {
  await node('web');
  const contents = Array.from({ length: 90 }, (_, n) => Buffer.from(`shared content ${n}`));
  const over = Date.now() + 6000;
  let committed = 0;
  let refused = 0;
  let removed = 0;
  let lost: string | undefined;

  async function storer(seed: number): Promise<void> {
    for (let n = 0; Date.now() < over && !lost; n++) {
      // Three at a time, so that at any moment most are named by no catalog that is left.
      const named = [0, 1, 2].map((k) => contents[(seed * 31 + n * 7 + k * 11) % contents.length]!);
      const hashes = named.map(hashOf);
      const id = `catalog-${seed}-${n}`;
      for (const bytes of named) await store.put(hashOf(bytes), bytes);
      try {
        await db.transaction().execute(async (tx) => {
          await guardContent(tx, store, hashes);
          await sql`insert into catalog (id, certname, environment, document, document_bytes, resource_count, created_at)
            values (${id}, 'web', 'production', '', 0, 0, now() - interval '1 day')`.execute(tx);
          await sql`insert into content_reference select ${id}, unnest(${hashes}::text[])`.execute(tx);
          await sql`update node set released_catalog = ${id}`.execute(tx);
        });
        committed++;
      } catch (error) {
        if (!(error as Error).message.includes('not in the store')) throw error;
        refused++;
      }
    }
  }

  async function collector(): Promise<void> {
    while (Date.now() < over && !lost) {
      const collected = await collect({ db, store, logger }, { sparedTimeMs: -60_000, scrub: 'none' });
      removed += collected.content_removed;
    }
  }

  async function auditor(): Promise<void> {
    while (Date.now() < over && !lost) {
      await db.transaction().execute(async (tx) => {
        // Shared, as a storer: between the collector's batches what is committed must be whole.
        await guardContent(tx, store, []);
        const { rows } = await sql<{ content: ContentHash }>`
          select r.content from catalog c join content_reference r on r.holder = c.id`.execute(tx);
        const missing = await store.missing(new Set(rows.map(({ content }) => content)));
        if (missing.length > 0) lost = missing[0];
      });
    }
  }

  await Promise.all([storer(0), storer(1), storer(2), collector(), collector(), auditor()]);
  expect(lost).toBeUndefined();
  // The race was run: content was removed, and storers met removals.
  expect(committed).toBeGreaterThan(20);
  expect(removed).toBeGreaterThan(5);
  expect(refused).toBeGreaterThan(0);
});

test('plans to remove exactly what is neither named nor young', () => {
  const hash = fc.nat(50).map((n) => hashOf(Buffer.from(String(n))));
  const listed = fc.record({ hash, size: fc.nat(), modifiedAt: fc.date({ noInvalidDate: true }) });
  fc.assert(
    fc.property(fc.array(listed), fc.uniqueArray(hash), fc.date({ noInvalidDate: true }), (all, named, since) => {
      const plan = planRemoval(all as Listed[], (each) => named.includes(each), since);
      expect(plan.remove.length + plan.named + plan.spared).toBe(all.length);
      for (const content of plan.remove) {
        expect(named.includes(content.hash)).toBe(false);
        expect(content.modifiedAt < since).toBe(true);
      }
    }),
  );
});

test('reads every name once in a round of days', () => {
  for (let n = 0; n < 300; n++) {
    const hash = randomBytes(32).toString('hex') as ContentHash;
    const days = Array.from({ length: SCRUB_DAYS }, (_, day) => isScrubbedOn(20_000 + day, hash));
    expect(days.filter(Boolean)).toHaveLength(1);
  }
});
