/** Catalogs read to be compared or explained: every number digit for digit as it was written. */
import type { Catalog } from '../model/catalog.ts';
import type { CatalogHash } from '../model/ids.ts';
import type { Database } from '../postgres/database.ts';
import { readContents, type StoredContent } from './contents.ts';
import { type Contents, differingContents } from './diff.ts';
import { parseExactly } from './exact.ts';
import type { CatalogStore } from './store.ts';

export interface CatalogReading {
  db: Database;
  readCatalog: CatalogStore['readCatalog'];
  content: StoredContent;
}

/** Throws CATALOG_NOT_FOUND, CATALOG_CORRUPT. */
export async function readParsed({ db, readCatalog }: CatalogReading, id: CatalogHash): Promise<Catalog> {
  return parseExactly<Catalog>(await readCatalog(db, id));
}

/** Two catalogs, the first perhaps nothing, with the texts that tell their difference. */
export async function readPair(
  deps: CatalogReading,
  from: CatalogHash | undefined | null,
  to: CatalogHash,
): Promise<{ older: Catalog | undefined; newer: Catalog; contents: Contents }> {
  const [older, newer] = [from ? await readParsed(deps, from) : undefined, await readParsed(deps, to)];
  return { older, newer, contents: await readContents(deps.content, differingContents(older, newer)) };
}
