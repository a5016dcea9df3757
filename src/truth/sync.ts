/**
 * The job `sync`: git is asked where the branches of a code source are, and those that moved since are deployed, each to its
 * environment. Whoever wakes it (a hook, the clock, a person) says only which source to look at. Several may run at once: one
 * that another overtook leaves everything to it. What git cannot tell is kept with the source, and tried again by the queue.
 */
import { CallboardError } from '../model/errors.ts';
import type { Queries } from '../postgres/database.ts';
import { enqueue, enqueueSelected, PRIORITY } from '../postgres/queue.ts';
import { planSync } from './branches.ts';
import type { TruthDependencies } from './jobs.ts';
import { checkRef, secretsOf } from './ref.ts';
import { listBranches } from './repository.ts';
import { branchRef, queueDeploy } from './request.ts';
import * as store from './store.ts';

/** Then the next poll, hook or person is as good: some two minutes of trying. */
const SYNC_ATTEMPTS_MAX = 5;

export function queueSync(db: Queries, source: string, priority: number = PRIORITY.interactive): Promise<void> {
  return enqueue(db, 'sync', { source }, { key: `sync:${source}`, priority, attemptsMax: SYNC_ATTEMPTS_MAX });
}

/** A sync of each source that was not looked at for as long as it says. */
export async function queueDueSyncs(db: Queries): Promise<void> {
  await enqueueSelected(db, 'sync', store.dueSyncs(), {
    priority: PRIORITY.background,
    attemptsMax: SYNC_ATTEMPTS_MAX,
  });
}

export async function runSync(
  deps: Pick<TruthDependencies, 'db' | 'state' | 'logger'>,
  name: string,
  signal: AbortSignal,
): Promise<void> {
  const { db } = deps;
  const source = await store.beginSync(db, name);
  if (!source) return;
  const logger = deps.logger.child({ code_source: name });
  let listed: Awaited<ReturnType<typeof listBranches>>;
  try {
    listed = await listBranches(deps.state, source.repo, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    let reason = error instanceof Error ? error.message : String(error);
    for (const secret of secretsOf(source.repo)) reason = reason.replaceAll(secret, '***');
    await store.endSync(db, name, source.began_at, { error: reason, leftOut: [] });
    throw new CallboardError('CODE_SOURCE_UNREACHABLE', { source: name, reason }, { cause: error });
  }
  const plan = await db.transaction().execute(async (tx) => {
    const current = await store.lockSource(tx, name);
    // Removed, changed or looked at by a later sync meanwhile: whoever did it asked for another.
    if (!current || current.repo !== source.repo) return undefined;
    if (current.synced_at && current.synced_at > source.began_at) return undefined;
    const planned = planSync(
      current,
      listed.filter(({ branch }) => isRef(branch)),
      {
        branches: await store.listBranchesKnown(tx, name),
        taken: await store.environmentsOfOthers(tx, name),
        deployed: await store.deployedCommits(tx, name),
      },
    );
    for (const { environment, branch, commit, deploy } of planned.moved) {
      await store.createEnvironment(tx, environment);
      await store.recordBranch(tx, { environment, source: name, branch, commit });
      if (!deploy) continue;
      await queueDeploy(tx, {
        environment,
        repo: current.repo,
        ref: branchRef(branch),
        requestedBy: `code source ${name}`,
      });
    }
    await store.markVanished(tx, name, planned.vanished);
    await store.endSync(tx, name, source.began_at, { error: null, leftOut: planned.leftOut });
    return planned;
  });
  if (!plan) return;
  const deployed = plan.moved.filter((each) => each.deploy).map((each) => each.environment);
  if (deployed.length > 0 || plan.vanished.length > 0)
    logger.info({ deployed, vanished: plan.vanished, left_out: plan.leftOut.length }, 'code source synced');
}

/** git allows names that we do not take. */
function isRef(branch: string): boolean {
  try {
    checkRef(branch);
    return true;
  } catch {
    return false;
  }
}
