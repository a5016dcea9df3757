/** Data files by root key: an edit of one key changes the digest of that key alone, and no two different values share one. */
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { expect, test } from 'vitest';
import type { LookupOptions } from '../../src/model/inputs.ts';

const PROGRAM = fileURLToPath(new URL('../../ruby/compile/data_keys.rb', import.meta.url));

type Keys = Record<string, string> & { lookup_options?: unknown };
async function keysOf(kind: string, texts: string[]): Promise<(Keys | null)[]> {
  const orders = texts.map((text) => JSON.stringify({ kind, base64: Buffer.from(text).toString('base64') }));
  const { stdout } = await execa('ruby', [PROGRAM], { input: `${orders.join('\n')}\n` });
  return stdout.split('\n').map((line) => JSON.parse(line).keys);
}

test('an edit of one key is an edit of that key', async () => {
  const [before, after] = await keysOf('yaml', [
    '# one\na: 1\nb: { c: [1, 2] }\n',
    '# other comment\nb: {c: [1, 3]}\na: 1\n',
  ]);
  expect(Object.keys(before!)).toEqual(['a', 'b']);
  expect(after!.a).toBe(before!.a);
  expect(after!.b).not.toBe(before!.b);
});

test('values that Puppet tells apart have digests of their own', async () => {
  const values = [
    '1',
    '1.0',
    '"1"',
    ':one',
    '"one"',
    '~',
    'false',
    'true',
    '"false"',
    '""',
    '[]',
    '{}',
    '[1]',
    '[[1]]',
  ];
  const more = [
    '{x: 1, y: 2}',
    '{y: 2, x: 1}',
    '{x: 1}',
    '{1: x}',
    '{"1": x}',
    '-0.0',
    '0.0',
    '.nan',
    '!binary w6k=',
    'é',
  ];
  const all = await keysOf(
    'yaml',
    [...values, ...more].map((value) => `k: ${value}\n`),
  );
  expect(new Set(all.map((keys) => keys!.k)).size).toBe(values.length + more.length);
});

test('equal values have equal digests, however they are written', async () => {
  const [yaml] = await keysOf('yaml', ['a: &x {b: [1, "é"]}\nc: *x\n:d:\n  :b: [1, é]\ne:\n  b:\n  - 1\n  - é\n']);
  const [json] = await keysOf('json', ['{"f": {"b": [1, "\\u00e9"]}}']);
  expect(Object.keys(yaml!)).toEqual(['a', 'c', 'd', 'e']);
  expect(new Set([...Object.values(yaml!), json!.f]).size).toBe(1);
});

test('what cannot be taken apart is null', async () => {
  const yaml = await keysOf('yaml', ['', '- 1\n', 'a: [', 'a: 2001-01-01\n', '1: a\n', 'a: !ruby/object:Object {}\n']);
  expect(yaml).toEqual([null, null, null, null, null, null]);
  expect(await keysOf('json', ['', '[]', '{"a":', '1'])).toEqual([null, null, null, null]);
});

test('of lookup_options an edit of one entry is an edit of that entry; patterns have an order', async () => {
  const options = async (...texts: string[]) =>
    (
      await keysOf(
        'yaml',
        texts.map((text) => `lookup_options: ${text}`),
      )
    ).map((keys) => keys!.lookup_options as LookupOptions);
  const [before, edited, more, other] = await options(
    '{"a::x": {merge: deep}, "^a::.*": {merge: first}, "^b": {}}',
    '{"^a::.*": {merge: first}, "a::x": {merge: hash}, "^b": {}}',
    '{"a::x": {merge: deep}, "a::y": 1, "^a::.*": {merge: first}, "^b": {}}',
    '{"a::x": {merge: deep}, "^b": {}, "^a::.*": {merge: first}, "b": 1}',
  );
  expect(Object.keys(before!.keys)).toEqual(['a::x']);
  expect(edited).toEqual({ ...before, whole: expect.any(String), keys: { 'a::x': expect.any(String) } });
  expect(edited!.whole).not.toBe(before!.whole);
  expect(edited!.keys).not.toEqual(before!.keys);
  expect(more).toEqual({ ...before, whole: expect.any(String), keys: { ...before!.keys, 'a::y': expect.any(String) } });
  expect(other!.patterns).not.toBe(before!.patterns);
  expect(other!.modules).not.toBe(before!.modules);
});

test('lookup_options in which one entry may have a say in another’s count as a whole', async () => {
  const values = [
    '~',
    '[]',
    '{a: "%{facts.x}"}',
    '{"%{facts.x}": {}}',
    '{a: {b: ["ENC[PKCS7,x]"]}}',
    '{1: {}}',
    '{a: {1: b}}',
    '\n  a: :sym',
    '{a: .nan}',
    '{a: !binary w6k=}',
    '{a: 12345678901234567890}',
  ];
  const all = await keysOf(
    'yaml',
    values.map((value) => `lookup_options: ${value}`),
  );
  for (const keys of all) expect(keys!.lookup_options).toEqual(expect.stringMatching(/^[0-9a-f]{64}$/));
  expect((await keysOf('yaml', ['lookup_options: {a: {merge: deep}}\nb: "%{x}"']))[0]!.lookup_options).toBeTypeOf(
    'object',
  );
});
