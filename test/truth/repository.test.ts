/** Control repos as they come: owned by others, large, with submodules, many files; and what a deploy of few changes costs. */
import { createHash } from 'node:crypto';
import { rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execaSync } from 'execa';
import { beforeAll, expect, test, vi } from 'vitest';
import type { ContentHash } from '../../src/model/ids.ts';
import { readTree } from '../../src/model/tree.ts';
import { KnownBlobs, KnownFiles } from '../../src/truth/known-hashes.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { gitRepository, temporaryDirectory } from './git-fixture.ts';
import { truthFixture } from './truth-fixture.ts';

vi.setConfig({ testTimeout: 240_000 });

let database: FreshDatabase;
beforeAll(async () => {
  database = await freshDatabase();
});

test.runIf(process.getuid?.() === 0)(
  'a repository that belongs to somebody else, bare or not, is deployed',
  async () => {
    const repo = gitRepository();
    repo.commit({ a: 'a' });
    const bare = temporaryDirectory('bare');
    execaSync('git', ['clone', '--quiet', '--bare', repo.directory, join(bare, 'repo.git')]);
    execaSync('chown', ['-R', '65534:65534', repo.directory, bare]);
    // This is what is overcome: git itself refuses.
    const refused = execaSync('git', ['ls-remote', repo.directory], { reject: false });
    expect(refused.stderr).toContain('dubious ownership');
    const truth = await truthFixture(database);
    const first = await truth.deploy('production', repo.directory);
    expect(first).toMatchObject({ state: 'done', error: null });
    for (const other of [`${repo.directory}/`, join(bare, 'repo.git'), `file://${bare}/repo.git`]) {
      expect(await truth.deploy('production', other)).toMatchObject({
        state: 'done',
        code_version: first.code_version,
      });
    }
  },
);

test('large files, empty files, executable files and odd names come through byte for byte', async () => {
  const large = Buffer.alloc(9 * 1024 * 1024, 'callboard');
  const files: Record<string, string | Buffer> = {
    large,
    empty: '',
    'data/ü 日本 $x `y`.yaml': 'a: 1\r\n',
    'with\\backslash': 'b',
    '-dash': 'c',
  };
  const repo = gitRepository();
  // Attributes that would change bytes on a checkout change nothing here.
  repo.commit({ ...files, '.gitattributes': '* text eol=crlf\nlarge export-ignore\n' });
  const truth = await truthFixture(database);
  const deploy = await truth.deploy('production', repo.directory);
  const entries = readTree(await truth.content.read(deploy.code_version as ContentHash));
  const blobs = new Map(
    repo
      .git('-c', 'core.quotePath=false', 'ls-tree', '-r', '-z', 'HEAD')
      .split('\0')
      .filter(Boolean)
      .map((line) => [line.split('\t')[1]!, line.split('\t')[0]!.split(' ')[2]!]),
  );
  for (const path of Object.keys(files)) {
    const entry = entries.find((each) => each.path === path)!;
    if (entry.kind !== 'file') throw new Error(`${path} is no file`);
    const { stream } = await truth.content.get(entry.hash);
    const bytes = Buffer.concat(await stream.toArray());
    const blob = createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
    expect(blob).toBe(blobs.get(path));
  }
});

test('a submodule is an empty directory, and the log says so', async () => {
  const repo = gitRepository();
  const commit = repo.commit({ a: 'a' });
  repo.git('update-index', '--add', '--cacheinfo', `160000,${commit},vendor/module`);
  repo.git('commit', '--quiet', '--message', 'submodule');
  const truth = await truthFixture(database);
  const deploy = await truth.deploy('production', repo.directory);
  expect(deploy.log).toContain("'vendor/module' is a git submodule: its files are left out");
  expect(readTree(await truth.content.read(deploy.code_version as ContentHash))).toContainEqual({
    kind: 'directory',
    path: 'vendor/module',
  });
});

