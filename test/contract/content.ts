/**
 * What every back end of the content store must hold to. An implementation's own test hands in how to make an empty store
 * and how to damage what it keeps, and proves itself with this suite.
 */
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import fc from 'fast-check';
import { beforeEach, expect, test } from 'vitest';
import type { ContentStore } from '../../src/content/content.ts';
import type { ContentHash } from '../../src/model/ids.ts';

export interface ContentContract {
  empty: () => Promise<ContentStore>;
  /** Changes the kept bytes behind the store's back. */
  damage: (store: ContentStore, hash: ContentHash, how: 'flip a byte' | 'cut the end' | 'add a byte') => Promise<void>;
  /** Makes the kept bytes look as if they were last put at this time. */
  age: (store: ContentStore, hash: ContentHash, putAt: Date) => Promise<void>;
}

export function hashOf(bytes: Buffer): ContentHash {
  return createHash('sha256').update(bytes).digest('hex') as ContentHash;
}

/** Bytes in pieces as a network gives them. */
export function streamOf(bytes: Buffer, pieceBytes = 7000): Readable {
  const pieces = Array.from({ length: Math.ceil(bytes.length / pieceBytes) }, (_, n) =>
    bytes.subarray(n * pieceBytes, (n + 1) * pieceBytes),
  );
  return Readable.from(pieces, { objectMode: false });
}

/** Bytes that no two positions of share a pattern, so that a wrong range shows. */
export function bytesOf(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let n = 0; n < length; n++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[n] = state >>> 24;
  }
  return bytes;
}

const LARGE = 1_500_001; // several pieces of any back end's reads, and no round number

