/**
 * Branches and environments, decided without git or database: which branches a code source takes, what the environment of each
 * is called, and what a sync has to do when git says where they are now.
 */
import { CallboardError } from '../model/errors.ts';
import { type EnvironmentName, parseEnvironmentName } from '../model/ids.ts';

/** Stands for the branch in a pattern that names environments. */
const BRANCH = '{branch}';
const PATTERN_LENGTH_MAX = 1000;

/** Globs as they are kept. Throws CODE_SOURCE_INVALID. */
export function checkBranches(value: string): string {
  const globs = value.split(/\s+/).filter(Boolean);
  if (globs.length === 0) throw refuse('it takes no branches');
  if (value.length > PATTERN_LENGTH_MAX) throw refuse(`its branches are longer than ${PATTERN_LENGTH_MAX} characters`);
  return globs.join(' ');
}

/** A pattern that gives valid names at least for simple branches. Throws CODE_SOURCE_INVALID. */
export function checkEnvironmentPattern(value: string): string {
  if (nameEnvironment(value, 'x') === undefined)
    throw refuse(
      `'${value}' is no environment name; give lower-case letters, digits and underscores, and ${BRANCH} for the branch`,
    );
  return value;
}

function refuse(reason: string): CallboardError {
  return new CallboardError('CODE_SOURCE_INVALID', { reason });
}

/** Whether one of the globs fits the whole branch: `*` is any characters, `/` among them, `?` is one. */
export function takesBranch(globs: string, branch: string): boolean {
  return globs.split(' ').some((glob) => fits(glob, branch));
}

/** In time that grows with both lengths only: after a mismatch the last star takes one character more. */
function fits(glob: string, text: string): boolean {
  let [g, t] = [0, 0];
  let star = -1;
  let starAt = 0;
  while (t < text.length) {
    if (glob[g] === '*') {
      star = g;
      starAt = t;
      g += 1;
    } else if (g < glob.length && (glob[g] === '?' || glob[g] === text[t])) {
      g += 1;
      t += 1;
    } else if (star >= 0) {
      starAt += 1;
      t = starAt;
      g = star + 1;
    } else return false;
  }
  while (glob[g] === '*') g += 1;
  return g === glob.length;
}

/**
 * The environment of a branch. Letters become lower case, and what an environment's name may not have becomes `_`. Undefined:
 * no valid name comes of it.
 */
export function nameEnvironment(pattern: string, branch: string): EnvironmentName | undefined {
  const name = pattern.replaceAll(BRANCH, () => branch.toLowerCase().replace(/[^a-z0-9_]/g, '_'));
  try {
    return parseEnvironmentName(name);
  } catch {
    return undefined;
  }
}

/** Whether some branch could be this environment. Both are valid, so nothing in them means something to an expression. */
export function mayName(pattern: string, environment: string): boolean {
  const expression = pattern.replace(BRANCH, '([a-z0-9_]+)').replaceAll(BRANCH, '\\1');
  return new RegExp(`^${expression}$`).test(environment);
}

export interface Branch {
  branch: string;
  commit: string;
}

export interface KnownBranch extends Branch {
  environment: string;
  vanished: boolean;
}

export interface SyncPlan {
  /** To be recorded; `deploy`: and deployed. */
  moved: { environment: EnvironmentName; branch: string; commit: string; deploy: boolean }[];
  /** Environments whose branch is gone. */
  vanished: string[];
  leftOut: { branch: string; reason: string }[];
}

/** What follows from where git has the branches now. */
export function planSync(
  source: { branches: string; environment: string },
  now: readonly Branch[],
  known: {
    /** What was last recorded of this source. */
    branches: readonly KnownBranch[];
    /** Environments of other sources. */
    taken: ReadonlyMap<string, string>;
    /** The commit that each environment's newest code version was last deployed from, out of this source's repository. */
    deployed: ReadonlyMap<string, string>;
  },
): SyncPlan {
  const before = new Map(known.branches.map((each) => [each.environment, each]));
  const plan: SyncPlan = { moved: [], vanished: [], leftOut: [] };
  const there = new Map<string, string>();
  const named = now
    .filter(({ branch }) => takesBranch(source.branches, branch))
    .map((each) => ({ ...each, environment: nameEnvironment(source.environment, each.branch) }));
  // Whoever has an environment keeps it; of those that want it anew the first by name gets it.
  const holds = ({ environment, branch }: (typeof named)[number]): boolean => {
    const holder = environment === undefined ? undefined : before.get(environment);
    return holder?.branch === branch && !holder.vanished;
  };
  named.sort((a, b) => Number(holds(b)) - Number(holds(a)) || (a.branch < b.branch ? -1 : 1));

  for (const { branch, commit, environment } of named) {
    const leaveOut = (reason: string) => plan.leftOut.push({ branch, reason });
    if (environment === undefined) {
      leaveOut('no environment can be called so');
      continue;
    }
    const rival = there.get(environment);
    const owner = known.taken.get(environment);
    if (rival !== undefined) leaveOut(`the environment ${environment} is the branch '${rival}'`);
    else if (owner !== undefined) leaveOut(`the environment ${environment} belongs to the code source ${owner}`);
    else {
      there.set(environment, branch);
      const last = before.get(environment);
      if (last && !last.vanished && last.branch === branch && last.commit === commit) continue;
      plan.moved.push({ environment, branch, commit, deploy: known.deployed.get(environment) !== commit });
    }
  }
  plan.moved.sort((a, b) => (a.environment < b.environment ? -1 : 1));
  plan.vanished = known.branches
    .filter((each) => !each.vanished && !there.has(each.environment))
    .map((each) => each.environment);
  return plan;
}
