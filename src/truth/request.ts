/** Asking for a deploy: its row, its job and the end of what it supersedes, in one transaction. */
import { CallboardError } from '../model/errors.ts';
import { parseEnvironmentName } from '../model/ids.ts';
import type { Database, Transaction } from '../postgres/database.ts';
import { notify } from '../postgres/listen.ts';
import { enqueue, PRIORITY } from '../postgres/queue.ts';
import { checkRef, checkRepository } from './ref.ts';
import * as store from './store.ts';

export interface DeployRequest {
  environment: string;
  /** Undefined: that of the environment's code source. */
  repo?: string | undefined;
  /** Undefined: the environment's branch there, or HEAD of a repository that was named. */
  ref?: string | undefined;
  requestedBy: string;
}

/**
 * The deploy's id. The environment is made when it is new. Throws ENVIRONMENT_NAME_INVALID, REPOSITORY_INVALID,
 * GIT_REF_INVALID, CODE_SOURCE_MISSING.
 */
export async function requestDeploy(deps: { db: Database }, request: DeployRequest): Promise<string> {
  const environment = parseEnvironmentName(request.environment);
  let { repo, ref } = request;
  if (repo === undefined) {
    const source = await store.findEnvironmentSource(deps.db, environment);
    if (!source) throw new CallboardError('CODE_SOURCE_MISSING', { environment });
    repo = source.repo;
    ref ??= branchRef(source.branch);
  }
  const deploy = {
    environment,
    repo: checkRepository(repo),
    ref: checkRef(ref ?? 'HEAD'),
    requestedBy: request.requestedBy,
  };
  return await deps.db.transaction().execute(async (tx) => {
    await store.createEnvironment(tx, environment);
    return await queueDeploy(tx, deploy);
  });
}

/** In the transaction that makes it necessary. The environment is there; everything was checked. */
export async function queueDeploy(
  tx: Transaction,
  deploy: { environment: string; repo: string; ref: string; requestedBy: string },
): Promise<string> {
  await store.lockEnvironment(tx, deploy.environment);
  const id = await store.insertDeploy(tx, deploy);
  for (const older of await store.supersedeOlder(tx, deploy.environment, id))
    await notify(tx, 'callboard_progress', { kind: 'deploy', id: older });
  await enqueue(tx, 'deploy', { deploy: id }, { key: `deploy:${id}`, priority: PRIORITY.interactive });
  return id;
}

/** A branch as a reference: in full where the short form would mean something else. */
export function branchRef(branch: string): string {
  return branch === 'HEAD' || branch.startsWith('refs/') ? `refs/heads/${branch}` : branch;
}
