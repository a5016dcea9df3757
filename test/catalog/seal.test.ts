import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { catalogKeys, openSealed, seal, unzipped } from '../../src/catalog/seal.ts';
import type { CatalogHash } from '../../src/model/ids.ts';

const id = 'a'.repeat(64) as CatalogHash;
const otherId = 'b'.repeat(64) as CatalogHash;
const KEY = Buffer.alloc(32, 7).toString('base64');
const OTHER_KEY = Buffer.alloc(32, 8).toString('base64');
const fromText = (text: string) => catalogKeys({ text, file: '/nowhere', make: false });
const folder = await mkdtemp(join(tmpdir(), 'callboard-seal-'));
afterAll(() => rm(folder, { recursive: true }));

test('what was sealed opens to the same bytes, and rests in no form that can be read', async () => {
  const keys = await fromText(KEY);
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 5000 }), async (bytes) => {
      const document = Buffer.from(bytes);
      const sealed = await seal(keys, id, document);
      const gzip = openSealed(keys, id, sealed);
      expect(gunzipSync(gzip).equals(document)).toBe(true);
      expect((await unzipped(gzip)).equals(document)).toBe(true);
    }),
  );
  const secret = Buffer.from('the password is correct horse battery staple');
  const [once, twice] = [await seal(keys, id, secret), await seal(keys, id, secret)];
  expect(once.includes('horse')).toBe(false);
  expect(once.equals(twice), 'each sealing has a nonce of its own').toBe(false);
});

test('one altered bit anywhere, another row, or another key does not open', async () => {
  const keys = await fromText(KEY);
  const sealed = await seal(keys, id, Buffer.from('{"name":"a"}'));
  for (let at = 0; at < sealed.length; at++) {
    const altered = Buffer.from(sealed);
    altered[at] = altered[at]! ^ 1;
    expect(() => openSealed(keys, id, altered), `byte ${at}`).toThrow(
      expect.objectContaining({ code: 'CATALOG_CORRUPT' }),
    );
  }
  const corrupt = expect.objectContaining({ code: 'CATALOG_CORRUPT', status: 500 });
  expect(() => openSealed(keys, otherId, sealed)).toThrow(corrupt);
  expect(() => openSealed(keys, id, sealed.subarray(0, -1))).toThrow(corrupt);
  expect(() => openSealed(keys, id, Buffer.alloc(0))).toThrow(corrupt);
  const others = await fromText(OTHER_KEY);
  expect(() => openSealed(others, id, sealed)).toThrow('altered, or the key is not the one that sealed it');
});

test('a second key seals from now on, and what the first sealed still opens', async () => {
  const first = await fromText(`1 ${KEY}`);
  const both = await fromText(`# rotated\n1 ${KEY}\n2 ${OTHER_KEY}\n`);
  const old = await seal(first, id, Buffer.from('old'));
  const young = await seal(both, id, Buffer.from('young'));
  expect((await unzipped(openSealed(both, id, old))).toString()).toBe('old');
  expect((await unzipped(openSealed(both, id, young))).toString()).toBe('young');
  expect(() => openSealed(first, id, young)).toThrow('key 2 is not known');
});

test('the key file is made once, for its owner only, and rivals agree on it', async () => {
  const file = join(folder, 'state', 'catalog.key');
  await expect(catalogKeys({ file, make: false })).rejects.toThrow('does not exist');
  const rivals = await Promise.all(Array.from({ length: 8 }, () => catalogKeys({ file, make: true })));
  const text = await readFile(file, 'utf8');
  const again = await catalogKeys({ file, make: false });
  for (const { sealing, keys } of rivals) expect(keys.get(sealing)).toEqual(again.keys.get(again.sealing));
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(text).toMatch(/^1 [A-Za-z0-9+/]{43}=\n$/);
  expect(await readdir(join(folder, 'state')), 'nothing is left beside').toEqual(['catalog.key']);
});

test('a broken key file is refused without telling what is in it', async () => {
  const file = join(folder, 'broken.key');
  for (const text of ['', 'hunter2', `1 ${KEY}\n1 ${OTHER_KEY}`, `256 ${KEY}`, `1 ${KEY.slice(4)}`]) {
    await writeFile(file, text);
    const refused = await catalogKeys({ file, make: true }).catch((error) => error);
    expect(refused, text).toMatchObject({ code: 'SETTING_INVALID' });
    expect(String(refused)).not.toContain('hunter2');
    expect(String(refused)).not.toContain(KEY.slice(4));
  }
});
