/**
 * The pointers of nodes in memory, so that a node that asks whether there is anything new costs no query.
 *
 * What is remembered is never older than the last notification: `forget` is called when a move was committed, and drops
 * what is remembered *and* marks the reads under way, whose answer may be from before the move; such an answer is still
 * given to those who asked before, but not kept, and whoever asks later starts a read of its own. While nobody listens for
 * notifications nothing is kept and nothing remembered is used; after a gap all is forgotten.
 *
 * Reads are gathered: while one statement is under way, all that are asked for meanwhile wait for the next one, so that a
 * herd of 10,000 nodes costs tens of statements.
 */
import type { CatalogHash, CodeVersionHash } from '../model/ids.ts';
import { POINTER_CACHED_TIME_MAX_MS, POINTERS_CACHED_MAX, POINTERS_READ_AT_ONCE_MAX } from '../model/limits.ts';

/** A node's pointer as it is served. */
export interface ReleasedPointer {
  catalog: CatalogHash;
  codeVersion: CodeVersionHash;
  /** The hash of the plugin tree. */
  plugins: string;
  runMode: 'do' | 'noop';
  /** `"<catalog>.<plugins>.<run mode>"`, quotes included. */
  etag: string;
  /** All of this as the headers of an answer, made once. */
  headers: Readonly<Record<string, string>>;
  /** The oldest open wish that the node run. */
  request: { id: string; mode: 'noop' | 'do' | 'policy'; expiresAtMs: number } | undefined;
}

export interface PointerCache {
  /** Without a query, or undefined where one is needed. */
  remembered(certname: string): ReleasedPointer | undefined;
  /** Remembered, or read. Undefined for a node without a released catalog, which is never remembered. */
  get(certname: string): Promise<ReleasedPointer | undefined>;
  /** Drops one node's, or all. */
  forget(certname?: string): void;
  readonly size: number;
}

export interface PointerCacheDeps {
  /** One statement; nodes without a pointer are left out. */
  read(certnames: string[]): Promise<Map<string, ReleasedPointer>>;
  /** Whether notifications are arriving now. */
  isListening(): boolean;
  now?: () => number;
}

interface Read {
  certname: string;
  answer: Promise<ReleasedPointer | undefined>;
  settle(pointer: ReleasedPointer | undefined): void;
  fail(error: unknown): void;
  /** The statement went out: a move committed from now on may be missing in its answer. */
  isUnderWay: boolean;
  mayBeKept: boolean;
}

export function pointerCache({ read, isListening, now = Date.now }: PointerCacheDeps): PointerCache {
  const kept = new Map<string, { pointer: ReleasedPointer; until: number }>();
  const reads = new Map<string, Read>();
  let waiting: Read[] = [];
  let isReading = false;

  function remembered(certname: string): ReleasedPointer | undefined {
    const entry = kept.get(certname);
    if (entry === undefined || !isListening()) return undefined;
    if (now() < entry.until) return entry.pointer;
    kept.delete(certname);
    return undefined;
  }

  function get(certname: string): Promise<ReleasedPointer | undefined> {
    const pointer = remembered(certname);
    if (pointer) return Promise.resolve(pointer);
    const current = reads.get(certname);
    if (current && (!current.isUnderWay || current.mayBeKept)) return current.answer;
    const { promise, resolve, reject } = Promise.withResolvers<ReleasedPointer | undefined>();
    const started: Read = {
      certname,
      answer: promise,
      settle: resolve,
      fail: reject,
      isUnderWay: false,
      mayBeKept: false,
    };
    reads.set(certname, started);
    waiting.push(started);
    if (!isReading) void readWaiting();
    return promise;
  }

  async function readWaiting(): Promise<void> {
    isReading = true;
    // One turn of the event loop: those who ask in the same turn share the first statement.
    await Promise.resolve();
    while (waiting.length > 0) {
      const batch = waiting.slice(0, POINTERS_READ_AT_ONCE_MAX);
      waiting = waiting.slice(POINTERS_READ_AT_ONCE_MAX);
      for (const each of batch) {
        each.isUnderWay = true;
        each.mayBeKept = isListening();
      }
      try {
        const found = await read(batch.map(({ certname }) => certname));
        for (const each of batch) {
          const pointer = found.get(each.certname);
          if (pointer && each.mayBeKept && isListening()) keep(each.certname, pointer);
          end(each);
          each.settle(pointer);
        }
      } catch (error) {
        for (const each of batch) {
          end(each);
          each.fail(error);
        }
      }
    }
    isReading = false;
  }

  function end(finished: Read): void {
    if (reads.get(finished.certname) === finished) reads.delete(finished.certname);
  }

  function keep(certname: string, pointer: ReleasedPointer): void {
    if (kept.size >= POINTERS_CACHED_MAX) {
      const [oldest] = kept.keys();
      kept.delete(oldest!);
    }
    const until = Math.min(now() + POINTER_CACHED_TIME_MAX_MS, pointer.request?.expiresAtMs ?? Infinity);
    kept.set(certname, { pointer, until });
  }

  function forget(certname?: string): void {
    if (certname === undefined) {
      kept.clear();
      for (const each of reads.values()) each.mayBeKept = false;
      return;
    }
    kept.delete(certname);
    const current = reads.get(certname);
    if (current) current.mayBeKept = false;
  }

  return {
    remembered,
    get,
    forget,
    get size() {
      return kept.size;
    },
  };
}
