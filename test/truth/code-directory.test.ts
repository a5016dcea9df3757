/** Directories of code versions: complete or absent, made once, looked over after a restart, never written by accident. */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { expect, test } from 'vitest';
import { CallboardError } from '../../src/model/errors.ts';
import type { CodeVersionHash, ContentHash } from '../../src/model/ids.ts';
import { type TreeEntry, treeHash, writeTree } from '../../src/model/tree.ts';
import { codeDirectories } from '../../src/truth/code-directory.ts';
import { temporaryDirectory } from './git-fixture.ts';

/** Content in memory that counts its reads, and a code version in it. */
function codeVersion(files: Record<string, string>, others: TreeEntry[] = []) {
  const kept = new Map<string, Buffer>();
  const put = (bytes: Buffer): ContentHash => {
    const hash = createHash('sha256').update(bytes).digest('hex') as ContentHash;
    kept.set(hash, bytes);
    return hash;
  };
  const entries: TreeEntry[] = Object.entries(files).map(([path, text]) => ({
    kind: 'file',
    path,
    mode: path.endsWith('.sh') ? '755' : '644',
    hash: put(Buffer.from(text)),
    size: Buffer.byteLength(text),
  }));
  const manifest = writeTree([...entries, ...others]);
  const id = treeHash(manifest) as CodeVersionHash;
  kept.set(id, manifest);
  let reads = 0;
  const of = (hash: ContentHash): Buffer => {
    reads += 1;
    const bytes = kept.get(hash);
    if (!bytes) throw new CallboardError('CONTENT_NOT_FOUND', { hash });
    return bytes;
  };
  return {
    id,
    kept,
    reads: () => reads,
    content: {
      read: async (hash: ContentHash) => of(hash),
      get: async (hash: ContentHash) => ({ stream: Readable.from([of(hash)]) }),
    },
  };
}

const FILES = {
  'manifests/site.pp': 'node default { }\n',
  'bin/run.sh': '#!/bin/sh\n',
  'big/file': 'x'.repeat(3 * 1024 * 1024),
  empty: '',
};
const OTHERS: TreeEntry[] = [
  { kind: 'link', path: 'modules/a', target: '../store/a' },
  { kind: 'directory', path: 'submodule' },
];

test('what is made is the manifest, byte for byte, and as old on every machine', async () => {
  const version = codeVersion(FILES, OTHERS);
  const state = temporaryDirectory('code');
  const directory = await codeDirectories({ state, content: version.content }).codeDirectory(version.id);
  expect(directory).toBe(join(state, 'code', version.id));
  for (const [path, text] of Object.entries(FILES)) {
    expect(readFileSync(join(directory, path), 'utf8')).toBe(text);
    const about = lstatSync(join(directory, path));
    expect(about.mode & 0o777).toBe(path.endsWith('.sh') ? 0o555 : 0o444);
    expect(about.mtimeMs).toBe(0);
  }
  expect(lstatSync(join(directory, 'submodule')).mode & 0o777).toBe(0o555);
  expect(readdirSync(directory, { recursive: true }).sort()).toEqual(
    [...Object.keys(FILES), 'big', 'bin', 'manifests', 'modules', 'modules/a', 'submodule'].sort(),
  );
  expect(readdirSync(join(state, 'code'))).toEqual([version.id]);
});

test('many calls at once make it once, and a later process takes it as it is', async () => {
  const version = codeVersion(FILES, OTHERS);
  const state = temporaryDirectory('code');
  const directories = codeDirectories({ state, content: version.content });
  await Promise.all(Array.from({ length: 20 }, () => directories.codeDirectory(version.id)));
  const reads = version.reads();
  expect(reads).toBe(1 + Object.keys(FILES).length);
  const inode = lstatSync(join(state, 'code', version.id)).ino;
  await codeDirectories({ state, content: version.content }).codeDirectory(version.id);
  expect(version.reads()).toBe(reads + 1); // Its manifest, to look the directory over.
  expect(lstatSync(join(state, 'code', version.id)).ino).toBe(inode);
});

const DAMAGE: [string, (directory: string) => void][] = [
  ['a file is missing', (directory) => rmSync(join(directory, 'manifests/site.pp'))],
  ['a file is shorter', (directory) => writeFileSync(join(directory, 'big/file'), 'x')],
  ['a file may be written', (directory) => chmodSync(join(directory, 'empty'), 0o644)],
  ['a file too many', (directory) => writeFileSync(join(directory, 'modules/new'), '')],
  ['a directory too many', (directory) => mkdirSync(join(directory, 'modules/new'))],
  ['an empty directory is missing', (directory) => rmSync(join(directory, 'submodule'), { recursive: true })],
  [
    'a link leads elsewhere',
    (directory) => {
      rmSync(join(directory, 'modules/a'));
      symlinkSync('/etc', join(directory, 'modules/a'));
    },
  ],
  [
    'a link in place of a directory',
    (directory) => {
      renameSync(join(directory, 'manifests'), join(directory, '..', 'elsewhere'));
      symlinkSync('../elsewhere', join(directory, 'manifests'));
    },
  ],
  [
    'it is a file',
    (directory) => {
      renameSync(directory, `${directory}-aside`);
      writeFileSync(directory, '');
    },
  ],
];

