import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { catalogKeys } from '../../src/catalog/seal.ts';
import { catalogStore } from '../../src/catalog/store.ts';
import { openDiskContent } from '../../src/content/disk.ts';
import { guardContent } from '../../src/content/guard.ts';
import { catalogContents, servedCatalog } from '../../src/model/catalog.ts';
import type { Certname, ContentHash, EnvironmentName } from '../../src/model/ids.ts';
import type { Transaction } from '../../src/postgres/database.ts';
import { freshDatabase } from '../postgres/fresh.ts';

const { db, pool } = await freshDatabase();
const folder = await mkdtemp(join(tmpdir(), 'callboard-catalog-'));
afterAll(() => rm(folder, { recursive: true }));
const content = await openDiskContent({ directory: folder });
const keys = await catalogKeys({ text: Buffer.alloc(32, 1).toString('base64'), file: '', make: false });
const store = catalogStore({ keys, guardContent: (tx, hashes) => guardContent(tx, content, hashes) });

const certname = 'web.example' as Certname;
const environment = 'production' as EnvironmentName;

beforeAll(async () => {
  await pool.query(
    "insert into node (certname, environment, requested_environment) values ('web.example', 'production', 'production')",
  );
});

function hashOf(text: string): ContentHash {
  return createHash('sha256').update(text).digest('hex') as ContentHash;
}

function catalogOf(motd: string, texts: string[] = []) {
  const metadata = Object.fromEntries(
    texts.map((text, index) => [
      `/t/${index}`,
      {
        checksum: { type: 'sha256', value: `{sha256}${hashOf(text)}` },
        content_uri: `puppet:///sha256/${hashOf(text)}`,
        relative_path: null,
        type: 'file',
      },
    ]),
  );
  const canonical = {
    catalog_format: 2,
    edges: [],
    environment,
    metadata,
    name: certname,
    resources: [{ parameters: { content: motd }, title: '/etc/motd', type: 'File' }],
  };
  const { id, document } = servedCatalog(Buffer.from(JSON.stringify(canonical)));
  return { id, certname, environment, document, contents: catalogContents(document) };
}

const storeOne = (catalog: ReturnType<typeof catalogOf>, and?: (tx: Transaction) => Promise<void>) =>
  db.transaction().execute(async (tx) => {
    const isNew = await store.storeCatalog(tx, catalog);
    await and?.(tx);
    return isNew;
  });

const count = async (table: string) =>
  (await pool.query(`select count(*)::int as n from ${table}`)).rows[0].n as number;

test('a stored catalog is read back to the byte, and its text does not rest in the database', async () => {
  const catalog = catalogOf('swordfish');
  expect(await storeOne(catalog)).toBe(true);
  expect((await store.readCatalog(db, catalog.id)).equals(catalog.document)).toBe(true);
  const { rows } = await pool.query('select * from catalog where id = $1', [catalog.id]);
  expect(rows[0]).toMatchObject({ certname, environment, resource_count: 1, document_bytes: catalog.document.length });
  expect(rows[0].document.includes('swordfish')).toBe(false);
});

test('P3: an identical recompile is no new catalog, also when two end at once', async () => {
  const catalog = catalogOf('again');
  const before = await count('catalog');
  const news = await Promise.all([storeOne(catalog), storeOne(catalog), storeOne(catalog)]);
  expect(news.filter(Boolean)).toHaveLength(1);
  const sealed = async () =>
    (await pool.query('select document from catalog where id = $1', [catalog.id])).rows[0].document;
  const first = await sealed();
  expect(await storeOne(catalog)).toBe(false);
  expect(await count('catalog')).toBe(before + 1);
  expect((await sealed()).equals(first)).toBe(true);
});

test('P4: a catalog with content that is not kept does not become visible', async () => {
  const texts = ['kept', 'lost'];
  await content.put(hashOf('kept'), Buffer.from('kept'));
  const catalog = catalogOf('with files', texts);
  await expect(storeOne(catalog)).rejects.toThrow(
    `1 pieces of content are not in the store, among them ${hashOf('lost')}`,
  );
  expect((await pool.query('select 1 from catalog where id = $1', [catalog.id])).rows).toEqual([]);
  await content.put(hashOf('lost'), Buffer.from('lost'));
  expect(await storeOne(catalog)).toBe(true);
  const { rows } = await pool.query('select content from content_reference where holder = $1 order by content', [
    catalog.id,
  ]);
  expect(rows.map((row) => row.content)).toEqual([hashOf('kept'), hashOf('lost')].sort());
});

test('P2: a catalog whose transaction fails leaves nothing', async () => {
  const catalog = catalogOf('rolled back');
  const failing = storeOne(catalog, async () => {
    throw new Error('the worker died');
  });
  await expect(failing).rejects.toThrow('the worker died');
  await expect(store.readCatalog(db, catalog.id)).rejects.toMatchObject({ code: 'CATALOG_NOT_FOUND' });
});

test('a catalog that is not what it is said to be is refused', async () => {
  const catalog = catalogOf('honest');
  const lies = [
    { ...catalog, id: catalogOf('other').id },
    { ...catalog, document: Buffer.from(catalog.document.toString().replace('honest', 'forged')) },
    { ...catalog, certname: 'db.example' as Certname },
    { ...catalog, environment: 'staging' as EnvironmentName },
  ];
  for (const lie of lies)
    await expect(storeOne(lie)).rejects.toThrow(/^catalog [0-9a-f]{64} |not the one of its own id/);
  expect((await pool.query('select 1 from catalog where id = $1', [catalog.id])).rows).toEqual([]);
});

test('a document moved to another row, or altered in the database, is not served', async () => {
  const [one, two] = [catalogOf('one'), catalogOf('two')];
  await storeOne(one);
  await storeOne(two);
  await pool.query('update catalog set document = (select document from catalog where id = $1) where id = $2', [
    one.id,
    two.id,
  ]);
  await expect(store.readCatalog(db, two.id)).rejects.toMatchObject({ code: 'CATALOG_CORRUPT' });
  await pool.query('update catalog set document = set_byte(document, 40, get_byte(document, 40) # 1) where id = $1', [
    one.id,
  ]);
  await expect(store.readCatalogGzip(db, one.id)).rejects.toMatchObject({ code: 'CATALOG_CORRUPT' });
});