test('10,000 files of which one changed: that one is read, and stored with the new manifest', async () => {
  const repo = gitRepository();
  repo.commit(
    Object.fromEntries(Array.from({ length: 10_000 }, (_, n) => [`data/${n % 100}/${n}.yaml`, `value: ${n % 500}\n`])),
  );
  const truth = await truthFixture(database);
  const first = await truth.deploy('production', repo.directory);
  expect(first.log).toMatch(/10001 files, .*; 500 read, 503 stored anew/);
  repo.commit({ 'data/0/0.yaml': 'value: changed\n' });
  const started = process.cpuUsage();
  const startedAt = performance.now();
  const second = await truth.deploy('production', repo.directory);
  const took = Math.round(performance.now() - startedAt);
  const cpu = process.cpuUsage(started);
  console.log(`10,000 files, one changed: ${took} ms, ${Math.round((cpu.user + cpu.system) / 1000)} ms of CPU`);
  expect(second.log).toMatch(/10001 files, .*; 1 read, 2 stored anew/);
  // Some 0.6 s where nothing else goes on.
  expect((cpu.user + cpu.system) / 1000).toBeLessThan(3000);
  expect(took).toBeLessThan(10_000);
});

test("a damaged mirror is made anew by the next attempt, and a lock that a killed git left is in nobody's way", async () => {
  const repo = gitRepository();
  const commit = repo.commit({ a: 'a', b: 'b' });
  const truth = await truthFixture(database);
  expect((await truth.deploy('production', repo.directory)).state).toBe('done');
  const mirror = join(truth.state, 'git', createHash('sha256').update(repo.directory).digest('hex'));
  const lock = join(mirror, 'refs/callboard/commit', `${commit}.lock`);
  writeFileSync(lock, '');
  utimesSync(lock, 1, 1);
  expect(await truth.deploy('production', repo.directory)).toMatchObject({ state: 'done', error: null });

  // A tree, a file that was not read yet, the commit itself: gone, or empty as after a power cut.
  for (const [object, harm] of [
    [repo.git('rev-parse', 'HEAD^{tree}'), 'gone'],
    [repo.git('rev-parse', 'HEAD:b'), 'empty'],
    [commit, 'empty'],
  ] as const) {
    rmSync(join(truth.state, 'git', 'known-blobs'), { force: true });
    const file = join(mirror, 'objects', object.slice(0, 2), object.slice(2));
    rmSync(file);
    if (harm === 'empty') writeFileSync(file, '');
    const id = await truth.request('production', repo.directory);
    const first = await truth.run(id, { lastAttempt: false }).catch(() => undefined);
    expect(first?.state === 'done' ? first : await truth.run(id)).toMatchObject({ state: 'done', error: null });
  }
});

test('what is remembered of blobs survives torn lines, and a lost file costs only time', async () => {
  const file = join(temporaryDirectory('known'), 'blobs');
  const hash = 'a'.repeat(64) as ContentHash;
  const blobs = await KnownBlobs.load(file);
  blobs.add('1'.repeat(40), { hash, size: 5 });
  await blobs.save();
  // A writer was killed in the middle of a line; the next one appends after it.
  writeFileSync(file, `${'2'.repeat(40)} ${'b'.repeat(30)}`, { flag: 'a' });
  const more = await KnownBlobs.load(file);
  more.add('3'.repeat(40), { hash, size: 6 });
  await more.save();
  const all = await KnownBlobs.load(file);
  expect(all.get('1'.repeat(40))).toEqual({ hash, size: 5 });
  expect(all.get('2'.repeat(40))).toBeUndefined();
  expect(all.get('3'.repeat(40))).toEqual({ hash, size: 6 });
  rmSync(file);
  expect((await KnownBlobs.load(file)).get('1'.repeat(40))).toBeUndefined();
});

test('a file is known by its stat, unless it changed so recently that the stat may lie', async () => {
  const file = join(temporaryDirectory('known'), 'files');
  const hash = 'a'.repeat(64) as ContentHash;
  const old = { size: 1n, mtimeNs: 1n, ctimeNs: 2n, ino: 3n, dev: 4n };
  const now = { ...old, ctimeNs: BigInt(Date.now()) * 1_000_000n };
  const files = await KnownFiles.load(file);
  files.add('/a b', old, hash);
  files.add('/young', now, hash);
  await files.save();
  const again = await KnownFiles.load(file);
  expect(again.get('/a b', old)).toBe(hash);
  for (const name of ['size', 'mtimeNs', 'ctimeNs', 'ino', 'dev'] as const) {
    expect(again.get('/a b', { ...old, [name]: 9n })).toBeUndefined();
  }
  expect(again.get('/young', now)).toBeUndefined();
});
