import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { CatalogHash, Certname, CodeVersionHash } from '../../src/model/ids.ts';
import {
  type EnvironmentState,
  moveAfterCompile,
  moveByPolicies,
  type NodeState,
  planRelease,
  planRollback,
  type ReleaseCandidate,
} from '../../src/release/policy.ts';

const [V1, V2, V3] = ['v1', 'v2', 'v3'] as CodeVersionHash[] as [CodeVersionHash, CodeVersionHash, CodeVersionHash];
const [A, B] = ['a', 'b'] as CatalogHash[] as [CatalogHash, CatalogHash];

const held: EnvironmentState = {
  code_policy: 'held',
  facts_policy: 'auto',
  code_version: V2,
  released_code_version: V1,
};
const node: NodeState = {
  certname: 'n' as Certname,
  environment: 'production',
  released_catalog: A,
  released_code_version: V1,
  released_environment: 'production',
  pinned: false,
};
const fresh: NodeState = { ...node, released_catalog: null, released_code_version: null, released_environment: null };
const result = (codeVersion: CodeVersionHash, catalog: CatalogHash | null = B, same = catalog === A) => ({
  environment: 'production',
  codeVersion,
  catalog,
  same,
});

test('a fact change flows through under the code version that the node runs, unless facts are held', () => {
  expect(moveAfterCompile(held, node, result(V1))).toBe('facts');
  expect(moveAfterCompile({ ...held, facts_policy: 'held' }, node, result(V1))).toBeUndefined();
  expect(moveAfterCompile(held, node, result(V1, A)), 'the same catalog is no move').toBeUndefined();
});

test('new code waits for a release, unless code is auto', () => {
  expect(moveAfterCompile(held, node, result(V2))).toBeUndefined();
  expect(moveAfterCompile({ ...held, code_policy: 'auto' }, node, result(V2))).toBe('code');
  expect(moveAfterCompile({ ...held, code_policy: 'auto' }, node, result(V3)), 'not the newest').toBeUndefined();
  const both: EnvironmentState = { ...held, code_policy: 'auto', facts_policy: 'held' };
  expect(
    moveAfterCompile(both, { ...node, released_code_version: V2 }, result(V2)),
    'that is facts, held',
  ).toBeUndefined();
});

test('a catalog that does the same goes along with the newest code, whatever the policies, and is told nobody', () => {
  expect(moveAfterCompile(held, node, result(V2, A))).toBe('along');
  expect(moveAfterCompile({ ...held, code_policy: 'auto' }, node, result(V2, B, true))).toBe('along');
  expect(moveAfterCompile(held, node, result(V3, A)), 'not the newest').toBeUndefined();
  expect(moveAfterCompile(held, { ...node, pinned: true }, result(V2, A))).toBeUndefined();
  expect(moveAfterCompile(held, node, result(V1, B, true)), 'new lines wait for a real change').toBeUndefined();
});

test('a new node joins at the code version released to its environment, or at the newest where code is auto', () => {
  expect(moveAfterCompile(held, fresh, result(V1))).toBe('join');
  expect(moveAfterCompile(held, fresh, result(V2))).toBeUndefined();
  expect(moveAfterCompile({ ...held, code_policy: 'auto' }, fresh, result(V2))).toBe('join');
  expect(moveAfterCompile({ ...held, facts_policy: 'held' }, fresh, result(V1))).toBe('join');
  const virgin: EnvironmentState = { ...held, released_code_version: null };
  expect(moveAfterCompile(virgin, fresh, result(V2)), 'nothing was ever released').toBeUndefined();
});

test('a node that went over to another environment joins there, whatever it ran before', () => {
  const came = { ...node, released_environment: 'staging' };
  expect(moveAfterCompile(held, came, result(V1))).toBe('join');
  expect(moveAfterCompile(held, came, result(V2))).toBeUndefined();
  expect(
    moveAfterCompile(held, { ...node, environment: 'staging' }, result(V1)),
    'a late result of the old one',
  ).toBeUndefined();
});

