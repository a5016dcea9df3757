/**
 * The moving of pointers: look under locks, let `policy.ts` decide, write what it decided. Each function is one
 * transaction or part of its caller's; the move, the row that tells of it and the notification commit together, so a node
 * is never told of what is not there, and nothing moves untold.
 */

import { CallboardError } from '../model/errors.ts';
import type { CatalogHash, Certname, CodeVersionHash } from '../model/ids.ts';
import { NODES_NOTIFIED_MAX, TRANSACTION_ATTEMPTS_MAX } from '../model/limits.ts';
import type { Database, Transaction } from '../postgres/database.ts';
import { notify } from '../postgres/listen.ts';
import {
  type CompileResult,
  type EnvironmentState,
  type Move,
  type MoveCause,
  moveAfterCompile,
  moveByPolicies,
  planRelease,
  planRollback,
  type Skipped,
} from './policy.ts';
import * as store from './store.ts';

/** What the room asks of the compile room: jobs, queued in the same transaction. */
export interface CompileQueue {
  queueCompiles(tx: Transaction, certname: Certname, trigger: string): Promise<void>;
  queueEnvironmentCompiles(
    tx: Transaction,
    environment: string,
    codeVersion: CodeVersionHash,
    trigger: string,
  ): Promise<void>;
}

/** Nodes moved to catalogs of older facts are queued one by one up to this number, else the whole environment is. */
const QUEUED_ONE_BY_ONE_MAX = 50;

/**
 * What the environment's policies make of a compile that ended: moves the node's pointer or leaves it. Call it in the
 * transaction that writes the compile, after its rows; the cause of the move, or undefined.
 */
export async function afterCompile(
  tx: Transaction,
  ended: Omit<CompileResult, 'same'> & { certname: Certname },
): Promise<MoveCause | 'along' | undefined> {
  if (ended.catalog === null) return undefined;
  await store.shareEnvironment(tx, ended.environment);
  await store.lockNode(tx, ended.certname);
  const result = { ...ended, same: await store.doesTheSame(tx, ended.certname, ended.catalog, ended.codeVersion) };
  const [environment, node] = [
    await store.environmentState(tx, result.environment),
    await store.nodeState(tx, result.certname),
  ];
  const cause = environment && node && moveAfterCompile(environment, node, result);
  if (!cause) return undefined;
  if (cause === 'along') {
    await store.moveAlong(tx, [result.certname], result.codeVersion);
    return cause;
  }
  const move = { certname: result.certname, catalog: ended.catalog, code_version: result.codeVersion };
  await store.movePointers(tx, cause, null, [move]);
  await notify(tx, 'callboard_node', { environment: result.environment, certnames: [result.certname] });
  return cause;
}

export interface ReleaseOutcome {
  /** The release's id. */
  release: string;
  environment: string;
  code_version: CodeVersionHash;
  moved: number;
  unchanged: number;
  skipped: Skipped[];
}

/** Moves nodes to the last catalog compiled for them under a code version. Throws NOTHING_TO_RELEASE when none can run it. */
export async function release(
  db: Database,
  queue: CompileQueue,
  wish: {
    environment: string;
    /** The beginning of a code version's hash; undefined takes the newest. */
    codeVersion: string | undefined;
    nodes: readonly string[] | 'all';
    requestedBy: string;
  },
): Promise<ReleaseOutcome> {
  const named = wish.nodes === 'all' ? undefined : wish.nodes;
  return inTransaction(db, async (tx) => {
    await store.lockEnvironment(tx, wish.environment);
    const environment = await knownEnvironment(tx, wish.environment);
    const codeVersion = await resolveCodeVersion(tx, wish.environment, environment, wish.codeVersion);
    await store.lockNodes(tx, wish.environment, named);
    const candidates = await store.releaseCandidates(tx, wish.environment, codeVersion, named);
    const plan = planRelease(codeVersion, wish.environment, candidates, named);
    if (plan.moves.length + plan.unchanged === 0 && plan.skipped.length > 0)
      throw new CallboardError('NOTHING_TO_RELEASE', { reason: allSkipped(plan.skipped) });

    const id = await store.insertRelease(tx, {
      kind: 'release',
      environment: wish.environment,
      codeVersion,
      requestedBy: wish.requestedBy,
    });
    await store.movePointers(tx, 'release', id, plan.moves);
    if (!named) await store.setReleasedCodeVersion(tx, wish.environment, codeVersion);
    await queueStale(tx, queue, wish.environment, codeVersion, plan.stale);
    await tell(tx, id, wish.environment, plan.moves);
    return {
      release: id,
      environment: wish.environment,
      code_version: codeVersion,
      moved: plan.moves.length,
      unchanged: plan.unchanged,
      skipped: plan.skipped,
    };
  });
}

export interface RollbackOutcome {
  release: string;
  environment: string;
  moved: number;
  unchanged: number;
  skipped: Skipped[];
  /** True when the environment followed new code by itself and now holds it. */
  code_now_held: boolean;
  /** How many nodes went to which code version. */
  code_versions: Record<string, number>;
}

