import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { treeContents } from '../../src/content/collector.ts';
import { readTree, treeHash, writeTree } from '../../src/model/tree.ts';

const page = readFileSync(new URL('../../docs/formats/tree-v1.md', import.meta.url), 'utf8');
const example = page
  .slice(page.indexOf('## Example'))
  .split('\n')
  .filter((line) => line.startsWith('    '))
  .map((line) => line.slice(4));

test('the example in docs/formats/tree-v1.md is a manifest, in its one form', () => {
  const manifest = Buffer.from(`${example.join('\n')}\n`);
  const entries = readTree(manifest);
  expect(entries.map(({ kind }) => kind)).toEqual(['link', 'directory', 'file', 'file']);
  expect(writeTree(entries.toReversed()).equals(manifest)).toBe(true);
});

test('what a code version keeps is its manifest and its files, each once named', () => {
  const manifest = Buffer.from(`${example.join('\n')}\n`);
  const id = treeHash(manifest);
  expect(treeContents(id, manifest)).toEqual([
    id,
    'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
    '2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae',
  ]);
});

test('refuses another version, a path that leaves the tree, and an unknown kind', () => {
  for (const line of ['["callboard tree",2]', '']) expect(() => readTree(Buffer.from(`${line}\n`))).toThrow();
  for (const entry of ['["directory","/etc"]', '["directory","a/../b"]', '["directory","a//b"]', '["device","a"]']) {
    expect(() => readTree(Buffer.from(`["callboard tree",1]\n${entry}\n`))).toThrow('a tree manifest');
  }
});
