/** Which branches are which environments, and what a sync has to do. */
import { expect, test } from 'vitest';
import {
  checkBranches,
  checkEnvironmentPattern,
  type KnownBranch,
  mayName,
  nameEnvironment,
  planSync,
  takesBranch,
} from '../../src/truth/branches.ts';

test.each([
  ['*', 'feature/one', true],
  ['feature_*', 'feature_one', true],
  ['feature_*', 'main', false],
  ['main production', 'production', true],
  ['main', 'main2', false],
  ['v?', 'v1', true],
  ['v?', 'v12', false],
  ['a*b*c', 'a-b-b-c', true],
  ['a*b*c', 'a-b-c-d', false],
  ['', 'main', false],
])('the globs %j take the branch %j: %s', (globs, branch, taken) => {
  expect(takesBranch(globs, branch)).toBe(taken);
});

test('a glob of many stars is answered at once', () => {
  const started = performance.now();
  expect(takesBranch(`${'a*'.repeat(400)}b`, 'a'.repeat(250))).toBe(false);
  expect(performance.now() - started).toBeLessThan(500);
});

test.each([
  ['{branch}', 'production', 'production'],
  ['{branch}', 'Feature/JIRA-12', 'feature_jira_12'],
  ['site_{branch}', 'main', 'site_main'],
  ['{branch}', 'süd', 's_d'],
  ['production', 'main', 'production'],
  ['{branch}', 'x'.repeat(101), undefined],
])('the pattern %j names the environment of %j %s', (pattern, branch, environment) => {
  expect(nameEnvironment(pattern, branch)).toBe(environment);
});

test('a pattern says which environments it could name', () => {
  expect(mayName('{branch}', 'production')).toBe(true);
  expect(mayName('site_{branch}', 'site_main')).toBe(true);
  expect(mayName('site_{branch}', 'main')).toBe(false);
  expect(mayName('{branch}_{branch}', 'a_a')).toBe(true);
  expect(mayName('{branch}_{branch}', 'a_b')).toBe(false);
});

test('what can never work is refused', () => {
  expect(() => checkBranches('  ')).toThrow('it takes no branches');
  expect(checkBranches(' main   feature_* ')).toBe('main feature_*');
  expect(() => checkEnvironmentPattern('Site-{branch}')).toThrow("'Site-{branch}' is no environment name");
  expect(() => checkEnvironmentPattern('')).toThrow('is no environment name');
  expect(checkEnvironmentPattern('site_{branch}')).toBe('site_{branch}');
});

const SOURCE = { branches: '*', environment: '{branch}' };
const NOTHING = { branches: [], taken: new Map<string, string>(), deployed: new Map<string, string>() };
const known = (environment: string, branch: string, commit: string, vanished = false): KnownBranch => ({
  environment,
  branch,
  commit,
  vanished,
});

test('branches that are new or moved are deployed; those that are where they were are not', () => {
  const plan = planSync(
    SOURCE,
    [
      { branch: 'main', commit: '2' },
      { branch: 'new', commit: '1' },
      { branch: 'still', commit: '1' },
    ],
    { ...NOTHING, branches: [known('main', 'main', '1'), known('still', 'still', '1')] },
  );
  expect(plan.moved).toEqual([
    { environment: 'main', branch: 'main', commit: '2', deploy: true },
    { environment: 'new', branch: 'new', commit: '1', deploy: true },
  ]);
  expect(plan.vanished).toEqual([]);
});

test('a commit that is deployed already is only recorded', () => {
  const plan = planSync(SOURCE, [{ branch: 'main', commit: '2' }], { ...NOTHING, deployed: new Map([['main', '2']]) });
  expect(plan.moved).toEqual([{ environment: 'main', branch: 'main', commit: '2', deploy: false }]);
});

test('a branch that vanished is told once, and deployed when it comes back', () => {
  const gone = planSync(SOURCE, [], { ...NOTHING, branches: [known('a', 'a', '1'), known('b', 'b', '1', true)] });
  expect(gone).toMatchObject({ moved: [], vanished: ['a'] });
  const back = planSync(SOURCE, [{ branch: 'b', commit: '1' }], { ...NOTHING, branches: [known('b', 'b', '1', true)] });
  expect(back.moved).toEqual([{ environment: 'b', branch: 'b', commit: '1', deploy: true }]);
});

test('two branches with one environment: whoever has it keeps it, else the first by name; the other is told why', () => {
  const both = [
    { branch: 'x-y', commit: '1' },
    { branch: 'x/y', commit: '2' },
  ];
  expect(planSync(SOURCE, both, NOTHING)).toMatchObject({
    moved: [{ environment: 'x_y', branch: 'x-y' }],
    leftOut: [{ branch: 'x/y', reason: "the environment x_y is the branch 'x-y'" }],
  });
  expect(planSync(SOURCE, both, { ...NOTHING, branches: [known('x_y', 'x/y', '2')] })).toMatchObject({
    moved: [],
    leftOut: [{ branch: 'x-y', reason: "the environment x_y is the branch 'x/y'" }],
  });
});

test('an environment of another source is left to it, and a name that no environment may have is told', () => {
  const plan = planSync(
    SOURCE,
    [
      { branch: 'main', commit: '1' },
      { branch: 'x'.repeat(101), commit: '1' },
    ],
    { ...NOTHING, taken: new Map([['main', 'other']]) },
  );
  expect(plan.moved).toEqual([]);
  expect(plan.leftOut).toEqual([
    { branch: 'main', reason: 'the environment main belongs to the code source other' },
    { branch: 'x'.repeat(101), reason: 'no environment can be called so' },
  ]);
});
