/**
 * Catalogs hold secrets in clear, so they rest encrypted. A sealed document is
 *
 *     version (1 byte, 1) · key id (1 byte) · nonce (12 bytes, random) · AES-256-GCM of the gzip of the document · tag (16)
 *
 * with the catalog's id as associated data: a sealed document moved to another row does not open. Which key sealed it
 * stands in the key id, so a key can be replaced while old catalogs still open: the last key of the key file seals.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { link, mkdir, open, readFile, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { gunzip as gunzipCallback, gzip } from 'node:zlib';
import { CallboardError } from '../model/errors.ts';
import type { CatalogHash } from '../model/ids.ts';
import { CATALOG_BYTES_MAX } from '../model/limits.ts';

const VERSION = 1;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const HEAD_BYTES = 2 + NONCE_BYTES;

const gzipped = promisify(gzip);
const gunzipped = promisify(gunzipCallback);

/** The keys by their ids, and the one that seals. */
export interface CatalogKeys {
  sealing: number;
  keys: ReadonlyMap<number, Buffer>;
}

/** Gzip, then seal. */
export async function seal(keys: CatalogKeys, id: CatalogHash, document: Buffer): Promise<Buffer> {
  return sealGzip(keys, id, await gzipped(document));
}

function sealGzip(keys: CatalogKeys, id: CatalogHash, compressed: Buffer): Buffer {
  const head = Buffer.concat([Buffer.from([VERSION, keys.sealing]), randomBytes(NONCE_BYTES)]);
  const cipher = createCipheriv('aes-256-gcm', keys.keys.get(keys.sealing)!, head.subarray(2));
  cipher.setAAD(Buffer.concat([head.subarray(0, 2), Buffer.from(id)]));
  return Buffer.concat([head, cipher.update(compressed), cipher.final(), cipher.getAuthTag()]);
}

/** The gzip inside, as it can be served. Throws CATALOG_CORRUPT when one bit is not as it was sealed. */
export function openSealed(keys: CatalogKeys, id: CatalogHash, sealed: Buffer): Buffer {
  if (sealed.length < HEAD_BYTES + TAG_BYTES || sealed[0] !== VERSION)
    throw new CallboardError('CATALOG_CORRUPT', { catalog: id, reason: 'it is not in the form of version 1' });
  const key = keys.keys.get(sealed[1]!);
  if (!key) throw new CallboardError('CATALOG_CORRUPT', { catalog: id, reason: `key ${sealed[1]} is not known` });
  const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(2, HEAD_BYTES), { authTagLength: TAG_BYTES });
  decipher.setAAD(Buffer.concat([sealed.subarray(0, 2), Buffer.from(id)]));
  decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
  const compressed = decipher.update(sealed.subarray(HEAD_BYTES, -TAG_BYTES));
  try {
    return Buffer.concat([compressed, decipher.final()]);
  } catch (cause) {
    const reason = 'its bytes were altered, or the key is not the one that sealed it';
    throw new CallboardError('CATALOG_CORRUPT', { catalog: id, reason }, { cause });
  }
}

/** The document of a gzip that `openSealed` gave. Refuses to grow beyond the limit of a catalog. */
export async function unzipped(compressed: Buffer): Promise<Buffer> {
  return gunzipped(compressed, { maxOutputLength: 2 * CATALOG_BYTES_MAX });
}

/**
 * The keys from `text` (a setting or the environment), else from the file. A file is made, readable by its owner only,
 * when it is not there and `make` allows it. Its lines are `<id> <base64 of 32 bytes>`, ids from 0 to 255.
 */
export async function catalogKeys(from: { text?: string; file: string; make: boolean }): Promise<CatalogKeys> {
  if (from.text !== undefined) return parseKeys(from.text, 'catalog key');
  try {
    return parseKeys(await readFile(from.file, 'utf8'), from.file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    if (!from.make) {
      const reason = 'does not exist; without it no stored catalog can be read';
      throw new CallboardError(
        'SETTING_INVALID',
        { setting: 'catalog key', value: from.file, reason },
        { cause: error },
      );
    }
  }
  await makeKeyFile(from.file);
  return parseKeys(await readFile(from.file, 'utf8'), from.file);
}

/** Written beside and linked: a rival process that makes it too does not replace ours, and nobody reads half of it. */
async function makeKeyFile(file: string): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const beside = `${file}.${randomBytes(6).toString('hex')}`;
  const handle = await open(beside, 'wx', 0o600);
  try {
    await handle.writeFile(`1 ${randomBytes(32).toString('base64')}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  try {
    await link(beside, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    await unlink(beside);
  }
  const folder = await open(join(dirname(file), '.'), 'r');
  await folder.sync().finally(() => folder.close());
}

function parseKeys(text: string, where: string): CatalogKeys {
  const keys = new Map<number, Buffer>();
  let sealing = -1;
  for (const line of text.split('\n').map((each) => each.trim())) {
    if (line === '' || line.startsWith('#')) continue;
    const [, id, base64] = /^(?:(\d{1,3})\s+)?([A-Za-z0-9+/]{43}=)$/.exec(line) ?? [];
    const number = Number(id ?? 1);
    // The value is a secret and is not told.
    if (!base64 || number > 255 || keys.has(number)) throw badKey(where, 'has a line that is no key, or an id twice');
    keys.set(number, Buffer.from(base64, 'base64'));
    sealing = number;
  }
  if (sealing < 0) throw badKey(where, 'has no key');
  return { sealing, keys };
}

function badKey(where: string, reason: string): CallboardError {
  return new CallboardError(
    'SETTING_INVALID',
    { setting: 'catalog key', value: where, reason },
    { hint: 'Give lines of: <id 0-255> <base64 of 32 bytes>; the last one seals.' },
  );
}
