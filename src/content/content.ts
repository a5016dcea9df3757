/**
 * The content store: bytes by their SHA-256, whatever keeps them. Every back end passes `test/contract/content.ts`.
 *
 * - `put` checks the hash while it streams and makes the bytes visible at once or not at all. Putting what is there already
 *   renews its age, so that the collector, which spares the young, spares it too.
 * - `get` never gives damaged bytes: it puts them aside and throws CONTENT_CORRUPT.
 */
import type { Readable } from 'node:stream';
import type { ContentHash } from '../model/ids.ts';

export interface ContentStore {
  put(hash: ContentHash, bytes: Readable | Buffer): Promise<{ size: number; existed: boolean }>;
  /** The whole content, or `length` bytes from `start`. Throws CONTENT_NOT_FOUND, CONTENT_CORRUPT, RANGE_INVALID. */
  get(hash: ContentHash, range?: { start: number; length: number }): Promise<{ size: number; stream: Readable }>;
  /** Small content at once. */
  read(hash: ContentHash): Promise<Buffer>;
  /** Its size in bytes, or undefined where it is not kept. */
  size(hash: ContentHash): Promise<number | undefined>;
  /** Those of `hashes` that are not kept. */
  missing(hashes: Iterable<ContentHash>): Promise<ContentHash[]>;
  list(): AsyncIterable<{ hash: ContentHash; size: number; modifiedAt: Date }>;
  /** Removes content unless it was put again since `unlessAfter`. */
  remove(hash: ContentHash, unlessAfter: Date): Promise<boolean>;
}
