/**
 * What a collection removes, decided from what is there and what is named; `collection.ts` carries it out.
 *
 * Content is named by a row of `content_reference` (a catalog, a plugin tree) or by the tree of a code version. What was put
 * recently is spared whatever names it: its storer may be about to write the reference.
 */
import type { ContentHash } from '../model/ids.ts';
import { readTree } from '../model/tree.ts';

export interface Listed {
  hash: ContentHash;
  size: number;
  modifiedAt: Date;
}

export interface RemovalPlan {
  remove: Listed[];
  named: number;
  spared: number;
}

/** Which of the listed content goes. `isNamed` must have been read after the storers were excluded. */
export function planRemoval(
  listed: readonly Listed[],
  isNamed: (hash: ContentHash) => boolean,
  spareSince: Date,
): RemovalPlan {
  const plan: RemovalPlan = { remove: [], named: 0, spared: 0 };
  for (const content of listed) {
    if (isNamed(content.hash)) plan.named++;
    else if (content.modifiedAt >= spareSince) plan.spared++;
    else plan.remove.push(content);
  }
  return plan;
}

/** What a code version keeps: its manifest and every file in it. Throws when the manifest is not one. */
export function treeContents(codeVersion: string, manifest: Buffer): ContentHash[] {
  const files = readTree(manifest).flatMap((entry) => (entry.kind === 'file' ? [entry.hash] : []));
  return [codeVersion as ContentHash, ...files];
}

/** A store is read through once in this many days: a part of it, by the first byte of the name, each day. */
export const SCRUB_DAYS = 7;

export function isScrubbedOn(day: number, hash: ContentHash): boolean {
  return Number.parseInt(hash.slice(0, 2), 16) % SCRUB_DAYS === day % SCRUB_DAYS;
}