/** Moves nodes back to what they had before their last release. Throws NOTHING_TO_RELEASE when there is no way back. */
export async function rollback(
  db: Database,
  queue: CompileQueue,
  wish: { environment: string; nodes: readonly string[] | 'all'; requestedBy: string },
): Promise<RollbackOutcome> {
  const named = wish.nodes === 'all' ? undefined : wish.nodes;
  return inTransaction(db, async (tx) => {
    await store.lockEnvironment(tx, wish.environment);
    await knownEnvironment(tx, wish.environment);
    await store.lockNodes(tx, wish.environment, named);
    const plan = planRollback(wish.environment, await store.rollbackCandidates(tx, wish.environment, named), named);
    if (plan.moves.length + plan.unchanged === 0)
      throw new CallboardError('NOTHING_TO_RELEASE', {
        reason: plan.skipped.length > 0 ? allSkipped(plan.skipped) : `'${wish.environment}' has no nodes`,
      });

    const id = await store.insertRelease(tx, {
      kind: 'rollback',
      environment: wish.environment,
      codeVersion: plan.mostGoTo ?? null,
      requestedBy: wish.requestedBy,
    });
    await store.movePointers(tx, 'rollback', id, plan.moves);
    // Where new code is followed by itself, the next compile would undo the rollback.
    const codeNowHeld = plan.moves.length > 0 && (await store.holdCode(tx, wish.environment));
    if (!named && plan.mostGoTo) await store.setReleasedCodeVersion(tx, wish.environment, plan.mostGoTo);
    const codeVersions = Object.groupBy(plan.moves, (move) => move.code_version);
    // What they go back to was compiled when those facts were new: the policies bring it up to today's.
    for (const [codeVersion, moves] of Object.entries(codeVersions)) {
      const certnames = moves!.map((move) => move.certname);
      await queueStale(tx, queue, wish.environment, codeVersion as CodeVersionHash, certnames);
    }
    await tell(tx, id, wish.environment, plan.moves);
    return {
      release: id,
      environment: wish.environment,
      moved: plan.moves.length,
      unchanged: plan.unchanged,
      skipped: plan.skipped,
      code_now_held: codeNowHeld,
      code_versions: Object.fromEntries(Object.entries(codeVersions).map(([each, moves]) => [each, moves!.length])),
    };
  });
}

export interface PinOutcome {
  release: string;
  certname: Certname;
  catalog: CatalogHash;
  code_version: CodeVersionHash;
}

/** Sets a node's pointer to one of its catalogs (its id or the beginning of it), where it stays until unpinned. */
export async function pin(
  db: Database,
  wish: { certname: Certname; catalog: string; requestedBy: string },
): Promise<PinOutcome> {
  return inTransaction(db, async (tx) => {
    const environment = await lockOneNode(tx, wish.certname);
    const found = (await store.catalogsByPrefix(tx, wish.certname, wish.catalog)).filter(
      (catalog) => catalog.environment === environment && catalog.code_version !== null,
    );
    if (found.length === 0) throw new CallboardError('CATALOG_NOT_FOUND', { catalog: wish.catalog });
    if (found.length > 1)
      throw new CallboardError('REQUEST_INVALID', {
        reason: `More than one catalog of ${wish.certname} begins with '${wish.catalog}'`,
      });
    const [catalog, codeVersion] = [found[0]!.id, found[0]!.code_version!];
    const id = await store.insertRelease(tx, {
      kind: 'pin',
      environment,
      codeVersion,
      requestedBy: wish.requestedBy,
    });
    const move = { certname: wish.certname, catalog, code_version: codeVersion };
    await store.movePointers(tx, 'pin', id, [move]);
    await store.setPinned(tx, wish.certname, true);
    await tell(tx, id, environment, [move]);
    return { release: id, certname: wish.certname, catalog, code_version: codeVersion };
  });
}

/** Lifts a pin: from here on the policies move the node again, and at once to where they would have moved it meanwhile. */
export async function unpin(
  db: Database,
  queue: CompileQueue,
  wish: { certname: Certname; requestedBy: string },
): Promise<PinOutcome> {
  return inTransaction(db, async (tx) => {
    const environment = await lockOneNode(tx, wish.certname);
    const [node] = await store.nodesWithCompiles(tx, environment, wish.certname);
    if (!node) throw new CallboardError('ENVIRONMENT_NOT_FOUND', { environment });
    if (!node.pinned) throw new CallboardError('NOTHING_TO_RELEASE', { reason: `${wish.certname} is not pinned` });
    const state = await knownEnvironment(tx, environment);
    // A node that stays where it is has a move all the same: its history tells who lifted the pin.
    const move = moveByPolicies(state, { ...node, pinned: false }, node.compiles) ?? {
      certname: wish.certname,
      catalog: node.released_catalog!,
      code_version: node.released_code_version!,
    };
    const id = await store.insertRelease(tx, {
      kind: 'unpin',
      environment,
      codeVersion: move.code_version,
      requestedBy: wish.requestedBy,
    });
    await store.setPinned(tx, wish.certname, false);
    await store.movePointers(tx, 'unpin', id, [move]);
    await queue.queueCompiles(tx, wish.certname, 'unpinned');
    await tell(tx, id, environment, [move]);
    return { release: id, certname: wish.certname, catalog: move.catalog, code_version: move.code_version };
  });
}

