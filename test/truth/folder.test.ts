import { existsSync, mkdirSync, readdirSync, realpathSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ContentHash } from '../../src/model/ids.ts';
import type { TreeEntry } from '../../src/model/tree.ts';
import { Folder, linksOutside } from '../../src/truth/folder.ts';
import { parseTreePath } from '../../src/truth/path.ts';
import { temporaryDirectory } from './git-fixture.ts';

function file(path: string): TreeEntry {
  return { kind: 'file', path, mode: '644', hash: '0'.repeat(64) as ContentHash, size: 1 };
}
const link = (path: string, target: string): TreeEntry => ({ kind: 'link', path, target });

test('links are followed as the kernel follows them', () => {
  const name = fc.constantFrom('a', 'b', 'c');
  const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));
  const target = fc
    .array(fc.constantFrom('a', 'b', 'c', '..', '.'), { minLength: 1, maxLength: 4 })
    .map((parts) => parts.join('/'));
  const entries = fc.uniqueArray(
    fc.oneof(
      path.map(file),
      fc.tuple(path, target).map(([where, to]) => link(where, to)),
    ),
    { selector: (entry) => entry.path, maxLength: 8 },
  );
  fc.assert(
    fc.property(entries, fc.array(path, { minLength: 1, maxLength: 5 }), (made, asked) => {
      let folder: Folder;
      try {
        folder = new Folder(made);
      } catch {
        return; // Two entries cannot both be there.
      }
      const root = temporaryDirectory('folder');
      const tree = join(root, 'deep', 'deep', 'deep', 'tree');
      mkdirSync(tree, { recursive: true });
      for (const entry of made) {
        const place = join(tree, entry.path);
        mkdirSync(dirname(place), { recursive: true });
        if (entry.kind === 'link') symlinkSync(entry.target, place);
        else writeFileSync(place, 'x');
      }
      for (const each of asked) {
        const found = folder.find(each);
        if (found.state === 'outside') continue; // The kernel knows no outside; that we stop there is the next test's.
        const real = existsSync(join(tree, each)) ? realpathSync(join(tree, each)) : undefined;
        if (real === undefined) expect(['absent', 'loop']).toContain(found.state);
        else {
          expect(found.state).toBe(statSync(real).isDirectory() ? 'directory' : 'file');
          if (found.state === 'directory' || found.state === 'file') expect(join(tree, found.path)).toBe(real);
          if (found.state === 'directory') expect(folder.names(found.path)).toEqual(readdirSync(real).sort());
        }
      }
    }),
    { numRuns: 150 },
  );
});

test.each([
  ['up and out', [link('a', '../x')]],
  ['absolute', [link('a', '/etc/passwd')]],
  ['empty', [link('a', '')]],
  ['through another link', [file('deep/file'), link('deep/up', '..'), link('out', 'deep/up/../x')]],
  ['through words alone', [link('a', 'b/../../x')]],
])('a link that leaves the tree is told: %s', (_, entries) => {
  expect(linksOutside(entries, new Folder(entries)).length).toBeGreaterThan(0);
});

test('links that stay are left alone, loops and those to nowhere too', () => {
  const entries = [
    file('modules/a/files/x'),
    link('modules/b', 'a'),
    link('modules/a/files/y', '../../b/files/x'),
    link('loop', 'loop'),
    link('nowhere', 'modules/zzz'),
  ];
  const folder = new Folder(entries);
  expect(linksOutside(entries, folder)).toEqual([]);
  expect(folder.find('modules/a/files/y')).toMatchObject({ state: 'file', path: 'modules/a/files/x' });
  expect(folder.find('loop').state).toBe('loop');
});

test('a tree that holds a path twice, or something inside a file, is refused', () => {
  expect(() => new Folder([file('a'), file('a')])).toThrowError(/'a' twice/);
  expect(() => new Folder([file('a'), file('a/b')])).toThrowError(/'a\/b' twice/);
  expect(() => new Folder([file('a/b'), link('a', 'c')])).toThrowError(/'a' twice/);
});

test.each([
  [Buffer.from('a\nb'), 'control characters'],
  [Buffer.from([0x61, 0xff]), 'not UTF-8'],
  [Buffer.from(`${'x/'.repeat(600)}x`), 'longer than'],
  [Buffer.from('y'.repeat(256)), 'longer than 255'],
  [Buffer.from('a/../b'), 'not a plain path'],
  [Buffer.from('a//b'), 'not a plain path'],
  [Buffer.from('/a'), 'not a plain path'],
  [Buffer.from('a/.GIT/config'), "'.git'"],
])('the file name %s is refused: %s', (bytes, reason) => {
  expect(() => parseTreePath(bytes)).toThrowError(
    expect.objectContaining({ code: 'CODE_DEPLOY_FAILED', message: expect.stringContaining(reason) }),
  );
});

test('a file name may hold any other letter', () => {
  expect(parseTreePath(Buffer.from('data/nodes/ü 日本\\x.yaml'))).toBe('data/nodes/ü 日本\\x.yaml');
});
