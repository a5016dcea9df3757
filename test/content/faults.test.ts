/** What the disk store is after something failed in the middle: an operation of the file system, or the process itself. */
import { createHash } from 'node:crypto';
import nodeFs from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execaNode } from 'execa';
import { afterEach, describe, expect, test } from 'vitest';
import { type DiskContent, type FileSystem, openDiskContent } from '../../src/content/disk.ts';
import type { ContentHash } from '../../src/model/ids.ts';
import { bytesOf, hashOf, streamOf } from '../contract/content.ts';

const directories: string[] = [];
afterEach(async () => {
  for (const directory of directories.splice(0)) await rm(directory, { recursive: true });
});
async function newDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'callboard-content-'));
  directories.push(directory);
  return directory;
}

/** Every name that a reader can find holds exactly what it says. */
async function expectNothingPartial(directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const folder of await readdir(directory)) {
    if (!/^[0-9a-f]{2}$/.test(folder)) continue;
    for (const name of await readdir(join(directory, folder))) {
      const bytes = await readFile(join(directory, folder, name));
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(name);
      found.push(name);
    }
  }
  return found;
}

/**
 * The real file system, whose operation number `failing` (from 1, counted anew by `arm`) fails without being done;
 * `shortBytes` makes reads and writes do less than asked. Counts open handles.
 */
function faulty(failing: number, shortBytes?: number) {
  const state = { operations: 0, failed: '', handles: 0, failing, arm };
  function arm(next: number): void {
    state.operations = 0;
    state.failing = next;
  }
  function attempt(name: string): void {
    if (++state.operations !== state.failing) return;
    state.failed = name;
    throw Object.assign(new Error(`EIO: ${name} failed for this test`), { code: 'EIO' });
  }
  function handleOf(handle: nodeFs.promises.FileHandle) {
    let closed = false;
    return new Proxy(handle, {
      get(target, name: keyof nodeFs.promises.FileHandle) {
        const value = target[name];
        if (typeof value !== 'function') return value;
        return async (...args: unknown[]) => {
          if (name === 'close') {
            if (closed) return;
            closed = true;
            // A close that fails has closed all the same, as the system call has.
            state.handles--;
            await target.close();
            attempt('close');
            return;
          }
          attempt(String(name));
          if (shortBytes && (name === 'read' || name === 'write')) args[2] = Math.min(args[2] as number, shortBytes);
          return (value as (...args: unknown[]) => unknown).apply(target, args);
        };
      },
    });
  }
  const promises = new Proxy(nodeFs.promises, {
    get(target, name: 'open' | 'mkdir' | 'readdir') {
      return async (...args: unknown[]) => {
        attempt(name);
        const result = await (target[name] as (...args: unknown[]) => Promise<unknown>)(...args);
        if (name !== 'open') return result;
        state.handles++;
        return handleOf(result as nodeFs.promises.FileHandle);
      };
    },
  });
  const fs = new Proxy(nodeFs, {
    get(target, name: keyof typeof nodeFs) {
      if (name === 'promises') return promises;
      return (...args: unknown[]) => {
        attempt(name);
        return (target[name] as (...args: unknown[]) => unknown)(...args);
      };
    },
  }) as unknown as FileSystem;
  return { fs, state };
}

const kept = bytesOf(150_000, 1);
const fresh = bytesOf(150_000, 2);
const LONG_AHEAD = new Date(Date.now() + 3600_000);

/** Each on a store that has `kept`; says what must hold after it was answered. */
const deeds: Record<
  string,
  { do: (store: DiskContent) => Promise<unknown>; after: ContentHash[]; gone?: ContentHash }
> = {
  'putting a stream': {
    do: (store) => store.put(hashOf(fresh), streamOf(fresh)),
    after: [hashOf(fresh), hashOf(kept)],
  },
  'putting bytes': { do: (store) => store.put(hashOf(fresh), fresh), after: [hashOf(fresh), hashOf(kept)] },
  'putting what is there as a stream': {
    do: (store) => store.put(hashOf(kept), streamOf(kept)),
    after: [hashOf(kept)],
  },
  'putting what is there as bytes': { do: (store) => store.put(hashOf(kept), kept), after: [hashOf(kept)] },
  reading: { do: (store) => store.read(hashOf(kept)), after: [hashOf(kept)] },
  streaming: {
    do: async (store) => {
      const { stream } = await store.get(hashOf(kept));
      expect(Buffer.concat(await stream.toArray()).equals(kept)).toBe(true);
    },
    after: [hashOf(kept)],
  },
  removing: { do: (store) => store.remove(hashOf(kept), LONG_AHEAD), after: [], gone: hashOf(kept) },
  listing: { do: (store) => Array.fromAsync(store.list()), after: [hashOf(kept)] },
  sweeping: { do: (store) => store.sweep(), after: [hashOf(kept)] },
};

