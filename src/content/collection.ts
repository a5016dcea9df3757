/**
 * A collection: first rows that nothing needs any more are forgotten (histories past their time, pointer moves, code versions,
 * catalogs, fact documents), then content that nothing names is removed, then a part of what is left is read and checked.
 *
 * It goes in batches. Each batch that forgets a holder of references or removes content runs in a transaction of its own, alone
 * (`guard.ts`), and reads what is named within it, so it may be killed at any moment, run twice at once, and run while catalogs
 * and code versions are stored. Nothing carries over from one batch to the next but where in the order of names it was.
 *
 * A code version whose manifest cannot be read stops the removal of content: what it keeps is not known.
 */
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { CodeVersionHash, ContentHash } from '../model/ids.ts';
import {
  COLLECT_BATCH_MAX,
  COLLECT_HISTORY_TIME_MS,
  COLLECT_ROWS_BATCH_MAX,
  COLLECT_SPARED_TIME_MS,
  COLLECT_TRIES_MAX,
} from '../model/limits.ts';
import type { Database, Transaction } from '../postgres/database.ts';
import { isScrubbedOn, type Listed, planRemoval, treeContents } from './collector.ts';
import type { DiskContent } from './disk.ts';
import { excludeStorers } from './guard.ts';
import * as store from './store.ts';

export interface CollectionDeps {
  db: Database;
  store: DiskContent;
  logger: Logger;
  /** Called when content was removed: remembered permissions may name it. */
  onRemoved?: () => void;
  /** Directories made from code versions on this machine, removed with them. */
  code?: {
    listCodeDirectories(): Promise<CodeVersionHash[]>;
    removeCodeDirectory(codeVersion: CodeVersionHash): Promise<void>;
  };
}

export interface CollectionOptions {
  /** Content, catalogs and documents younger than this stay. */
  sparedTimeMs?: number;
  /** Histories older than this go. */
  historyTimeMs?: number;
  /** Which of what is left is read and checked: nothing, today's part, or all. */
  scrub?: 'none' | 'part' | 'all';
  signal?: AbortSignal | undefined;
}

/** What a collection did; the names are those of the answer over HTTP. */
export interface Collected {
  compiles_forgotten: number;
  read_sets_forgotten: number;
  pointer_moves_forgotten: number;
  code_versions_forgotten: number;
  catalogs_forgotten: number;
  fact_documents_forgotten: number;
  content_removed: number;
  bytes_removed: number;
  content_named: number;
  content_spared: number;
  content_checked: number;
  content_damaged: number;
}

