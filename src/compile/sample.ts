/** Which of the skipped compiles are audited (recompile.ts). */
import type { Transaction } from '../postgres/database.ts';
import { enqueueMany, PRIORITY } from '../postgres/queue.ts';

/** A compile that was skipped, the catalog that stands for it, and its environment's share of audits. */
export interface Skipped {
  certname: string;
  environment: string;
  code_version: string;
  catalog: string | null;
  share: number;
}

/** Queues an audit for a share of compiles that were skipped. `random`: as Math.random. */
export async function sampleSkipped(
  tx: Transaction,
  skipped: Skipped[],
  random: () => number = Math.random,
): Promise<void> {
  const chosen = skipped.filter((each) => each.catalog !== null && random() < each.share);
  await enqueueMany(
    tx,
    'audit',
    chosen.map(({ certname, environment, code_version, catalog }) => ({
      key: `audit:${environment}:${code_version}:${certname}`,
      payload: { certname, environment, code_version, expected: catalog! },
    })),
    { priority: PRIORITY.audit, attemptsMax: 3 },
  );
}
