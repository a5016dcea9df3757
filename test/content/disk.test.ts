import { appendFile, mkdtemp, open, readdir, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { ContentStore } from '../../src/content/content.ts';
import { type DiskContent, openDiskContent } from '../../src/content/disk.ts';
import type { ContentHash } from '../../src/model/ids.ts';
import { bytesOf, contentContract, hashOf, streamOf } from '../contract/content.ts';

const directories: string[] = [];
const directoryOf = new WeakMap<ContentStore, string>();

async function empty(): Promise<DiskContent> {
  const directory = await mkdtemp(join(tmpdir(), 'callboard-content-'));
  directories.push(directory);
  const store = await openDiskContent({ directory, fsync: false });
  directoryOf.set(store, directory);
  return store;
}

afterEach(async () => {
  for (const directory of directories.splice(0)) await rm(directory, { recursive: true });
});

function fileOf(store: ContentStore, hash: ContentHash): string {
  return join(directoryOf.get(store)!, hash.slice(0, 2), hash);
}

async function damage(store: ContentStore, hash: ContentHash, how: string): Promise<void> {
  // What is in memory is given, rightly, for 20 ms before the file is looked at again.
  await new Promise((over) => setTimeout(over, 25));
  const file = fileOf(store, hash);
  const { size } = await stat(file);
  if (how === 'cut the end') return truncate(file, size - 1);
  if (how === 'add a byte') return appendFile(file, 'x');
  const handle = await open(file, 'r+');
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, size >> 1);
  byte[0]! ^= 1;
  await handle.write(byte, 0, 1, size >> 1);
  await handle.close();
}

describe('on disk', () => {
  contentContract({ empty, damage, age: (store, hash, putAt) => utimes(fileOf(store, hash), putAt, putAt) });

  test('puts damaged content into quarantine and leaves nothing else behind', async () => {
    const store = await empty();
    const bytes = bytesOf(1000);
    await store.put(hashOf(bytes), bytes);
    await damage(store, hashOf(bytes), 'flip a byte');
    await expect(store.read(hashOf(bytes))).rejects.toMatchObject({ code: 'CONTENT_CORRUPT' });
    const directory = directoryOf.get(store)!;
    const [aside, ...others] = await readdir(join(directory, 'quarantine'));
    expect(others).toEqual([]);
    expect(aside!.startsWith(hashOf(bytes))).toBe(true);
    expect(await readdir(join(directory, 'incoming'))).toEqual([]);
    expect(await readdir(join(directory, 'removing'))).toEqual([]);
  });

  test('ends a stream with an error, not with damaged bytes, when the file changes under it', async () => {
    const store = await empty();
    const bytes = bytesOf(3_000_000);
    const hash = hashOf(bytes);
    await store.put(hash, bytes);
    const { stream } = await store.get(hash);
    const handle = await open(fileOf(store, hash), 'r+');
    await handle.write(Buffer.from('other bytes'), 0, 11, 2_000_000);
    await handle.close();
    await expect(buffer(stream)).rejects.toMatchObject({ code: 'CONTENT_CORRUPT' });
    expect(await store.size(hash)).toBeUndefined();
  });

  test('lets a stream end well when the file was only put again under it', async () => {
    const store = await empty();
    const bytes = bytesOf(3_000_000);
    await store.put(hashOf(bytes), bytes);
    const { stream } = await store.get(hashOf(bytes));
    await store.put(hashOf(bytes), bytes);
    await store.put(hashOf(bytes), streamOf(bytes));
    expect((await buffer(stream)).equals(bytes)).toBe(true);
  });

  test('finds by a scrub what the file system did not see', async () => {
    const store = await empty();
    const bytes = bytesOf(1000);
    const hash = hashOf(bytes);
    await store.put(hash, bytes);
    expect(await store.scrub(hash)).toBe('sound');
    await damage(store, hash, 'flip a byte');
    expect(await store.scrub(hash)).toBe('damaged');
    expect(await store.scrub(hash)).toBe('absent');
    expect(await store.missing([hash])).toEqual([hash]);
  });

  test('refuses more bytes than the limit, and stops reading there', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'callboard-content-'));
    directories.push(directory);
    const store = await openDiskContent({ directory, fsync: false, bytesMax: 10_000 });
    const bytes = bytesOf(1_000_000);
    const stream = streamOf(bytes, 1000);
    await expect(store.put(hashOf(bytes), stream)).rejects.toMatchObject({ code: 'BODY_TOO_LARGE' });
    expect(stream.destroyed).toBe(true);
    await expect(store.put(hashOf(bytes), bytes)).rejects.toMatchObject({ code: 'BODY_TOO_LARGE' });
  });

  test('keeps no more small content in memory than the limit', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'callboard-content-'));
    directories.push(directory);
    const store = await openDiskContent({ directory, fsync: false, memoryBytesMax: 10_000 });
    const pieces = Array.from({ length: 20 }, (_, n) => bytesOf(1000, n));
    for (const bytes of pieces) await store.put(hashOf(bytes), bytes);
    const newest = hashOf(pieces.at(-1)!);
    // A file that was written a moment ago is not remembered yet.
    await vi.waitFor(async () => expect((await store.read(newest)) && store.readHot(newest)).toBeTruthy());
    for (const bytes of pieces) await store.read(hashOf(bytes));
    expect(pieces.filter((bytes) => store.readHot(hashOf(bytes))).length).toBe(10);
  });

  test('sweeps what killed puts left once it is old, and puts back what a killed removal left', async () => {
    const store = await empty();
    const directory = directoryOf.get(store)!;
    const bytes = bytesOf(100);
    const hash = hashOf(bytes);
    await writeFile(join(directory, 'removing', hash), bytes);
    await writeFile(join(directory, 'incoming', `${hash}.1.00`), bytes.subarray(0, 50));
    await store.sweep();
    expect((await store.read(hash)).equals(bytes)).toBe(true);
    expect(await readdir(join(directory, 'removing'))).toEqual([]);
    expect(await readdir(join(directory, 'incoming'))).toHaveLength(1); // it may be a live put's
  });
});
