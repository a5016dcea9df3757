/**
 * Released catalogs in memory as the gzip that is served, in clear, bounded by bytes; the least recently used go first.
 * A catalog never changes, so nothing here is ever out of date. Those who ask for the same catalog at once share one read.
 */
import type { CatalogHash } from '../model/ids.ts';
import { CATALOGS_CACHED_BYTES_MAX } from '../model/limits.ts';

export interface CatalogCache {
  get(id: CatalogHash): Promise<Buffer>;
  /** Bytes held now. */
  readonly bytes: number;
}

export function catalogCache(
  read: (id: CatalogHash) => Promise<Buffer>,
  bytesMax = CATALOGS_CACHED_BYTES_MAX,
): CatalogCache {
  const kept = new Map<CatalogHash, Buffer>();
  const reads = new Map<CatalogHash, Promise<Buffer>>();
  let bytes = 0;

  async function get(id: CatalogHash): Promise<Buffer> {
    const found = kept.get(id);
    if (found) {
      kept.delete(id);
      kept.set(id, found);
      return found;
    }
    const current = reads.get(id);
    if (current) return current;
    const started = read(id).finally(() => reads.delete(id));
    reads.set(id, started);
    const gzip = await started;
    keep(id, gzip);
    return gzip;
  }

  function keep(id: CatalogHash, gzip: Buffer): void {
    if (gzip.length > bytesMax || kept.has(id)) return;
    kept.set(id, gzip);
    bytes += gzip.length;
    for (const [oldest, held] of kept) {
      if (bytes <= bytesMax) break;
      kept.delete(oldest);
      bytes -= held.length;
    }
  }

  return {
    get,
    get bytes() {
      return bytes;
    },
  };
}
