/**
 * What a submission of facts makes necessary. Whether it is the first, repeats the last, or comes twice at once, the end is
 * the same: the stored facts are the submitted ones, and a compile is queued for every change of what a compile starts from.
 */
import type { SplitFacts } from '../model/facts.ts';
import type { Certname } from '../model/ids.ts';
import type { Database, Transaction } from '../postgres/database.ts';
import { Renewals } from './renewals.ts';
import { type Before, renewMoved, renewUnchanged, storeFacts } from './store.ts';

/** Queues the compiles of a node, in the transaction that makes them necessary. */
export type QueueCompiles = (tx: Transaction, certname: Certname, trigger: string) => Promise<void>;

/** Why a whole submission queues compiles, as a sentence; undefined when it does not. */
export function submissionTrigger(
  before: Before | undefined,
  now: { facts: string; environment: string; extensions: string },
): string | undefined {
  return trigger({
    facts_changed: before?.facts !== now.facts,
    environment_changed: before !== undefined && before.requested_environment !== now.environment,
    extensions_changed: before !== undefined && before.extensions !== now.extensions,
  });
}

function trigger(changed: {
  facts_changed?: boolean;
  environment_changed: boolean;
  extensions_changed: boolean;
}): string | undefined {
  const whats = [
    changed.facts_changed && 'facts',
    changed.environment_changed && 'environment',
    changed.extensions_changed && 'certificate extensions',
  ].filter((what) => typeof what === 'string');
  return whats.length > 0 ? `${whats.join(' and ')} changed` : undefined;
}

/** Stores a whole document; true when its hash is another than the node's last. */
export async function submitFacts(
  db: Database,
  queueCompiles: QueueCompiles,
  certname: Certname,
  facts: SplitFacts,
  environment: string,
  extensions: string,
): Promise<boolean> {
  const store = (): Promise<boolean> =>
    db.transaction().execute(async (tx) => {
      const before = await storeFacts(tx, certname, facts, environment, extensions);
      const why = submissionTrigger(before, { facts: facts.hash, environment, extensions });
      if (why) await queueCompiles(tx, certname, why);
      return before?.facts !== facts.hash;
    });
  try {
    return await store();
  } catch (error) {
    if (!PASSING.has((error as { code?: string }).code ?? '')) throw error;
    return store();
  }
}

/**
 * Failures that a second try ends. 23503: the collector took the very document between "it is there already" and our reference
 * to it; now that it is gone, it is stored anew. 40P01: two transactions waited for each other, and ours gave way.
 */
const PASSING = new Set(['23503', '40P01']);

/** Renewals of unchanged facts, in batches; where environment or certificate changed, compiles are queued with them. */
export function factRenewals(db: Database, queueCompiles: QueueCompiles): Renewals {
  return new Renewals(async (batch) => {
    const renewed = new Set(await renewUnchanged(db, batch));
    const others = batch.filter((renewal) => !renewed.has(renewal.certname));
    if (others.length === 0) return renewed;
    await db.transaction().execute(async (tx) => {
      for (const moved of await renewMoved(tx, others)) {
        const why = trigger(moved);
        if (why) await queueCompiles(tx, moved.certname, why);
        renewed.add(moved.certname);
      }
    });
    return renewed;
  });
}