describe('when one operation of the file system after the other fails', () => {
  for (const [name, deed] of Object.entries(deeds)) {
    test(`${name} is done, or says that it is not, and leaves a sound store`, async () => {
      const failures = new Set<string>();
      const directory = await newDirectory();
      const good = await openDiskContent({ directory, fsync: false });
      // Every operation of the first 20, then here and there: a listing looks into 256 folders.
      for (let n = 1; ; n += n < 20 ? 1 : 29) {
        await good.put(hashOf(kept), kept);
        await good.remove(hashOf(fresh), LONG_AHEAD);
        const faults = faulty(Number.POSITIVE_INFINITY);
        const tried = await openDiskContent({ directory, fs: faults.fs, fsync: true });
        faults.state.arm(n);
        const error = await deed.do(tried).then(
          () => undefined,
          (failure: Error) => failure,
        );
        if (faults.state.failed) failures.add(faults.state.failed);
        expect(faults.state.handles).toBe(0);

        const found = await expectNothingPartial(directory);
        const expected = error ? (deed.gone ? [] : [hashOf(kept)]) : deed.after;
        expect(found).toEqual(expect.arrayContaining(expected));
        if (deed.gone && !error) expect(found).not.toContain(deed.gone);

        // Whatever failed, the next try goes well; a removal that was half done is put back first.
        await good.sweep();
        if (error) {
          expect(error.message).toContain('EIO');
          if (deed.gone) await good.put(hashOf(kept), kept);
          await deed.do(await openDiskContent({ directory, fsync: false }));
        }
        if (!faults.state.failed) break;
      }
      expect(failures.size).toBeGreaterThan(0);
    });
  }

  test('opening fails whole, and the next opening succeeds', async () => {
    const directory = await newDirectory();
    for (const n of [1, 2, 100, 260]) {
      await expect(openDiskContent({ directory, fs: faulty(n).fs })).rejects.toThrow('EIO');
    }
    const store = await openDiskContent({ directory });
    await store.put(hashOf(kept), kept);
  });
});

test('writes and reads whole content though the system does less than it is asked', async () => {
  const { fs } = faulty(Number.POSITIVE_INFINITY, 777);
  const store = await openDiskContent({ directory: await newDirectory(), fs, fsync: false });
  await store.put(hashOf(fresh), streamOf(fresh));
  expect((await store.read(hashOf(fresh))).equals(fresh)).toBe(true);
  const { stream } = await store.get(hashOf(fresh), { start: 1000, length: 100_000 });
  expect(Buffer.concat(await stream.toArray()).equals(fresh.subarray(1000, 101_000))).toBe(true);
});

test('a process killed while it puts loses nothing it answered for and leaves nothing partial', {
  timeout: 120_000,
}, async () => {
  const directory = await newDirectory();
  const answered: string[] = [];
  let midPut = 0;
  for (let round = 0; round < 10; round++) {
    const putter = execaNode(join(import.meta.dirname, 'fixtures/putter.ts'), [directory], {
      reject: false,
      lines: true,
      nodePath: process.execPath,
    });
    const wanted = 1 + Math.floor(Math.random() * 25);
    let seen = 0;
    for await (const line of putter) {
      if (line.startsWith('kept')) answered.push(line.slice(5));
      // A random number of puts in, at a random moment of the next one.
      else if (++seen === wanted) setTimeout(() => putter.kill('SIGKILL'), Math.random() * 5);
    }
    const { stdout } = await putter;
    if (stdout.at(-1)?.startsWith('begin')) midPut++;
    const found = new Set(await expectNothingPartial(directory));
    for (const hash of answered) expect(found.has(hash)).toBe(true);
  }
  expect(answered.length).toBeGreaterThan(0);
  expect(midPut).toBeGreaterThan(0);
});