test('whatever the policies, a pinned node, a failed compile and a foreign result move nothing', () => {
  const policy = fc.record({
    code_policy: fc.constantFrom('held', 'auto'),
    facts_policy: fc.constantFrom('held', 'auto'),
    code_version: fc.constantFrom(V1, V2, V3, null),
    released_code_version: fc.constantFrom(V1, V2, V3, null),
  }) as fc.Arbitrary<EnvironmentState>;
  const anyNode = fc.constantFrom(node, fresh, { ...node, released_environment: 'staging' });
  const version = fc.constantFrom(V1, V2, V3);
  fc.assert(
    fc.property(policy, anyNode, version, (environment, someNode, codeVersion) => {
      expect(moveAfterCompile(environment, someNode, result(codeVersion, null))).toBeUndefined();
      expect(moveAfterCompile(environment, { ...someNode, pinned: true }, result(codeVersion))).toBeUndefined();
      expect(moveAfterCompile(environment, someNode, { ...result(codeVersion), environment: 'other' })).toBeUndefined();
    }),
  );
});

const candidate = (certname: string, more: Partial<ReleaseCandidate> = {}): ReleaseCandidate => ({
  ...node,
  certname: certname as Certname,
  has_facts: true,
  compiled: true,
  candidate: B,
  error: null,
  stale: false,
  ...more,
});

test('a release moves what is ready and tells of each other node why not', () => {
  const plan = planRelease(
    V2,
    'production',
    [
      candidate('ready'),
      candidate('older-facts', { stale: true }),
      candidate('there', { released_catalog: B, released_code_version: V2 }),
      candidate('same-catalog', { released_catalog: B }),
      candidate('pinned', { pinned: true }),
      candidate('silent', { has_facts: false, compiled: false, candidate: null }),
      candidate('waiting', { compiled: false, candidate: null }),
      candidate('broken', { candidate: null, error: 'Syntax error at site.pp:3' }),
    ],
    ['ready', 'typo', 'typo'],
  );
  expect(plan.moves.map((move) => move.certname)).toEqual(['ready', 'older-facts', 'same-catalog']);
  expect(plan.moves[0]).toEqual({ certname: 'ready', catalog: B, code_version: V2 });
  expect(plan.unchanged).toBe(1);
  expect(plan.stale).toEqual(['older-facts']);
  expect(plan.skipped).toEqual([
    { certname: 'typo', reason: "no node of environment 'production' has this name" },
    { certname: 'pinned', reason: 'pinned' },
    { certname: 'silent', reason: 'has sent no facts yet' },
    { certname: 'waiting', reason: 'not compiled under this code version yet' },
    { certname: 'broken', reason: 'does not compile: Syntax error at site.pp:3' },
  ]);
});

test('a rollback undoes the last release once, and skips what has no way back', () => {
  const last = { previous_catalog: A, previous_code_version: V1, previous_environment: 'production', undone: false };
  const at = (certname: string, last_move: typeof last | null | object, more: Partial<NodeState> = {}) =>
    ({ ...node, certname, released_catalog: B, released_code_version: V2, last_move, ...more }) as never;
  const plan = planRollback(
    'production',
    [
      at('one', last),
      at('two', last),
      at('three', { ...last, previous_code_version: V3 }),
      at('undone', { ...last, undone: true }),
      at('first', { ...last, previous_catalog: null, previous_code_version: null, previous_environment: null }),
      at('moved-in', { ...last, previous_environment: 'staging' }),
      at('never', null),
      at('pinned', last, { pinned: true }),
    ],
    undefined,
  );
  expect(plan.moves).toEqual([
    { certname: 'one', catalog: A, code_version: V1 },
    { certname: 'two', catalog: A, code_version: V1 },
    { certname: 'three', catalog: A, code_version: V3 },
  ]);
  expect(plan.unchanged).toBe(1);
  expect(plan.mostGoTo).toBe(V1);
  expect(plan.skipped.map((each) => each.certname)).toEqual(['first', 'moved-in', 'never', 'pinned']);
});

test('the policies put a node at the furthest that they allow', () => {
  const compiles = [result(V1, B), result(V2, B)];
  expect(moveByPolicies(held, node, compiles)).toEqual({ certname: 'n', catalog: B, code_version: V1, cause: 'facts' });
  expect(moveByPolicies({ ...held, code_policy: 'auto' }, node, compiles)).toMatchObject({
    code_version: V2,
    cause: 'code',
  });
  expect(moveByPolicies({ ...held, facts_policy: 'held' }, node, compiles)).toBeUndefined();
  expect(moveByPolicies(held, node, [result(V1, null)])).toBeUndefined();
  expect(moveByPolicies(held, { ...node, pinned: true }, compiles)).toBeUndefined();
});
