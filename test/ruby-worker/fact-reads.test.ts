/**
 * Facts, trusted and server facts: whatever form reads them, a change that changes the catalog changes a value on record
 * (sound), and the forms that people use are on record with no more than what they read (narrow).
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { CompileResult, Reads } from '../../src/compile/request.ts';
import { codeTree } from '../compile/code-tree.ts';
import { openPool, request } from './compiling.ts';
import { MUTATIONS, NODE, type Node, SNIPPETS, snippetTree } from './read-snippets.ts';

const CERTNAME = 'n1.example.net';
const pool = openPool({ concurrency: 2 });
let code: string;

beforeAll(async () => {
  code = await codeTree(snippetTree());
  await pool.start();
}, 300_000);
afterAll(() => pool.close());

function compile(node: Partial<Node>, snippets: number[], trace: boolean): Promise<CompileResult> {
  const { facts, extensions, servername } = { ...NODE, ...node };
  return pool.compile(
    request(CERTNAME, {
      codeDirectory: code,
      facts: JSON.stringify(facts),
      trustedExtensions: extensions,
      serverFacts: { servername },
      enc: JSON.stringify({ classes: snippets.map((n) => `s::s${n}`) }),
      trace,
    }),
  );
}

/** What came out, by snippet; undefined where it did not compile. */
function values(result: CompileResult): Record<string, unknown> | undefined {
  if (result.status === 'failed') return undefined;
  const { resources } = JSON.parse(String(result.canonical));
  return Object.fromEntries(
    resources
      .filter((one: { type: string }) => one.type === 'Notify')
      .map((one: { title: string; parameters: object }) => [one.title, one.parameters]),
  );
}

function documentOf(node: Partial<Node>): Record<string, unknown> {
  const { facts, extensions, servername } = { ...NODE, ...node };
  return {
    facts,
    trusted: { certname: CERTNAME, extensions },
    server_facts: { servername, environment: 'production' },
  };
}

/** The value at a path, or how far it leads. */
function at(document: unknown, path: (string | number)[]): string {
  let value = document;
  for (const [depth, step] of path.entries()) {
    const there = typeof value === 'object' && value !== null && Object.hasOwn(value, step);
    if (!there) return `nothing at ${depth} in ${typeof value}`;
    value = (value as Record<string | number, unknown>)[step];
  }
  return JSON.stringify(value);
}

let bases: { reads: Reads; value: string }[];
const outcome = (result: CompileResult, n: number) => JSON.stringify(values(result)?.[`s${n}`] ?? 'does not compile');

test('each form is on record with what it reads', { timeout: 300_000 }, async () => {
  bases = await Promise.all(
    SNIPPETS.map(async (_, n) => {
      const result = await compile({}, [n], true);
      if (!result.reads) throw new Error(JSON.stringify(result));
      return { reads: result.reads, value: outcome(result, n) };
    }),
  );
  const told = SNIPPETS.map(({ code: text }, n) => `${text} reads ${summary(bases[n]!.reads.data)}`);
  const expected = SNIPPETS.map(
    ({ code: text, reads }) => `${text} reads ${summary(reads === 'ALL' ? [['facts']] : reads)}`,
  );
  expect(told).toEqual(expected);
});

/** `$assigned` of site.pp, variables that Puppet sets for the class `main`, and names that no fact may have. */
const ALWAYS = ['assigned', 'title', 'name', 'module_name', 'facts', 'server_facts'].map(
  (name) => `["facts","${name}"]`,
);

function summary(paths: unknown[][]): string {
  const texts = paths.map((path) => JSON.stringify(path));
  if (texts.includes('["facts"]')) return 'all facts';
  return texts
    .filter((text) => !ALWAYS.includes(text))
    .sort()
    .join(' ');
}

test('a whole read is shown with its place', () => {
  const n = SNIPPETS.findIndex(({ code: text }) => text === '$facts');
  expect(bases[n]!.reads.lints).toEqual([
    { message: expect.stringMatching(/^reads all facts at once/), file: `modules/s/manifests/s${n}.pp`, line: 2 },
  ]);
  const ruby = SNIPPETS.findIndex(({ code: text }) => text === "RUBY closure_scope['facts']['kernel']");
  expect(bases[ruby]!.reads.lints).toMatchObject([{ file: `modules/s/lib/puppet/functions/s/f${ruby}.rb`, line: 3 }]);
});

test('no change of a catalog goes unseen', { timeout: 600_000 }, async () => {
  const before = documentOf({});
  let skipped = 0;
  const missed = await Promise.all(
    Object.entries(MUTATIONS).map(async ([name, node]) => {
      const after = documentOf(node);
      // Those of which nothing on record changed: none of their values may change.
      const unseen = SNIPPETS.flatMap((_, n) =>
        bases[n]!.reads.data.some((path) => at(before, path) !== at(after, path)) ? [] : [n],
      );
      skipped += unseen.length;
      const alone = unseen.filter((n) => bases[n]!.value.includes('does not compile'));
      const together = unseen.filter((n) => !alone.includes(n));
      const results = [[together, await compile(node, together, false)] as const];
      for (const n of results[0]![1].status === 'failed' ? unseen : alone)
        results.push([[n], await compile(node, [n], false)]);
      return results.flatMap(([numbers, result]) =>
        numbers
          .filter((n) => outcome(result, n) !== bases[n]!.value)
          .map((n) => `${name}: ${SNIPPETS[n]!.code} gave ${bases[n]!.value}, gives ${outcome(result, n)}`),
      );
    }),
  );
  expect(missed.flat()).toEqual([]);
  expect(skipped).toBeGreaterThan(SNIPPETS.length * 8);
});