test.each(DAMAGE)(
  'a directory that is not what the manifest says is made anew by the next process: %s',
  async (_, harm) => {
    const version = codeVersion(FILES, OTHERS);
    const state = temporaryDirectory('code');
    const directory = await codeDirectories({ state, content: version.content }).codeDirectory(version.id);
    for (const path of ['', 'manifests', 'modules', 'big', 'bin']) chmodSync(join(directory, path), 0o755);
    chmodSync(join(directory, 'big/file'), 0o644);
    harm(directory);
    await codeDirectories({ state, content: version.content }).codeDirectory(version.id);
    for (const [path, text] of Object.entries(FILES)) expect(readFileSync(join(directory, path), 'utf8')).toBe(text);
    expect(readdirSync(join(directory, 'modules'))).toEqual(['a']);
    expect(lstatSync(join(directory, 'submodule')).isDirectory()).toBe(true);
    expect(lstatSync(directory).mode & 0o777).toBe(0o555);
  },
);

test('without all its content there is no directory, and as soon as it is there, there is one', async () => {
  const version = codeVersion(FILES);
  const hash = createHash('sha256').update(FILES['manifests/site.pp']).digest('hex');
  const bytes = version.kept.get(hash)!;
  version.kept.delete(hash);
  const state = temporaryDirectory('code');
  const directories = codeDirectories({ state, content: version.content });
  await expect(directories.codeDirectory(version.id)).rejects.toMatchObject({ code: 'CONTENT_NOT_FOUND' });
  expect(readdirSync(join(state, 'code'))).toEqual([]);
  version.kept.set(hash, Buffer.from('other'));
  await expect(directories.codeDirectory(version.id)).rejects.toThrow(/'manifests\/site.pp' hashes to/);
  expect(readdirSync(join(state, 'code'))).toEqual([]);
  version.kept.set(hash, bytes);
  expect(existsSync(await directories.codeDirectory(version.id))).toBe(true);
});

test('a code version that is not there', async () => {
  const version = codeVersion(FILES);
  const directories = codeDirectories({ state: temporaryDirectory('code'), content: version.content });
  await expect(directories.codeDirectory('0'.repeat(64) as CodeVersionHash)).rejects.toMatchObject({
    code: 'CONTENT_NOT_FOUND',
  });
});

test('a manifest that names paths outside is refused before anything is written', async () => {
  const version = codeVersion({ '../outside': 'x' });
  const state = temporaryDirectory('code');
  await expect(codeDirectories({ state, content: version.content }).codeDirectory(version.id)).rejects.toThrow(
    /names the path/,
  );
  expect(existsSync(join(state, 'outside'))).toBe(false);
});

test('a removed directory is gone, is made again when it is asked for, and strangers in the folder are left alone', async () => {
  const version = codeVersion(FILES, OTHERS);
  const state = temporaryDirectory('code');
  mkdirSync(join(state, 'code', 'lost+found'), { recursive: true });
  // What a killed process left, an hour ago and just now.
  for (const [name, hours] of [
    ['.new-old', 2],
    ['.old-young', 0],
  ] as const) {
    const left = join(state, 'code', name);
    mkdirSync(join(left, 'sub'), { recursive: true });
    chmodSync(left, 0o555);
    utimesSync(left, new Date(Date.now() - hours * 3600_000), new Date(Date.now() - hours * 3600_000));
  }
  const directories = codeDirectories({ state, content: version.content });
  const directory = await directories.codeDirectory(version.id);
  expect(await directories.listCodeDirectories()).toEqual([version.id]);
  await directories.removeCodeDirectory(version.id);
  await directories.removeCodeDirectory(version.id);
  expect(existsSync(directory)).toBe(false);
  expect(await directories.listCodeDirectories()).toEqual([]);
  expect(await directories.codeDirectory(version.id)).toBe(directory);
  // Somebody else's hand.
  renameSync(directory, join(state, 'aside'));
  expect(existsSync(join(await directories.codeDirectory(version.id), 'empty'))).toBe(true);
  expect(readdirSync(join(state, 'code')).sort()).toEqual(['.old-young', version.id, 'lost+found'].sort());
});

test('files that the code version before has as well are linked, and outlive its directory', async () => {
  const state = temporaryDirectory('state');
  const [first, second] = [codeVersion(FILES, OTHERS), codeVersion({ ...FILES, empty: 'no longer' }, OTHERS)];
  const content = {
    read: async (hash: ContentHash) => (first.kept.has(hash) ? first : second).content.read(hash),
    get: async (hash: ContentHash) => (first.kept.has(hash) ? first : second).content.get(hash),
  };
  const directories = codeDirectories({ state, content });
  const [one, two] = [await directories.codeDirectory(first.id), await directories.codeDirectory(second.id)];
  const inode = (directory: string, path: string) => lstatSync(join(directory, path)).ino;
  expect(inode(two, 'big/file')).toBe(inode(one, 'big/file'));
  expect(inode(two, 'empty')).not.toBe(inode(one, 'empty'));
  await directories.removeCodeDirectory(first.id);
  expect(readFileSync(join(two, 'big/file'), 'utf8')).toBe(FILES['big/file']);
});
