/**
 * The content store on a file system. What it keeps to:
 *
 * - **Complete or absent.** Bytes are written to `incoming/`, hashed as they pass, flushed, and renamed to
 *   `<2 hex>/<64 hex>`; the folder is flushed before `put` answers. A process killed at any point leaves at most a file in
 *   `incoming/`, which no reader looks at and the next `sweep` removes.
 * - **Checked before served.** A file is read and hashed before its first byte leaves, and the check is remembered by what
 *   the file system says of the file (device, inode, size, mtime, ctime in nanoseconds). Whatever changes the file changes
 *   that, and the next reader checks again; a reader that was under way checks before it lets the last piece go. Damage that
 *   the file system does not see (bit rot) is found by `scrub`. Damaged files go to `quarantine/`, never to a reader.
 * - **Removal can be taken back.** `remove` first moves the file to `removing/` and looks at its age there: a `put` that
 *   renewed it in between wins. What a killed process left in `removing/` is put back by `sweep`; the collector decides anew.
 *
 * Several processes may share the directory. Nothing is held in memory whole but small content, in a bounded cache.
 */
import { createHash, randomBytes } from 'node:crypto';
import nodeFs, { type BigIntStats } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { CallboardError } from '../model/errors.ts';
import type { ContentHash } from '../model/ids.ts';
import {
  CONTENT_BYTES_MAX,
  CONTENT_MEMORY_BYTES_MAX,
  CONTENT_MEMORY_ITEM_BYTES_MAX,
  CONTENT_QUARANTINE_TIME_MS,
  CONTENT_VERIFIED_MAX,
} from '../model/limits.ts';
import type { ContentStore } from './content.ts';

/** The part of `node:fs` that the store uses; tests hand in one that fails. */
export type FileSystem = Pick<
  typeof nodeFs,
  'statSync' | 'lstatSync' | 'renameSync' | 'utimesSync' | 'linkSync' | 'unlinkSync' | 'promises'
>;

export interface DiskContentOptions {
  /** Made when it is not there. All that the store keeps lies inside. */
  directory: string;
  /** Whether `put` waits until the disk has the bytes and the name. Without it a power cut (not a kill) may lose them. */
  fsync?: boolean;
  bytesMax?: number;
  memoryBytesMax?: number;
  fs?: FileSystem;
}

export interface OpenContent {
  size: number;
  /** Its bytes, or a part of them; closes the file at the end. **A piece is valid only until the next one is asked for.** */
  pieces(range?: { start: number; length: number }): AsyncGenerator<Buffer, void, undefined>;
  /** For who opened it and does not ask for pieces. */
  close(): Promise<void>;
}

export interface DiskContent extends ContentStore {
  /** Content that a reader gets at once from memory, and whose file is still the one that was checked; else undefined. */
  readHot(hash: ContentHash): Buffer | undefined;
  /** A checked file to send from. Throws CONTENT_NOT_FOUND, CONTENT_CORRUPT. */
  open(hash: ContentHash): Promise<OpenContent>;
  /** Puts back what a killed removal left, removes what killed puts left (older than a day) and old quarantine. */
  sweep(): Promise<void>;
  /** Reads and checks one file anew, whatever is remembered. A damaged one is in quarantine then. */
  scrub(hash: ContentHash): Promise<'sound' | 'damaged' | 'absent'>;
}

/**
 * One read of a transfer. Over TLS, in CPU time per 100 MB: 64 KiB 170 ms, 128 KiB 150 ms, 256 KiB 105 ms, 384 to 512 KiB 75 ms
 * (nginx 80 ms), 1 MiB 115 ms: each read is a hop to the thread pool of some 50 µs, and 1 MiB no longer fits a core's cache.
 */
const PIECE_BYTES = 448 * 1024;
const LARGE_BUFFERS_MAX = 64;
const HERD_PIECE_BYTES = 64 * 1024;
const FREE_BUFFERS_MAX = 16;
/** One read of a check: large enough for few thread hops, small enough that hashing it takes under a millisecond. */
const CHECK_BYTES = 512 * 1024;
/**
 * How long content is given from memory before its file is looked at again. What is in memory was checked and is right
 * whatever became of the file; a look only finds out early that the file needs mending. In a herd it would cost 15 %.
 */
const LOOK_AGAIN_MS = 20;
/** Several ticks of any kernel's coarse clock (1 to 10 ms). */
const SETTLED_MS = 50;
const INCOMING_TIME_MS = 24 * 3600_000;
const NAME = /^[0-9a-f]{64}$/;

