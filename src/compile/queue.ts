/**
 * Queues compiles, in the transaction that makes them necessary (P2). One job for a node under a code version: queued twice
 * it is one job, queued while it runs it is followed by one more.
 */
import { sql } from 'kysely';
import type { Certname, CodeVersionHash } from '../model/ids.ts';
import type { Transaction } from '../postgres/database.ts';
import { enqueueSelected, PRIORITY } from '../postgres/queue.ts';
import { asJobs, wantedCompiles } from './store.ts';

/** A node's catalogs, or several nodes': under the environment's newest code version, and under the one released to each. */
export async function queueCompiles(tx: Transaction, certname: Certname | Certname[], trigger: string): Promise<void> {
  const wanted = sql`select * from (${wantedCompiles()}) as wanted where certname = any(${[certname].flat()}::text[])`;
  await enqueueSelected(tx, 'compile', asJobs(wanted, trigger), { priority: PRIORITY.facts });
}

/** The catalogs of all nodes of an environment under a code version. */
export async function queueEnvironmentCompiles(
  tx: Transaction,
  environment: string,
  codeVersion: CodeVersionHash,
  trigger: string,
  priority: number = PRIORITY.background,
): Promise<void> {
  const nodes = sql`
    select certname, environment, ${codeVersion}::text as code_version from node
    where environment = ${environment} and facts is not null
  `;
  await enqueueSelected(tx, 'compile', asJobs(nodes, trigger), { priority });
}
