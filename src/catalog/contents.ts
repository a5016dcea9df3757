/** Texts of stored content for a comparison, within its limits. */
import { CallboardError } from '../model/errors.ts';
import type { ContentHash } from '../model/ids.ts';
import { DIFF_CONTENT_BYTES_MAX, DIFF_CONTENTS_MAX, DIFF_TEXT_BYTES_MAX } from '../model/limits.ts';
import type { Contents } from './diff.ts';

/** The content store, as far as texts are compared. */
export interface StoredContent {
  size(hash: ContentHash): Promise<number | undefined>;
  read(hash: ContentHash): Promise<Buffer>;
}

/** Small content whole, of larger only the size; what is damaged or gone is told by its hash. */
export async function readContents(content: StoredContent, hashes: ContentHash[]): Promise<Contents> {
  const found = new Map<ContentHash, { size: number; bytes?: Buffer }>();
  let left = DIFF_CONTENT_BYTES_MAX;
  for (const hash of hashes.slice(0, DIFF_CONTENTS_MAX)) {
    const size = await content.size(hash);
    if (size === undefined) continue;
    if (size > DIFF_TEXT_BYTES_MAX || size > left) {
      found.set(hash, { size });
      continue;
    }
    try {
      found.set(hash, { size, bytes: await content.read(hash) });
      left -= size;
    } catch (error) {
      if (!(error instanceof CallboardError)) throw error;
    }
  }
  return found;
}
