/** Every puppet: source is answered in the catalog itself, as a server would answer the agent. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CompilePool } from '../../src/compile/pool.ts';
import type { Catalog, FileMetadata } from '../../src/model/catalog.ts';
import { openPool, request } from '../ruby-worker/compiling.ts';
import { codeTree } from './code-tree.ts';

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const md5 = (text: string) => createHash('md5').update(text).digest('hex');

let pool: CompilePool;
let mounts: string;
let directory: string;

beforeAll(async () => {
  mounts = await mkdtemp(join(tmpdir(), 'callboard-mounts-'));
  afterAll(() => rm(mounts, { recursive: true }));
  await mkdir(join(mounts, 'site/n1.example.net'), { recursive: true });
  await writeFile(join(mounts, 'site/shared.txt'), 'shared');
  await writeFile(join(mounts, 'site/n1.example.net/own.txt'), 'own');
  await writeFile(
    join(mounts, 'fileserver.conf'),
    `[site]\n  path ${mounts}/site\n  allow *\n[private]\n  path ${mounts}/site/%H\n  allow *\n`,
  );
  directory = await codeTree(
    {
      'manifests/site.pp': 'include cases',
      'modules/cases/manifests/init.pp': MANIFEST,
      'modules/cases/files/one': 'one',
      'modules/cases/files/tool': { executable: '#!/bin/sh\n' },
      'modules/cases/files/with space+plus.txt': 'odd name',
      'modules/cases/files/tree/b': 'b',
      'modules/cases/files/tree/a.bak': 'backup',
      'modules/cases/files/tree/sub/deep/c': 'c',
      'modules/cases/files/tree/-first': 'sorts before the dot',
      'modules/cases/files/tree/link': { link: 'b' },
      'modules/cases/files/second/b': 'another b',
      'modules/cases/files/second/d': 'd',
      'outside/elsewhere/files/x': 'from a module outside',
    },
    ['modules', 'outside'],
  );
  pool = openPool({ fileserverConfig: join(mounts, 'fileserver.conf') });
  await pool.start();
}, 300_000);
afterAll(() => pool?.close());

const MANIFEST = `
class cases {
  file { '/one': source => 'puppet:///modules/cases/one' }
  file { '/slash': source => 'puppet:///modules/cases/tree/', ensure => directory }
  file { '/absent': ensure => absent, source => 'puppet:///modules/cases/one' }
  file { '/list': source => ['puppet:///modules/cases/no', 'puppet:///modules/cases/one', 'puppet:///modules/cases/tool'] }
  file { '/odd': source => 'puppet:///modules/cases/with space+plus.txt' }
  file { '/md5': source => 'puppet:///modules/cases/one', checksum => md5 }
  file { '/mtime': source => 'puppet:///modules/cases/one', checksum => mtime }
  file { '/use': source => 'puppet:///modules/cases/tool', source_permissions => use }
  file { '/link': source => 'puppet:///modules/cases/tree/link' }
  file { '/follow': source => 'puppet:///modules/cases/tree/link', links => follow }
  file { '/outside': source => 'puppet:///modules/elsewhere/x' }
  file { '/mount': source => 'puppet:///site/shared.txt' }
  file { '/private': source => 'puppet:///private/own.txt' }
  file { '/host': source => 'puppet://puppet/modules/cases/one' }
  file { '/nowhere': source => ['puppet:///modules/cases/no', 'puppet:///modules/none/no'] }
  file { '/mixed': source => ['/etc/hosts', 'puppet:///modules/cases/one'] }
  file { '/mixed-first': source => ['puppet:///modules/cases/one', '/etc/hosts'] }
  file { '/local': source => '/etc/hosts' }
  file { '/tree': ensure => directory, recurse => true, source => 'puppet:///modules/cases/tree', ignore => '*.bak' }
  file { '/tree-remote': ensure => directory, recurse => remote, recurselimit => 1, links => follow, source => 'puppet:///modules/cases/tree' }
  file { '/tree-all': ensure => directory, recurse => true, sourceselect => all, source => ['puppet:///modules/cases/second', 'puppet:///modules/cases/tree'] }
  file { '/tree-first': ensure => directory, recurse => true, source => ['puppet:///modules/cases/no', 'puppet:///modules/cases/second', 'puppet:///modules/cases/tree'] }
  file { '/tree-of-a-file': recurse => true, source => 'puppet:///modules/cases/one' }
  file { '/tree-mount': ensure => directory, recurse => true, source => 'puppet:///site' }
  file { '/too-many': ensure => directory, recurse => true, max_files => 2, source => 'puppet:///modules/cases/tree' }
  exec { '/bin/other': environment => ['puppet:///modules/cases/one', 'puppet:///modules/cases/no'] }
}`;

async function compiled() {
  const result = await pool.compile(request('n1.example.net', { codeDirectory: directory }));
  if (result.status === 'failed') throw new Error(JSON.stringify(result.error));
  const catalog: Catalog = JSON.parse(String(result.canonical));
  return { ...result, catalog, metadata: catalog.metadata!, trees: catalog.recursive_metadata! };
}
const brief = (one: FileMetadata | undefined) => one && `${one.type} ${one.checksum.value} ${one.content_uri ?? '-'}`;
const file = (text: string) => `file {sha256}${sha256(text)} puppet:///sha256/${sha256(text)}`;
const DIRECTORY = 'directory {ctime}1970-01-01 00:00:00 +0000 -';

describe('single files', { timeout: 180_000 }, () => {
  test('say all that an agent asks, and nothing of this machine', async () => {
    const { metadata } = await compiled();
    expect(metadata['/one']).toEqual({
      checksum: { type: 'sha256', value: `{sha256}${sha256('one')}` },
      content_uri: `puppet:///sha256/${sha256('one')}`,
      destination: null,
      group: 0,
      links: 'manage',
      mode: 0o644,
      owner: 0,
      path: '/modules/cases/one',
      relative_path: null,
      source: 'puppet:///modules/cases/one',
      type: 'file',
    });
    expect(JSON.stringify(metadata)).not.toContain(directory);
  });
  test('from lists, odd names, mounts, modules elsewhere, and with a host', async () => {
    const { metadata } = await compiled();
    for (const title of ['/one', '/list', '/absent', '/host', '/mixed-first'])
      expect(brief(metadata[title])).toBe(file('one'));
    expect(metadata['/list']!.source).toBe('puppet:///modules/cases/one');
    expect(brief(metadata['/odd'])).toBe(file('odd name'));
    expect(brief(metadata['/outside'])).toBe(file('from a module outside'));
    expect(brief(metadata['/mount'])).toBe(file('shared'));
    expect(brief(metadata['/private'])).toBe(file('own'));
    expect(brief(metadata['/slash'])).toBe(DIRECTORY);
  });
  test('keep the checksum that the resource asks for, but never a time', async () => {
    const { metadata } = await compiled();
    expect(metadata['/md5']).toMatchObject({
      checksum: { type: 'md5', value: `{md5}${md5('one')}` },
      content_uri: `puppet:///sha256/${sha256('one')}`,
    });
    expect(brief(metadata['/mtime'])).toBe(file('one'));
  });
  test('carry permissions only where they are asked for', async () => {
    const { metadata } = await compiled();
    expect(metadata['/use']).toMatchObject({ mode: 0o755, owner: 0, group: 0 });
  });
  test('manage links, or follow them', async () => {
    const { metadata } = await compiled();
    expect(metadata['/link']).toMatchObject({ type: 'link', destination: 'b', checksum: { value: null } });
    expect(brief(metadata['/follow'])).toBe(file('b'));
  });
  test('that nobody has, or that only the node can decide, are left out and told of', async () => {
    const { metadata, warnings } = await compiled();
    for (const title of ['/nowhere', '/mixed', '/local']) expect(metadata[title]).toBeUndefined();
    const told = warnings.map((one) => one.message).join('\n');
    expect(told).toContain('File[/nowhere]: no source exists: puppet:///modules/cases/no, puppet:///modules/none/no');
    expect(told).toContain('File[/mixed]: its list of sources mixes');
    expect(told).not.toContain('File[/local]');
  });
  test('of other types stand under their own source', async () => {
    const { metadata } = await compiled();
    expect(brief(metadata['puppet:///modules/cases/one'])).toBe(file('one'));
    expect(metadata['puppet:///modules/cases/no']).toBeUndefined();
  });
});

describe('trees', { timeout: 180_000 }, () => {
  const shape = (list: FileMetadata[] | undefined) => list?.map((one) => `${one.relative_path} ${brief(one)}`);

  test('are listed in an order of their own, less what is ignored', async () => {
    const { trees, metadata } = await compiled();
    expect(metadata['/tree']).toBeUndefined();
    expect(shape(trees['/tree']!['puppet:///modules/cases/tree'])).toEqual([
      `. ${DIRECTORY}`,
      `-first ${file('sorts before the dot')}`,
      `b ${file('b')}`,
      'link link null -',
      `sub ${DIRECTORY}`,
      `sub/deep ${DIRECTORY}`,
      `sub/deep/c ${file('c')}`,
    ]);
  });
  test('end at their limit, and follow links where told to', async () => {
    const { trees } = await compiled();
    expect(shape(trees['/tree-remote']!['puppet:///modules/cases/tree'])).toEqual([
      `. ${DIRECTORY}`,
      `-first ${file('sorts before the dot')}`,
      `a.bak ${file('backup')}`,
      `b ${file('b')}`,
      `link ${file('b')}`,
      `sub ${DIRECTORY}`,
    ]);
  });
  test('come from all sources, or from the first that exists', async () => {
    const { trees } = await compiled();
    expect(Object.keys(trees['/tree-all']!)).toEqual([
      'puppet:///modules/cases/second',
      'puppet:///modules/cases/tree',
    ]);
    expect(Object.keys(trees['/tree-first']!)).toEqual(['puppet:///modules/cases/second']);
  });
  test('come from mounts', async () => {
    const { trees } = await compiled();
    expect(shape(trees['/tree-mount']!['puppet:///site'])).toContain(`n1.example.net/own.txt ${file('own')}`);
  });
  test('that are files are files as well', async () => {
    const { trees, metadata } = await compiled();
    expect(brief(metadata['/tree-of-a-file'])).toBe(file('one'));
    expect(shape(trees['/tree-of-a-file']!['puppet:///modules/cases/one'])).toEqual([`. ${file('one')}`]);
  });
  test('that are too large for their limit are told of', async () => {
    const { trees, warnings } = await compiled();
    expect(trees['/too-many']).toBeUndefined();
    expect(warnings.map((one) => one.message).join('\n')).toMatch(/File\[\/too-many\]: .*max_files/);
  });
});

test('content of mounts is named with its path, content of the code version is not', { timeout: 180_000 }, async () => {
  const { contents } = await compiled();
  const byHash = new Map(contents.map((one) => [one.hash, one]));
  expect(byHash.get(sha256('shared'))).toEqual({
    hash: sha256('shared'),
    size: 6,
    path: join(mounts, 'site/shared.txt'),
  });
  expect(byHash.get(sha256('one'))).toEqual({ hash: sha256('one'), size: 3 });
});