export function contentContract({ empty, damage, age }: ContentContract): void {
  let store: ContentStore;
  beforeEach(async () => {
    store = await empty();
  });

  async function wholeOf(hash: ContentHash, range?: { start: number; length: number }): Promise<Buffer> {
    return buffer((await store.get(hash, range)).stream);
  }

  test('gives back what was put, from a stream or from memory, empty or large', async () => {
    for (const length of [0, 1, 1023, 65_536, LARGE]) {
      for (const from of [streamOf, (bytes: Buffer) => bytes]) {
        const bytes = bytesOf(length, length + from.length);
        const hash = hashOf(bytes);
        await store.put(hash, from(bytes));
        expect(await store.size(hash)).toBe(length);
        expect((await wholeOf(hash)).equals(bytes)).toBe(true);
        expect((await store.read(hash)).equals(bytes)).toBe(true);
      }
    }
  });

  test('says whether the content was there before, and keeps it once', async () => {
    const bytes = bytesOf(1000);
    expect(await store.put(hashOf(bytes), bytes)).toEqual({ size: 1000, existed: false });
    expect(await store.put(hashOf(bytes), streamOf(bytes))).toEqual({ size: 1000, existed: true });
    expect(await store.put(hashOf(bytes), bytes)).toEqual({ size: 1000, existed: true });
    const listed = await Array.fromAsync(store.list());
    expect(listed.map(({ hash, size }) => ({ hash, size }))).toEqual([{ hash: hashOf(bytes), size: 1000 }]);
  });

  test('refuses bytes that are not what the name says, and keeps nothing of them', async () => {
    const hash = hashOf(Buffer.from('right'));
    for (const wrong of [Buffer.from('wrong'), Buffer.alloc(0), Buffer.from('right and more')]) {
      await expect(store.put(hash, wrong)).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
      await expect(store.put(hash, streamOf(wrong, 3))).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
    }
    expect(await store.size(hash)).toBeUndefined();
    expect(await store.missing([hash])).toEqual([hash]);
    expect(await Array.fromAsync(store.list())).toEqual([]);
  });

  test('keeps nothing of a stream that breaks off', async () => {
    const bytes = bytesOf(100_000);
    const broken = Readable.from(
      (async function* () {
        yield bytes.subarray(0, 50_000);
        throw new Error('the network went away');
      })(),
      { objectMode: false },
    );
    await expect(store.put(hashOf(bytes), broken)).rejects.toThrow('the network went away');
    expect(await Array.fromAsync(store.list())).toEqual([]);
  });

  test('knows nothing of content that was never put', async () => {
    const hash = hashOf(Buffer.from('nobody put this'));
    await expect(store.get(hash)).rejects.toMatchObject({ code: 'CONTENT_NOT_FOUND' });
    await expect(store.read(hash)).rejects.toMatchObject({ code: 'CONTENT_NOT_FOUND' });
    expect(await store.size(hash)).toBeUndefined();
    expect(await store.remove(hash, new Date())).toBe(false);
  });

  test('gives any range of any content, and refuses one that reaches outside', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(1, 100, 300_000, LARGE).chain((size) =>
          fc.tuple(
            fc.constant(size),
            fc.nat(size).chain((start) => fc.tuple(fc.constant(start), fc.nat(size - start))),
          ),
        ),
        async ([size, [start, length]]) => {
          const bytes = bytesOf(size);
          await store.put(hashOf(bytes), bytes);
          const part = await wholeOf(hashOf(bytes), { start, length });
          expect(part.equals(bytes.subarray(start, start + length))).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
    const hash = hashOf(bytesOf(100));
    await store.put(hash, bytesOf(100));
    for (const range of [
      { start: 0, length: 101 },
      { start: 101, length: 0 },
      { start: -1, length: 1 },
    ]) {
      await expect(store.get(hash, range)).rejects.toMatchObject({ code: 'RANGE_INVALID' });
    }
  });

  test('names exactly what is missing', async () => {
    const kept = Array.from({ length: 1200 }, (_, n) => Buffer.from(`kept ${n}`));
    for (const bytes of kept.slice(0, 50)) await store.put(hashOf(bytes), bytes);
    const missing = await store.missing(kept.map(hashOf));
    expect(new Set(missing)).toEqual(new Set(kept.slice(50).map(hashOf)));
  });

  for (const how of ['flip a byte', 'cut the end', 'add a byte'] as const) {
    for (const size of [1000, LARGE]) {
      for (const moment of ['before it was ever read', 'after it was read'] as const) {
        test(`never gives damaged content (${how} of ${size}, ${moment}), and a new put heals it`, async () => {
          const bytes = bytesOf(size);
          const hash = hashOf(bytes);
          await store.put(hash, bytes);
          if (moment === 'after it was read') {
            await wholeOf(hash);
            await store.read(hash);
          }
          await damage(store, hash, how);
          await expect(wholeOf(hash)).rejects.toMatchObject({ code: 'CONTENT_CORRUPT' });
          expect(await store.missing([hash])).toEqual([hash]);
          await expect(store.read(hash)).rejects.toMatchObject({ code: 'CONTENT_NOT_FOUND' });
          await store.put(hash, streamOf(bytes));
          expect((await wholeOf(hash)).equals(bytes)).toBe(true);
        });

        test(`heals damaged content by a put that nobody's read preceded (${how} of ${size}, ${moment})`, async () => {
          const bytes = bytesOf(size);
          const hash = hashOf(bytes);
          await store.put(hash, bytes);
          if (moment === 'after it was read') await store.read(hash);
          await damage(store, hash, how);
          await store.put(hash, bytes);
          expect((await store.read(hash)).equals(bytes)).toBe(true);
        });
      }
    }
  }

  test('removes what is old and spares what was put again since', async () => {
    const bytes = bytesOf(5000);
    const hash = hashOf(bytes);
    const longAgo = new Date(Date.now() - 10 * 3600_000);
    const hourAgo = new Date(Date.now() - 3600_000);
    await store.put(hash, bytes);
    expect(await store.remove(hash, hourAgo)).toBe(false);
    for (const again of [bytes, streamOf(bytes)]) {
      await store.read(hash);
      await age(store, hash, longAgo);
      await store.put(hash, again);
      expect(await store.remove(hash, hourAgo)).toBe(false);
      expect((await store.read(hash)).equals(bytes)).toBe(true);
    }
    await age(store, hash, longAgo);
    expect(await store.remove(hash, hourAgo)).toBe(true);
    expect(await store.remove(hash, hourAgo)).toBe(false);
    await expect(store.get(hash)).rejects.toMatchObject({ code: 'CONTENT_NOT_FOUND' });
  });

  test('takes many puts, gets and removals of the same content at once', async () => {
    const bytes = bytesOf(300_000);
    const hash = hashOf(bytes);
    const outcomes = await Promise.all(
      Array.from({ length: 60 }, async (_, n) => {
        if (n % 3 === 0) return (await store.put(hash, n % 2 ? bytes : streamOf(bytes))).size === bytes.length;
        if (n % 3 === 1) {
          const got = await wholeOf(hash).catch((error) => error.code);
          return got === 'CONTENT_NOT_FOUND' || (got as Buffer).equals?.(bytes) === true;
        }
        await store.remove(hash, new Date(Date.now() + 60_000));
        return true;
      }),
    );
    expect(outcomes.every(Boolean)).toBe(true);
    await store.put(hash, bytes);
    expect((await wholeOf(hash)).equals(bytes)).toBe(true);
  });
}
