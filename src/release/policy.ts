/**
 * Who may run which catalog: the decisions alone. A node's pointer is its released catalog and code version, and this file
 * says when it moves and when it stays. Nothing here reads or writes; `store.ts` does both, under the locks it names.
 *
 * What holds for every move: the catalog was compiled for this node, in the environment the node is in, without an error;
 * a pinned node is moved by `pin` and `unpin` only.
 */
import type { CatalogHash, Certname, CodeVersionHash } from '../model/ids.ts';

export type MoveCause = 'release' | 'rollback' | 'pin' | 'unpin' | 'facts' | 'code' | 'join';

export interface EnvironmentState {
  code_policy: 'held' | 'auto';
  facts_policy: 'auto' | 'held';
  /** The newest. */
  code_version: CodeVersionHash | null;
  /** Where new nodes join. */
  released_code_version: CodeVersionHash | null;
}

/** A node's pointer as it stands. */
export interface Pointer {
  released_catalog: CatalogHash | null;
  released_code_version: CodeVersionHash | null;
  /** The environment the released catalog was compiled in; another than the node's after the node went over. */
  released_environment: string | null;
  pinned: boolean;
}

export interface NodeState extends Pointer {
  certname: Certname;
  environment: string;
}

/** What a compile came to: the catalog, or null where it failed. */
export interface CompileResult {
  environment: string;
  codeVersion: CodeVersionHash;
  catalog: CatalogHash | null;
  /**
   * A node that runs it does what it does now: the catalog is the released one, but for the places in the code that it names, and
   * the plugins are the same.
   */
  same: boolean;
}

/**
 * The cause of the move that the policies make of a compile's result; undefined where the pointer stays. `along`: the catalog stays
 * and is of the new code version from here on.
 */
export function moveAfterCompile(
  environment: EnvironmentState,
  node: NodeState,
  result: CompileResult,
): MoveCause | 'along' | undefined {
  if (result.catalog === null || node.pinned || node.environment !== result.environment) return undefined;
  const isNewest = result.codeVersion === environment.code_version;
  // A node that came over from another environment keeps its old catalog until it joins, as a new node does.
  if (node.released_catalog === null || node.released_environment !== node.environment) {
    const joins = result.codeVersion === environment.released_code_version;
    return joins || (isNewest && environment.code_policy === 'auto') ? 'join' : undefined;
  }
  if (result.codeVersion === node.released_code_version)
    return environment.facts_policy === 'auto' && !result.same ? 'facts' : undefined;
  // It goes along with the code, and needs neither a release nor a wake-up.
  if (result.same) return isNewest ? 'along' : undefined;
  return isNewest && environment.code_policy === 'auto' ? 'code' : undefined;
}

/** A node as a release finds it: with the last compile of the version to be released, if there was one. */
export interface ReleaseCandidate extends NodeState {
  has_facts: boolean;
  compiled: boolean;
  /** Null where that compile failed. */
  candidate: CatalogHash | null;
  /** Puppet's words, where it failed. */
  error: string | null;
  /** Whether newer facts than the compiled ones have come. */
  stale: boolean;
}

export interface Skipped {
  certname: string;
  reason: string;
}

export interface Move {
  certname: Certname;
  catalog: CatalogHash;
  code_version: CodeVersionHash;
}

export interface ReleasePlan {
  moves: Move[];
  unchanged: number;
  skipped: Skipped[];
  /** Those moved to a catalog that older facts made: to be compiled again. */
  stale: Certname[];
}

/**
 * What a release of a code version does. `asked`: the certnames an operator named, so that those not found are told;
 * undefined for all nodes of the environment.
 */
export function planRelease(
  codeVersion: CodeVersionHash,
  environment: string,
  nodes: ReleaseCandidate[],
  asked: readonly string[] | undefined,
): ReleasePlan {
  const plan: ReleasePlan = { moves: [], unchanged: 0, skipped: notFound(environment, nodes, asked), stale: [] };
  for (const node of nodes) {
    const reason = whyNotReleased(node);
    if (reason) plan.skipped.push({ certname: node.certname, reason });
    else if (node.released_catalog === node.candidate && node.released_code_version === codeVersion) plan.unchanged++;
    else {
      plan.moves.push({ certname: node.certname, catalog: node.candidate!, code_version: codeVersion });
      if (node.stale) plan.stale.push(node.certname);
    }
  }
  return plan;
}