export async function openDiskContent(options: DiskContentOptions): Promise<DiskContent> {
  const fs = options.fs ?? nodeFs;
  const { directory, fsync = true, bytesMax = CONTENT_BYTES_MAX } = options;
  const incoming = join(directory, 'incoming');
  const removing = join(directory, 'removing');
  const quarantine = join(directory, 'quarantine');
  const buffers = new Buffers();
  const hot = new Hot(options.memoryBytesMax ?? CONTENT_MEMORY_BYTES_MAX);
  /** Signature of each file as it was when its bytes were checked. The oldest are forgotten first: they are checked again. */
  const verified = new Map<ContentHash, string>();
  const checks = new Map<ContentHash, Promise<boolean>>();

  for (const folder of [directory, incoming, removing, quarantine, ...shards(directory)]) {
    await fs.promises.mkdir(folder, { recursive: true, mode: 0o700 });
  }
  if (fsync) await flushFolder(directory);

  const fileOf = (hash: ContentHash) => `${directory}/${hash.slice(0, 2)}/${hash}`;
  const statOf = (path: string): BigIntStats | undefined => {
    const stat = fs.statSync(path, { bigint: true, throwIfNoEntry: false });
    return stat?.isFile() ? stat : undefined;
  };

  async function flushFolder(folder: string): Promise<void> {
    const handle = await fs.promises.open(folder, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  function remember(hash: ContentHash, signature: string): void {
    verified.delete(hash);
    verified.set(hash, signature);
    if (verified.size > CONTENT_VERIFIED_MAX) verified.delete(verified.keys().next().value!);
  }

  function forget(hash: ContentHash): void {
    verified.delete(hash);
    hot.delete(hash);
  }

  /** Renews the age of a file that is kept. False: there is none. A check that held for it holds on. */
  function renew(hash: ContentHash): boolean {
    const path = fileOf(hash);
    // One turn of the event loop from the look to the new signature, so nothing of ours comes in between.
    const before = statOf(path);
    if (!before) return false;
    const now = new Date();
    try {
      fs.utimesSync(path, now, now);
    } catch (error) {
      if (isAbsent(error)) return false;
      throw error;
    }
    const after = statOf(path);
    if (!after) return false;
    if (verified.get(hash) === signatureOf(before) && after.ino === before.ino && after.size === before.size) {
      remember(hash, signatureOf(after));
      hot.renew(hash, signatureOf(after));
    }
    return true;
  }

  async function write(hash: ContentHash, bytes: Readable | Buffer): Promise<{ size: number; existed: boolean }> {
    const path = join(incoming, `${hash}.${process.pid}.${randomBytes(8).toString('hex')}`);
    const handle = await fs.promises.open(path, 'wx', 0o600);
    try {
      const sha = createHash('sha256');
      let size = 0;
      try {
        for await (const piece of Buffer.isBuffer(bytes) ? [bytes] : bytes) {
          size += piece.length;
          if (size > bytesMax) throw new CallboardError('BODY_TOO_LARGE', { max: bytesMax });
          sha.update(piece);
          await writeWhole(handle, piece);
        }
        const actual = sha.digest('hex');
        if (actual !== hash) throw new CallboardError('CONTENT_MISMATCH', { actual, expected: hash });
        if (fsync) await handle.datasync();
      } finally {
        await handle.close();
      }
      const existed = statOf(fileOf(hash)) !== undefined;
      fs.renameSync(path, fileOf(hash));
      if (fsync) await flushFolder(`${directory}/${hash.slice(0, 2)}`);
      return { size, existed };
    } catch (error) {
      try {
        fs.unlinkSync(path);
      } catch {
        // It was renamed, or `sweep` removes it.
      }
      throw error;
    }
  }

  /** Whether the open file holds what its name says, from what is remembered or from its bytes. Damaged: it is put aside. */
  async function check(hash: ContentHash, handle: FileHandle, stat: BigIntStats): Promise<boolean> {
    if (verified.get(hash) === signatureOf(stat)) return true;
    const key = `${hash} ${stat.ino}` as ContentHash;
    let running = checks.get(key);
    if (!running) {
      running = checkBytes(hash, handle, stat).finally(() => checks.delete(key));
      checks.set(key, running);
    }
    return running;
  }

  async function checkBytes(hash: ContentHash, handle: FileHandle, stat: BigIntStats): Promise<boolean> {
    const sha = createHash('sha256');
    const buffer = Buffer.allocUnsafeSlow(Math.max(1, Math.min(CHECK_BYTES, Number(stat.size))));
    let offset = 0;
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, offset);
      if (bytesRead === 0) break;
      sha.update(buffer.subarray(0, bytesRead));
      offset += bytesRead;
    }
    if (sha.digest('hex') === hash) {
      // Only what was true before and after the reading is remembered, and only of a file that had settled: kernels before
      // 6.13 count ctime in ticks, so a change within the tick of the last one would not show.
      const after = await handle.stat({ bigint: true });
      const settled = Date.now() - Number(after.ctimeMs) > SETTLED_MS;
      if (settled && signatureOf(after) === signatureOf(stat)) remember(hash, signatureOf(stat));
      return true;
    }
    putAside(hash, stat);
    return false;
  }

  function putAside(hash: ContentHash, stat: BigIntStats): void {
    forget(hash);
    const now = statOf(fileOf(hash));
    // Somebody may have put the content anew while the damaged file was read.
    if (now?.ino === stat.ino && now.dev === stat.dev) {
      fs.renameSync(fileOf(hash), join(quarantine, `${hash}.${Date.now()}.${randomBytes(4).toString('hex')}`));
    }
  }

  async function open(hash: ContentHash): Promise<{ handle: FileHandle; stat: BigIntStats }> {
    let handle: FileHandle;
    try {
      handle = await fs.promises.open(fileOf(hash), 'r');
    } catch (error) {
      if (isAbsent(error)) throw new CallboardError('CONTENT_NOT_FOUND', { hash });
      throw error;
    }
    try {
      const stat = await handle.stat({ bigint: true });
      if (!(await check(hash, handle, stat))) throw new CallboardError('CONTENT_CORRUPT', { hash });
      return { handle, stat };
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Whether the content is kept and right; damaged content is put aside. */
  async function isSound(hash: ContentHash): Promise<boolean> {
    const stat = statOf(fileOf(hash));
    if (!stat) return false;
    if (verified.get(hash) === signatureOf(stat)) return true;
    try {
      const { handle } = await open(hash);
      await handle.close();
      return true;
    } catch (error) {
      if (error instanceof CallboardError) return false;
      throw error;
    }
  }

  /** Whole small content, from memory or from the file, checked. */
  async function small(hash: ContentHash, handle: FileHandle, stat: BigIntStats): Promise<Buffer> {
    const bytes = Buffer.allocUnsafeSlow(Number(stat.size));
    const got = await readWhole(handle, bytes, 0);
    // What is handed out is what was hashed, even if the file changed after it was checked.
    if (got !== bytes.length || createHash('sha256').update(bytes).digest('hex') !== hash) {
      putAside(hash, stat);
      throw new CallboardError('CONTENT_CORRUPT', { hash });
    }
    return bytes;
  }

  function readHot(hash: ContentHash): Buffer | undefined {
    const entry = hot.get(hash);
    if (!entry) return undefined;
    const now = Date.now();
    if (now - entry.lookedAt < LOOK_AGAIN_MS) return entry.bytes;
    // On this thread, where it costs some 4 µs; by the thread pool it would cost 50. The name was looked up moments ago.
    const stat = statOf(fileOf(hash));
    if (stat && signatureOf(stat) === entry.signature) {
      entry.lookedAt = now;
      return entry.bytes;
    }
    hot.delete(hash);
    return undefined;
  }

  return {
    readHot,

    async put(hash, bytes) {
      if (Buffer.isBuffer(bytes)) {
        if (bytes.length > bytesMax) throw new CallboardError('BODY_TOO_LARGE', { max: bytesMax });
        const actual = createHash('sha256').update(bytes).digest('hex');
        if (actual !== hash) throw new CallboardError('CONTENT_MISMATCH', { actual, expected: hash });
        if ((await isSound(hash)) && renew(hash)) return { size: bytes.length, existed: true };
      }
      // Bytes that stream in are always written: only at their end is it known that they are the right ones, and then a
      // rename both renews the age and heals a damaged file.
      const written = await write(hash, bytes);
      forget(hash);
      return written;
    },

    async get(hash, range) {
      const bytes = readHot(hash);
      if (bytes) {
        checkRange(bytes.length, range);
        const part = range ? bytes.subarray(range.start, range.start + range.length) : bytes;
        return { size: bytes.length, stream: Readable.from(part.length ? [part] : [], { objectMode: false }) };
      }
      const { handle, stat } = await open(hash);
      try {
        const size = Number(stat.size);
        checkRange(size, range);
        const source = pieces(hash, handle, stat, range ?? { start: 0, length: size });
        const stream = Readable.from(copies(source), { objectMode: false });
        // A generator that was never asked for its first piece does not reach its `finally`.
        stream.once('close', () => handle.close().catch(() => {}));
        return { size, stream };
      } catch (error) {
        await handle.close();
        throw error;
      }
    },

    async open(hash) {
      const { handle, stat } = await open(hash);
      const size = Number(stat.size);
      return {
        size,
        pieces: (range) => pieces(hash, handle, stat, range ?? { start: 0, length: size }),
        close: () => handle.close(),
      };
    },

    async read(hash) {
      const bytes = readHot(hash);
      if (bytes) return bytes;
      const { handle, stat } = await open(hash);
      try {
        const whole = await small(hash, handle, stat);
        const signature = signatureOf(stat);
        if (whole.length <= CONTENT_MEMORY_ITEM_BYTES_MAX && verified.get(hash) === signature) {
          hot.set(hash, { bytes: whole, signature, lookedAt: Date.now() });
        }
        return whole;
      } finally {
        await handle.close();
      }
    },

    async size(hash) {
      const stat = statOf(fileOf(hash));
      return stat && Number(stat.size);
    },

    async missing(hashes) {
      const absent: ContentHash[] = [];
      let looked = 0;
      for (const hash of hashes) {
        if (!statOf(fileOf(hash))) absent.push(hash);
        // 500 looks take about a millisecond; then others have a turn.
        if (++looked % 500 === 0) await new Promise((turn) => setImmediate(turn));
      }
      return absent;
    },

    async *list() {
      for (const shard of shards(directory)) {
        for (const name of await fs.promises.readdir(shard)) {
          if (!NAME.test(name)) continue;
          const stat = statOf(join(shard, name));
          if (!stat) continue;
          yield { hash: name as ContentHash, size: Number(stat.size), modifiedAt: new Date(Number(stat.mtimeMs)) };
        }
      }
    },

    async remove(hash, unlessAfter) {
      const aside = join(removing, hash);
      const before = statOf(fileOf(hash));
      if (!before || isYounger(before, unlessAfter)) return false;
      try {
        fs.renameSync(fileOf(hash), aside);
      } catch (error) {
        if (isAbsent(error)) return false;
        throw error;
      }
      forget(hash);
      const stat = statOf(aside);
      if (stat && isYounger(stat, unlessAfter)) {
        putBack(aside, hash);
        return false;
      }
      fs.unlinkSync(aside);
      return true;
    },

    async scrub(hash) {
      let handle: FileHandle;
      try {
        handle = await fs.promises.open(fileOf(hash), 'r');
      } catch (error) {
        if (isAbsent(error)) return 'absent';
        throw error;
      }
      try {
        const stat = await handle.stat({ bigint: true });
        return (await checkBytes(hash, handle, stat)) ? 'sound' : 'damaged';
      } finally {
        await handle.close();
      }
    },

    async sweep() {
      for (const name of await fs.promises.readdir(removing)) {
        if (NAME.test(name)) putBack(join(removing, name), name as ContentHash);
      }
      for (const [folder, timeMs] of [
        [incoming, INCOMING_TIME_MS],
        [quarantine, CONTENT_QUARANTINE_TIME_MS],
      ] as const) {
        for (const name of await fs.promises.readdir(folder)) {
          const stat = statOf(join(folder, name));
          // ctime: a rename into quarantine sets it, while the damaged file's mtime may be old.
          if (stat && Date.now() - Number(stat.ctimeMs) > timeMs) fs.unlinkSync(join(folder, name));
        }
      }
    },
  };

  function putBack(aside: string, hash: ContentHash): void {
    try {
      fs.linkSync(aside, fileOf(hash));
    } catch (error) {
      // There: it was put anew. Absent: another process put it back.
      if (!['EEXIST', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    }
    try {
      fs.unlinkSync(aside);
    } catch (error) {
      if (!isAbsent(error)) throw error;
    }
  }

  /**
   * The bytes of a checked, open file, piece by piece; closes it at the end. A piece lies in a buffer that the next one uses
   * again: fresh buffers of this size cost a page fault every 4 KiB, which took a third of the CPU time of a transfer.
   */
  async function* pieces(
    hash: ContentHash,
    handle: FileHandle,
    stat: BigIntStats,
    range: { start: number; length: number },
  ): AsyncGenerator<Buffer, void, undefined> {
    const buffer = buffers.take();
    let offset = range.start;
    const end = range.start + range.length;
    try {
      while (offset < end) {
        const length = Math.min(buffer.length, end - offset);
        const piece = length === buffer.length ? buffer : buffer.subarray(0, length);
        const got = await readWhole(handle, piece, offset);
        offset += got;
        if (got < length || offset === end) {
          // A change under way is noticed before the last piece leaves, so that no asker ends up with a whole wrong answer.
          const now = await handle.stat({ bigint: true });
          const sound = signatureOf(now) === signatureOf(stat) || (await check(hash, handle, now));
          if (!sound || got < length) throw new CallboardError('CONTENT_CORRUPT', { hash });
        }
        yield piece;
      }
    } finally {
      buffers.giveBack(buffer);
      await handle.close();
    }
  }
}

/** Buffers that transfers read into. A herd of large transfers gets small ones, so that memory stays bounded. */
class Buffers {
  readonly #free: Buffer[] = [];
  #large = 0;

  take(): Buffer {
    if (this.#large >= LARGE_BUFFERS_MAX) return Buffer.allocUnsafeSlow(HERD_PIECE_BYTES);
    this.#large++;
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(PIECE_BYTES);
  }

  giveBack(buffer: Buffer): void {
    if (buffer.length !== PIECE_BYTES) return;
    this.#large--;
    if (this.#free.length < FREE_BUFFERS_MAX) this.#free.push(buffer);
  }
}

/** Small content in memory, the least recently used going first. */
class Hot {
  readonly #bytesMax: number;
  readonly #entries = new Map<ContentHash, { bytes: Buffer; signature: string; lookedAt: number }>();
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get(hash: ContentHash): { bytes: Buffer; signature: string; lookedAt: number } | undefined {
    const entry = this.#entries.get(hash);
    if (!entry) return undefined;
    this.#entries.delete(hash);
    this.#entries.set(hash, entry);
    return entry;
  }

  set(hash: ContentHash, entry: { bytes: Buffer; signature: string; lookedAt: number }): void {
    this.delete(hash);
    if (entry.bytes.length > this.#bytesMax) return;
    this.#entries.set(hash, entry);
    this.#bytes += entry.bytes.length;
    for (const oldest of this.#entries.keys()) {
      if (this.#bytes <= this.#bytesMax) break;
      this.delete(oldest);
    }
  }

  renew(hash: ContentHash, signature: string): void {
    const entry = this.#entries.get(hash);
    if (entry) entry.signature = signature;
  }

  delete(hash: ContentHash): void {
    const entry = this.#entries.get(hash);
    if (!entry) return;
    this.#entries.delete(hash);
    this.#bytes -= entry.bytes.length;
  }
}

function signatureOf(stat: BigIntStats): string {
  return `${stat.dev} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`;
}

function isYounger(stat: BigIntStats, than: Date): boolean {
  return Number(stat.mtimeMs) > than.getTime();
}

function shards(directory: string): string[] {
  return Array.from({ length: 256 }, (_, n) => join(directory, n.toString(16).padStart(2, '0')));
}

function checkRange(size: number, range: { start: number; length: number } | undefined): void {
  if (range && (range.start < 0 || range.length < 0 || range.start + range.length > size)) {
    throw new CallboardError('RANGE_INVALID', { size });
  }
}

function isAbsent(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT';
}

async function* copies(pieces: AsyncGenerator<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  for await (const piece of pieces) yield Buffer.from(piece);
}

async function writeWhole(handle: FileHandle, bytes: Buffer): Promise<void> {
  let offset = 0;
  while (offset < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, offset, bytes.length - offset);
    offset += bytesWritten;
  }
}

/** Fills `bytes` from `position` on; fewer only at the end of the file. */
async function readWhole(handle: FileHandle, bytes: Buffer, position: number): Promise<number> {
  let got = 0;
  while (got < bytes.length) {
    const { bytesRead } = await handle.read(bytes, got, bytes.length - got, position + got);
    if (bytesRead === 0) break;
    got += bytesRead;
  }
  return got;
}