export async function collect(deps: CollectionDeps, options: CollectionOptions = {}): Promise<Collected> {
  const { db } = deps;
  const { signal } = options;
  const now = Date.now();
  const spareSince = new Date(now - (options.sparedTimeMs ?? COLLECT_SPARED_TIME_MS));
  const historySince = new Date(now - (options.historyTimeMs ?? COLLECT_HISTORY_TIME_MS));
  const collected: Collected = {
    compiles_forgotten: 0,
    read_sets_forgotten: 0,
    pointer_moves_forgotten: 0,
    code_versions_forgotten: 0,
    catalogs_forgotten: 0,
    fact_documents_forgotten: 0,
    content_removed: 0,
    bytes_removed: 0,
    content_named: 0,
    content_spared: 0,
    content_checked: 0,
    content_damaged: 0,
  };

  await untilNone(async () => {
    const forgotten = await store.forgetCompiles(db, historySince, COLLECT_ROWS_BATCH_MAX);
    collected.compiles_forgotten += forgotten;
    return forgotten;
  });
  await untilNone(async () => {
    const forgotten = await db.transaction().execute((tx) => store.forgetReadSets(tx, COLLECT_BATCH_MAX));
    collected.read_sets_forgotten += forgotten;
    return forgotten;
  });
  await store.forgetAudits(db, historySince);
  await byKey(async (after) => {
    const page = await store.forgetMoves(db, after, historySince, COLLECT_ROWS_BATCH_MAX);
    collected.pointer_moves_forgotten += page.forgotten;
    return page.last;
  });
  for (const codeVersion of await store.selectDeadCodeVersions(db, spareSince)) {
    if (await forgetCodeVersion(codeVersion)) collected.code_versions_forgotten++;
  }
  await byKey(async (after) => {
    const page = await alone((tx) => store.forgetCatalogs(tx, after, spareSince, COLLECT_BATCH_MAX));
    collected.catalogs_forgotten += page.forgotten;
    return page.last;
  });
  await byKey(async (after) => {
    const page = await again(() => store.forgetFacts(db, after, historySince, spareSince, COLLECT_ROWS_BATCH_MAX));
    collected.fact_documents_forgotten += page.forgotten;
    return page.last;
  });
  await forgetCodeDirectories();

  await deps.store.sweep();
  await removeContent();
  if (collected.content_removed > 0) deps.onRemoved?.();
  await scrub();
  return collected;

  /** Its compiled rows go in batches before it does; whatever makes it live again in between ends that. */
  async function forgetCodeVersion({ id, lastMove }: store.DeadCodeVersion): Promise<boolean> {
    for (;;) {
      const outcome = await alone(async (tx) => {
        if (!(await store.isCodeVersionDead(tx, id, lastMove))) return 'live';
        if ((await store.forgetCompiled(tx, id, COLLECT_ROWS_BATCH_MAX)) === COLLECT_ROWS_BATCH_MAX) return 'more';
        await store.forgetCodeVersion(tx, id);
        return 'gone';
      });
      if (outcome !== 'more') return outcome === 'gone';
    }
  }

  async function forgetCodeDirectories(): Promise<void> {
    if (!deps.code) return;
    const made = await deps.code.listCodeDirectories();
    const kept = new Set(await store.selectCodeVersions(db));
    for (const id of made) if (!kept.has(id)) await deps.code.removeCodeDirectory(id);
  }

  async function removeContent(): Promise<void> {
    const trees = new Trees(deps.store);
    let batch: Listed[] = [];
    for await (const content of deps.store.list()) {
      batch.push(content);
      if (batch.length < COLLECT_BATCH_MAX) continue;
      await removeOf(trees, batch);
      batch = [];
    }
    await removeOf(trees, batch);
  }

  async function removeOf(trees: Trees, listed: Listed[]): Promise<void> {
    if (listed.length === 0) return;
    signal?.throwIfAborted();
    // A look without the lock: in a store where little is to go, storers are hardly ever kept waiting.
    const preview = planRemoval(listed, await namedOf(db, trees, listed), spareSince);
    collected.content_named += preview.named;
    collected.content_spared += preview.spared;
    if (preview.remove.length === 0) return;
    await alone(async (tx) => {
      const { remove, named } = planRemoval(preview.remove, await namedOf(tx, trees, preview.remove), spareSince);
      collected.content_named += named;
      for (const [n, { hash, size }] of remove.entries()) {
        if (n % 50 === 49) await nextTurn();
        if (!(await deps.store.remove(hash, spareSince))) continue;
        collected.content_removed++;
        collected.bytes_removed += size;
      }
    });
  }

  async function scrub(): Promise<void> {
    const { scrub = 'part' } = options;
    if (scrub === 'none') return;
    const day = Math.floor(now / (24 * 3600_000));
    for await (const { hash } of deps.store.list()) {
      if (scrub === 'part' && !isScrubbedOn(day, hash)) continue;
      signal?.throwIfAborted();
      const outcome = await deps.store.scrub(hash);
      if (outcome === 'absent') continue;
      collected.content_checked++;
      if (outcome === 'sound') continue;
      collected.content_damaged++;
      deps.logger.error(
        { content: hash },
        'stored content is damaged and was put aside; deploy its code version again',
      );
    }
  }

  /** One batch, with all storers of references kept out. */
  async function alone<Result>(batch: (tx: Transaction) => Promise<Result>): Promise<Result> {
    return again(() =>
      db.transaction().execute(async (tx) => {
        await excludeStorers(tx);
        return batch(tx);
      }),
    );
  }

  /**
   * A pointer that moves to a row while it is being forgotten makes the batch fail (the row wins, by its foreign key); a rival
   * may deadlock with it. The batch reads everything anew, so it is tried again.
   */
  async function again<Result>(batch: () => Promise<Result>): Promise<Result> {
    for (let tries = 1; ; tries++) {
      signal?.throwIfAborted();
      try {
        return await batch();
      } catch (error) {
        const code = (error as { code?: string }).code ?? '';
        if (!['23503', '40P01', '40001'].includes(code) || tries === COLLECT_TRIES_MAX) throw error;
        await pause(100 * tries);
      }
    }
  }

  async function untilNone(batch: () => Promise<number>): Promise<void> {
    while ((await again(batch)) > 0);
  }

  async function byKey(page: (after: string) => Promise<string | null>): Promise<void> {
    for (let after: string | null = ''; after !== null; ) after = await page(after);
  }
}

/** What the code versions keep. Manifests never change, so each is read once a collection. */
class Trees {
  readonly #store: DiskContent;
  readonly #read = new Map<CodeVersionHash, Set<ContentHash>>();

  constructor(content: DiskContent) {
    this.#store = content;
  }

  async of(codeVersions: readonly CodeVersionHash[]): Promise<Set<ContentHash>[]> {
    for (const id of codeVersions) {
      if (this.#read.has(id)) continue;
      let manifest: Buffer;
      try {
        manifest = await this.#store.read(id as string as ContentHash);
      } catch (cause) {
        throw new Error(`no content is removed: the manifest of code version ${id} cannot be read; deploy it again`, {
          cause,
        });
      }
      this.#read.set(id, new Set(treeContents(id, manifest)));
    }
    return codeVersions.map((id) => this.#read.get(id)!);
  }
}

async function namedOf(
  db: Database | Transaction,
  trees: Trees,
  listed: readonly Listed[],
): Promise<(hash: ContentHash) => boolean> {
  const kept = await trees.of(await store.selectCodeVersions(db));
  const referenced = new Set(
    await store.selectReferenced(
      db,
      listed.map(({ hash }) => hash),
    ),
  );
  return (hash) => referenced.has(hash) || kept.some((tree) => tree.has(hash));
}