function whyNotReleased(node: ReleaseCandidate): string | undefined {
  if (node.pinned) return 'pinned';
  if (!node.has_facts) return 'has sent no facts yet';
  if (!node.compiled) return 'not compiled under this code version yet';
  if (node.candidate === null) return `does not compile: ${node.error ?? 'no message'}`;
  return undefined;
}

/** A node as a rollback finds it, with its last move of cause release or code. */
export interface RollbackCandidate extends NodeState {
  /** Null where the node was never moved by a release or by new code. */
  last_move: {
    previous_catalog: CatalogHash | null;
    previous_code_version: CodeVersionHash | null;
    previous_environment: string | null;
    /** Whether a rollback has undone that move already. */
    undone: boolean;
  } | null;
}

export interface RollbackPlan {
  moves: Move[];
  unchanged: number;
  skipped: Skipped[];
  /** Where most of the moved nodes go back to: what new nodes then join at. */
  mostGoTo: CodeVersionHash | undefined;
}

/** Each node goes back to what it had before its last move of cause release or code. */
export function planRollback(
  environment: string,
  nodes: RollbackCandidate[],
  asked: readonly string[] | undefined,
): RollbackPlan {
  const plan: RollbackPlan = {
    moves: [],
    unchanged: 0,
    skipped: notFound(environment, nodes, asked),
    mostGoTo: undefined,
  };
  const goTo = new Map<CodeVersionHash, number>();
  for (const node of nodes) {
    const last = node.last_move;
    if (node.pinned) plan.skipped.push({ certname: node.certname, reason: 'pinned' });
    else if (!last)
      plan.skipped.push({ certname: node.certname, reason: 'nothing was released to it that could be undone' });
    else if (last.undone) plan.unchanged++;
    else if (!last.previous_catalog || !last.previous_code_version)
      plan.skipped.push({ certname: node.certname, reason: 'it had no catalog before its last release' });
    else if (last.previous_environment !== node.environment)
      plan.skipped.push({
        certname: node.certname,
        reason: `it was in environment '${last.previous_environment}' before its last release`,
      });
    else {
      const codeVersion = last.previous_code_version;
      plan.moves.push({ certname: node.certname, catalog: last.previous_catalog, code_version: codeVersion });
      goTo.set(codeVersion, (goTo.get(codeVersion) ?? 0) + 1);
    }
  }
  plan.mostGoTo = [...goTo].sort(([a, timesA], [b, timesB]) => timesB - timesA || (a < b ? -1 : 1))[0]?.[0];
  return plan;
}

function notFound(
  environment: string,
  nodes: readonly { certname: string }[],
  asked: readonly string[] | undefined,
): Skipped[] {
  if (!asked) return [];
  const found = new Set(nodes.map((node) => node.certname));
  const reason = `no node of environment '${environment}' has this name`;
  return [...new Set(asked)].filter((certname) => !found.has(certname)).map((certname) => ({ certname, reason }));
}

/**
 * Where the policies put a node, given its last results in its environment: what `moveAfterCompile` would have made of them
 * had the policies, or the node's freedom, been then as they are now. Undefined where it stays.
 */
export function moveByPolicies(
  environment: EnvironmentState,
  node: NodeState,
  compiles: readonly CompileResult[],
): (Move & { cause: MoveCause | 'along' }) | undefined {
  const moves = compiles.flatMap((result) => {
    const cause = moveAfterCompile(environment, node, result);
    return cause
      ? [{ certname: node.certname, catalog: result.catalog!, code_version: result.codeVersion, cause }]
      : [];
  });
  // The environment's newest code is the furthest that any policy goes.
  return moves.find((move) => move.code_version === environment.code_version) ?? moves[0];
}
