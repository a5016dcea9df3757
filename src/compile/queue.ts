/**
 * Queues compiles, in the transaction that makes them necessary (P2). One job for a node under a code version: queued twice
 * it is one job, queued while it runs it is followed by one more.
 */
import { type RawBuilder, sql } from 'kysely';
import type { Certname, CodeVersionHash } from '../model/ids.ts';
import type { Transaction } from '../postgres/database.ts';
import { enqueue, enqueueSelected, PRIORITY } from '../postgres/queue.ts';
import { dataDigest } from './data.ts';
import { holdForNow } from './read-set-store.ts';
import { sampleSkipped } from './sample.ts';
import { asJobs, readNodeData, wantedCompiles, wantedRows } from './store.ts';

/** A node's catalogs, or several nodes': under the environment's newest code version, and under the one released to each. */
export async function queueCompiles(tx: Transaction, certname: Certname | Certname[], trigger: string): Promise<void> {
  const wanted = sql`select * from (${wantedCompiles()}) as wanted where certname = any(${[certname].flat()}::text[])`;
  await enqueueSelected(tx, 'compile', asJobs(wanted, trigger), { priority: PRIORITY.facts });
}

/**
 * The catalogs of nodes whose facts or certificate extensions changed, but for those whose compile read nothing that did: these
 * are said to hold for the new ones. Call it in the transaction that stored what changed, which holds the rows of the nodes.
 */
export async function queueChangedNodes(tx: Transaction, certnames: Certname[], trigger: string): Promise<void> {
  const rows = await wantedRows(tx, certnames);
  const mayHold = rows.filter((row) => row.data !== null && !row.volatile).map((row) => row.certname);
  const data = new Map((await readNodeData(tx, mayHold)).map((node) => [node.certname as string, node]));
  const [held, queued] = partition(rows, (row) => {
    if (row.data === null || row.volatile) return false;
    const { facts, volatile_facts, extensions } = data.get(row.certname)!;
    return dataDigest(row.data, { facts, volatileFacts: volatile_facts, extensions }) === row.data_digest;
  });
  await holdForNow(tx, held);
  await sampleSkipped(tx, held);
  if (queued.length === 0) return;
  const jobs = sql`
    select * from unnest(
      ${queued.map((row) => row.certname)}::text[], ${queued.map((row) => row.environment)}::text[],
      ${queued.map((row) => row.code_version)}::text[]
    ) as changed (certname, environment, code_version)
  `;
  await enqueueSelected(tx, 'compile', asJobs(jobs, trigger), { priority: PRIORITY.facts });
}

function partition<Item>(items: Item[], test: (item: Item) => boolean): [Item[], Item[]] {
  const [yes, no]: [Item[], Item[]] = [[], []];
  for (const item of items) (test(item) ? yes : no).push(item);
  return [yes, no];
}

/** The catalogs of some nodes of an environment under a code version. */
export async function queueNodeCompiles(
  tx: Transaction,
  environment: string,
  codeVersion: CodeVersionHash,
  certnames: Certname[],
  trigger: string,
  priority: number = PRIORITY.background,
): Promise<void> {
  if (certnames.length === 0) return;
  await queueNodesWhere(tx, sql`certname = any(${certnames}::text[])`, environment, codeVersion, trigger, priority);
}

/** Has a code version compared with what nodes read; what it concerns is queued by that job. */
export async function queueAffected(
  tx: Transaction,
  environment: string,
  codeVersion: CodeVersionHash,
  trigger: string,
  deploy: string | null,
): Promise<void> {
  await enqueue(
    tx,
    'affected',
    { environment, code_version: codeVersion, trigger, deploy },
    { key: `affected:${environment}:${codeVersion}`, priority: PRIORITY.interactive },
  );
}

/** The catalogs of all nodes of an environment under a code version. */
export async function queueEnvironmentCompiles(
  tx: Transaction,
  environment: string,
  codeVersion: CodeVersionHash,
  trigger: string,
  priority: number = PRIORITY.background,
): Promise<void> {
  await queueNodesWhere(tx, sql`true`, environment, codeVersion, trigger, priority);
}

async function queueNodesWhere(
  tx: Transaction,
  which: RawBuilder<unknown>,
  environment: string,
  codeVersion: CodeVersionHash,
  trigger: string,
  priority: number,
): Promise<void> {
  const nodes = sql`
    select certname, environment, ${codeVersion}::text as code_version from node
    where environment = ${environment} and facts is not null and ${which}
  `;
  await enqueueSelected(tx, 'compile', asJobs(nodes, trigger), { priority });
}
