/**
 * The catalog that this node runs, and the one before. `catalogs/<id>.json` holds the document exactly as it was served (P8);
 * `catalogs/current.json` says which of them is current, with everything a run must know about it. Replacing that one
 * file is the swap, and it happens only when all that the catalog names is here and verified (P4).
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Catalog, catalogContents, checkedCatalogId } from '../model/catalog.ts';
import { CallboardError } from '../model/errors.ts';
import type { CatalogHash, ContentHash } from '../model/ids.ts';
import type { CatalogAnswer } from './control-plane.ts';
import { replaceFile } from './files.ts';
import type { RunMode } from './wanted.ts';

export interface CurrentCatalog {
  catalog: CatalogHash;
  code_version: string | null;
  plugins: ContentHash | null;
  environment: string;
  run_mode: RunMode;
  etag: string;
  received_at: string;
  /** What is kept beside it, for a run that is under way and for a quick way back. */
  previous: { catalog: CatalogHash; plugins: ContentHash | null } | null;
}

export type ServedCatalog = Extract<CatalogAnswer, { kind: 'catalog' }>;

export class Catalogs {
  readonly #directory: string;
  #current: CurrentCatalog | null = null;

  constructor(directory: string) {
    this.#directory = directory;
  }

  get current(): CurrentCatalog | null {
    return this.#current;
  }

  path(id: CatalogHash): string {
    return join(this.#directory, `${id}.json`);
  }

  /** What was current when the daemon ended last. A file that cannot be read is as none: the catalog is fetched anew. */
  async open(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    try {
      const current: CurrentCatalog = JSON.parse(await readFile(join(this.#directory, 'current.json'), 'utf8'));
      await this.contents(current.catalog);
      this.#current = current;
    } catch {
      this.#current = null;
    }
  }

  /** The content that a catalog of ours names. Throws when it is not here, or not the one of its name. */
  async contents(id: CatalogHash): Promise<ContentHash[]> {
    const document = await readFile(this.path(id));
    if (checkedCatalogId(document) !== id) throw new Error(`catalog ${id} is damaged`);
    return catalogContents(document);
  }

  /** Replaces the current catalog. Returns whether a run has something new to do: another catalog, or other plugins. */
  async swap(served: ServedCatalog, environment: string, now: Date): Promise<boolean> {
    const before = this.#current;
    const isNew = before?.catalog !== served.id || before.plugins !== served.plugins;
    const current: CurrentCatalog = {
      catalog: served.id,
      code_version: served.codeVersion,
      plugins: served.plugins,
      environment,
      run_mode: served.runMode,
      etag: served.etag,
      received_at: now.toISOString(),
      previous: isNew ? before && { catalog: before.catalog, plugins: before.plugins } : before.previous,
    };
    if (before?.catalog !== served.id) await replaceFile(this.path(served.id), served.document);
    await replaceFile(join(this.#directory, 'current.json'), `${JSON.stringify(current, null, 2)}\n`);
    this.#current = current;
    return isNew;
  }

  async collect(keep: Set<string>): Promise<void> {
    for (const name of await readdir(this.#directory)) {
      if (name !== 'current.json' && !keep.has(name.replace(/\.json$/, ''))) await rm(join(this.#directory, name));
    }
  }
}

/** Reads a served document. Throws CATALOG_UNFIT when it is not the one of its name, or another node's. */
export function checkServed(served: ServedCatalog, certname: string): { environment: string; contents: ContentHash[] } {
  const unfit = (reason: string, cause?: unknown): CallboardError =>
    new CallboardError('CATALOG_UNFIT', { catalog: served.id, reason }, { cause });
  try {
    if (checkedCatalogId(served.document) !== served.id) throw new Error('its bytes hash to another name');
    const catalog: Catalog = JSON.parse(served.document.toString('utf8'));
    if (catalog.name !== certname) throw new Error(`it is of '${catalog.name}'`);
    return { environment: catalog.environment, contents: catalogContents(catalog) };
  } catch (error) {
    throw unfit(error instanceof Error ? error.message : String(error), error);
  }
}