/**
 * To be called after an environment's policies were changed: moves each node to where they put it now, and has everybody
 * look anew, since the run policy is a part of what nodes are answered. Safe to repeat. How many moved.
 */
export async function applyPolicies(db: Database, environment: string): Promise<number> {
  return inTransaction(db, async (tx) => {
    const moves = await moveAll(tx, environment);
    await notify(tx, 'callboard_node', { environment });
    return moves.length;
  });
}

/** What the policies make of many results at once, those that earlier compiles were found to prove. Call it after their rows. */
export async function afterCarryOver(tx: Transaction, environment: string): Promise<void> {
  const moves = await moveAll(tx, environment);
  const certnames = moves.filter((move) => move.cause !== 'along').map((move) => move.certname as string);
  if (certnames.length === 0) return;
  const few = certnames.length <= NODES_NOTIFIED_MAX && JSON.stringify(certnames).length < 7000;
  await notify(tx, 'callboard_node', few ? { environment, certnames } : { environment });
}

async function moveAll(tx: Transaction, environment: string): Promise<(Move & { cause: MoveCause | 'along' })[]> {
  await store.lockEnvironment(tx, environment);
  const state = await knownEnvironment(tx, environment);
  await store.lockNodes(tx, environment);
  const nodes = await store.nodesWithCompiles(tx, environment);
  const moves = nodes.flatMap((node) => moveByPolicies(state, node, node.compiles) ?? []);
  for (const [cause, group] of Map.groupBy(moves, (move) => move.cause)) {
    if (cause === 'along')
      await store.moveAlong(
        tx,
        group.map((move) => move.certname),
        state.code_version!,
      );
    else await store.movePointers(tx, cause, null, group);
  }
  return moves;
}

/** The locks of one node's move, in the order that everybody keeps; its environment. */
async function lockOneNode(tx: Transaction, certname: Certname): Promise<string> {
  const before = await store.nodeEnvironment(tx, certname);
  if (!before) throw new CallboardError('NODE_NOT_FOUND', { certname });
  await store.shareEnvironment(tx, before);
  const environment = await store.lockNode(tx, certname);
  if (environment !== before)
    throw new CallboardError('BUSY', { reason: `${certname} is going over to environment '${environment}'` });
  return environment;
}

async function knownEnvironment(tx: Transaction, environment: string): Promise<EnvironmentState> {
  const state = await store.environmentState(tx, environment);
  if (!state) throw new CallboardError('ENVIRONMENT_NOT_FOUND', { environment });
  return state;
}

async function resolveCodeVersion(
  tx: Transaction,
  environment: string,
  state: EnvironmentState,
  prefix: string | undefined,
): Promise<CodeVersionHash> {
  if (prefix === undefined) {
    if (!state.code_version)
      throw new CallboardError('NOTHING_TO_RELEASE', { reason: `'${environment}' has no code yet` });
    return state.code_version;
  }
  const found = await store.codeVersionsByPrefix(tx, environment, prefix);
  if (found.length === 0) throw new CallboardError('CODE_VERSION_NOT_FOUND', { environment, value: prefix });
  if (found.length > 1) throw new CallboardError('CODE_VERSION_AMBIGUOUS', { value: prefix });
  return found[0]!;
}

async function queueStale(
  tx: Transaction,
  queue: CompileQueue,
  environment: string,
  codeVersion: CodeVersionHash,
  certnames: readonly Certname[],
): Promise<void> {
  const trigger = `code version ${codeVersion.slice(0, 12)} released with older facts`;
  if (certnames.length > QUEUED_ONE_BY_ONE_MAX)
    return queue.queueEnvironmentCompiles(tx, environment, codeVersion, trigger);
  for (const certname of certnames) await queue.queueCompiles(tx, certname, trigger);
}

/** One notification, however many moved: to the nodes that moved, or where those are many, to the whole environment. */
async function tell(tx: Transaction, release: string, environment: string, moves: readonly Move[]): Promise<void> {
  if (moves.length > 0) {
    const certnames = moves.map((move) => move.certname as string);
    const few = certnames.length <= NODES_NOTIFIED_MAX && JSON.stringify(certnames).length < 7000;
    await notify(tx, 'callboard_node', few ? { environment, certnames } : { environment });
  }
  await notify(tx, 'callboard_progress', { kind: 'release', id: release });
}

function allSkipped(skipped: readonly Skipped[]): string {
  const [first, ...others] = skipped;
  const more = others.length > 0 ? ` (and ${others.length} more)` : '';
  return `No node can be moved: ${first!.certname} ${first!.reason}${more}`;
}

/** Another transaction's locks in another order (a deadlock) are nobody's mistake: PostgreSQL ends one, which is tried again. */
async function inTransaction<Result>(db: Database, work: (tx: Transaction) => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await db.transaction().execute(work);
    } catch (error) {
      const { code } = error as { code?: string };
      if ((code !== '40P01' && code !== '40001') || attempt >= TRANSACTION_ATTEMPTS_MAX) throw error;
    }
  }
}
