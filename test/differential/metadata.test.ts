/**
 * The metadata that we inline against what a stock Puppet inlines into a static catalog: for sources of modules inside the
 * environment, which is all that it inlines, they are the same but for what docs/formats/catalog-v1.md makes constant.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Catalog, FileMetadata } from '../../src/model/catalog.ts';
import { openPool, request } from '../ruby-worker/compiling.ts';
import { type Code, factsOf, layCode } from './code.ts';

const PROGRAM = fileURLToPath(new URL('static.rb', import.meta.url));
const CERTNAME = 'files.example.net';

const pool = openPool();
let code: Code;

beforeAll(async () => {
  code = await layCode();
  await pool.start();
}, 180_000);
afterAll(async () => {
  await pool.close();
  await code?.remove();
});

type Inlined = Required<Pick<Catalog, 'metadata' | 'recursive_metadata'>>;

/** Less what the two are meant to differ in: the address, the absolute path, times, a link's checksum. */
function comparable(one: FileMetadata): object {
  const { content_uri: _, path: __, ...rest } = one;
  if (one.type === 'directory') return { ...rest, checksum: { type: one.checksum.type } };
  if (one.type === 'link') return { ...rest, checksum: { type: one.checksum.type } };
  return rest;
}

function allComparable({ metadata, recursive_metadata: trees }: Inlined) {
  const inOrder = (list: FileMetadata[]) =>
    [...list].sort((a, b) => (String(a.relative_path) < String(b.relative_path) ? -1 : 1)).map(comparable);
  return {
    metadata: Object.fromEntries(Object.entries(metadata).map(([title, one]) => [title, comparable(one)])),
    trees: Object.fromEntries(
      Object.entries(trees).map(([title, sources]) => [
        title,
        Object.fromEntries(Object.entries(sources).map(([source, list]) => [source, inOrder(list)])),
      ]),
    ),
  };
}

test('a stock static catalog holds the same metadata', { timeout: 600_000 }, async () => {
  const facts = await factsOf(CERTNAME);
  await mkdir(join(code.stock, 'conf'));
  await writeFile(join(code.stock, 'facts.json'), JSON.stringify(facts));
  const [result, { stdout }] = await Promise.all([
    pool.compile(request(CERTNAME, { codeDirectory: code.directory, facts: JSON.stringify(facts) })),
    execa('ruby', [
      PROGRAM,
      CERTNAME,
      code.environmentPath,
      join(code.directory, '.callboard', 'modulepath', '0'),
      join(code.stock, 'facts.json'),
      code.stock,
    ]),
  ]);
  if (result.status === 'failed') throw new Error(JSON.stringify(result.error));
  const ours: Inlined = JSON.parse(String(result.canonical));
  const stock: Inlined = JSON.parse(stdout.split('\n').at(-1)!);
  expect(Object.keys(stock.metadata)).toHaveLength(8);
  expect(Object.keys(stock.recursive_metadata)).toHaveLength(3);
  expect(allComparable(ours)).toEqual(allComparable(stock));
});
