/**
 * What a submission of facts makes necessary. Whether it is the first, repeats the last, or comes twice at once, the end is
 * the same: the stored facts are the submitted ones, and a compile is queued for every change of what a compile starts from.
 */
import type { Certname } from '../model/ids.ts';
import {
  FACTS_BATCH_BYTES_MAX,
  FACTS_BATCH_MAX,
  FACTS_WAITING_BYTES_MAX,
  FACTS_WAITING_MAX,
  RENEWALS_BATCH_MAX,
  RENEWALS_WAITING_MAX,
} from '../model/limits.ts';
import type { Database, Transaction } from '../postgres/database.ts';
import { Batches } from './batches.ts';
import { type Change, type Renewal, renewMoved, renewUnchanged, type Submission, storeSubmissions } from './store.ts';

/** Queues the compiles of nodes, in the transaction that makes them necessary. */
export type QueueCompiles = (tx: Transaction, certnames: Certname[], trigger: string) => Promise<void>;

export interface FactsIntake {
  /** Stores a whole document; true when its hash is another than the node's last. */
  submit(submission: Submission): Promise<boolean>;
  /** True once it is stored that the facts are the same; false where the stored ones are others. */
  renew(renewal: Renewal): Promise<boolean>;
}

export interface CompileQueue {
  /** All catalogs that the nodes want. */
  queueCompiles: QueueCompiles;
  /** Those of them whose compile read something that changed in the nodes' facts or certificate extensions. */
  queueChangedNodes: QueueCompiles;
}

export function factsIntake(db: Database, queue: CompileQueue): FactsIntake {
  const submissions = new Batches<Submission, boolean>(
    {
      batchMax: FACTS_BATCH_MAX,
      batchBytesMax: FACTS_BATCH_BYTES_MAX,
      waitingMax: FACTS_WAITING_MAX,
      waitingBytesMax: FACTS_WAITING_BYTES_MAX,
    },
    (batch) =>
      twice(() =>
        db.transaction().execute(async (tx) => {
          const changes = await storeSubmissions(tx, batch);
          await queueChanged(tx, queue, changes);
          return new Map(changes.map((change) => [change.certname, change.facts_changed]));
        }),
      ),
  );
  const renewals = new Batches<Renewal, boolean>(
    {
      batchMax: RENEWALS_BATCH_MAX,
      batchBytesMax: Number.POSITIVE_INFINITY,
      waitingMax: RENEWALS_WAITING_MAX,
      waitingBytesMax: Number.POSITIVE_INFINITY,
    },
    async (batch) => {
      const results = new Map(batch.map(({ certname }) => [certname, false]));
      for (const certname of await twice(() => renewUnchanged(db, batch))) results.set(certname, true);
      const others = batch.filter(({ certname }) => !results.get(certname));
      if (others.length === 0) return results;
      const moved = await twice(() =>
        db.transaction().execute(async (tx) => {
          const changes = await renewMoved(tx, others);
          await queueChanged(tx, queue, changes);
          return changes;
        }),
      );
      for (const { certname } of moved) results.set(certname, true);
      return results;
    },
  );
  return {
    submit: (submission) => submissions.add(submission, 2 * (submission.stable.length + submission.volatile.length)),
    renew: (renewal) => renewals.add(renewal),
  };
}

/** Why a submission queues compiles, as a sentence; undefined when it does not. */
export function triggerOf(change: Omit<Change, 'certname'>): string | undefined {
  const whats = [
    change.facts_changed && 'facts',
    change.environment_changed && 'environment',
    change.extensions_changed && 'certificate extensions',
  ].filter((what) => what !== false);
  return whats.length > 0 ? `${whats.join(' and ')} changed` : undefined;
}

/** Facts and extensions count where they were read; in another environment everything is another. */
async function queueChanged(tx: Transaction, queue: CompileQueue, changes: Change[]): Promise<void> {
  const byTrigger = Map.groupBy(changes, triggerOf);
  for (const [trigger, changed] of byTrigger) {
    if (trigger === undefined) continue;
    const certnames = changed.map((change) => change.certname);
    if (changed[0]!.environment_changed) await queue.queueCompiles(tx, certnames, trigger);
    else await queue.queueChangedNodes(tx, certnames, trigger);
  }
}

/**
 * Failures that a second try ends. 23503: the collector took the very document between "it is there already" and our reference
 * to it; now that it is gone, it is stored anew. 40P01: two transactions waited for each other, and ours gave way.
 */
const PASSING = new Set(['23503', '40P01']);

async function twice<Result>(work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (!PASSING.has((error as { code?: string }).code ?? '')) throw error;
    return work();
  }
}
