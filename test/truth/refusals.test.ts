/** What a deploy refuses, and in which words: each ends as failed, at once, with nothing made visible. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test, vi } from 'vitest';
import { findEnvironment } from '../../src/truth/store.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { type GitFixture, gitRepository, temporaryDirectory } from './git-fixture.ts';
import { truthFixture } from './truth-fixture.ts';

vi.setConfig({ testTimeout: 120_000 });

let database: FreshDatabase;
beforeAll(async () => {
  database = await freshDatabase();
});

/** Puts a file into the index under a name, or in a kind, that the file system would not take. */
function commitRaw(repo: GitFixture, entries: [mode: string, path: Buffer, content: string][]): void {
  const lines = entries.map(([mode, path, content]) => {
    const blob = execFileSync('git', ['hash-object', '-w', '--stdin'], { cwd: repo.directory, input: content });
    return Buffer.concat([Buffer.from(`${mode} blob ${blob.toString().trim()}\t`), path, Buffer.from([0])]);
  });
  const tree = execFileSync('git', ['mktree', '-z'], { cwd: repo.directory, input: Buffer.concat(lines) });
  const commit = repo.git('commit-tree', tree.toString().trim(), '-m', 'raw');
  repo.git('update-ref', 'refs/heads/main', commit);
}

const REFUSED: [string, string, (repo: GitFixture) => void][] = [
  [
    'a link out of the repo',
    "The link 'a' leaves the control repo: ../../etc/passwd",
    (repo) => repo.commit({ a: { link: '../../etc/passwd' } }),
  ],
  [
    'an absolute link',
    "The link 'a' leaves the control repo: /etc/passwd",
    (repo) => repo.commit({ a: { link: '/etc/passwd' } }),
  ],
  [
    'a name with a control character',
    'The file name "a\\nb" holds control characters',
    (repo) => commitRaw(repo, [['100644', Buffer.from('a\nb'), 'x']]),
  ],
  [
    'a name that is not UTF-8',
    'A file name is not UTF-8: "a\xff"',
    (repo) => commitRaw(repo, [['100644', Buffer.from([0x61, 0xff]), 'x']]),
  ],
  ['a name that is .git', "has a part named '.git'", (repo) => commitRaw(repo, [['100644', Buffer.from('.git'), 'x']])],
  ['a name that goes up', 'is not a plain path', (repo) => commitRaw(repo, [['100644', Buffer.from('..'), 'x']])],
  [
    'one name twice',
    "The code holds 'a' twice",
    (repo) =>
      commitRaw(repo, [
        ['100644', Buffer.from('a'), 'x'],
        ['100644', Buffer.from('a'), 'y'],
      ]),
  ],
  [
    "Callboard's own folder",
    "The control repo holds '.callboard/environment.json'",
    (repo) => repo.commit({ '.callboard/environment.json': '{}' }),
  ],
  [
    'a broken environment.conf',
    'environment.conf, line 2: cannot be read as a setting',
    (repo) => repo.commit({ 'environment.conf': '# x\nmodulepath\n' }),
  ],
  [
    'a modulepath above the repo',
    "The modulepath entry '../shared' leaves the control repo",
    (repo) => repo.commit({ 'environment.conf': 'modulepath = ../shared\n' }),
  ],
];

test.each(REFUSED)('%s', async (_, words, make) => {
  const truth = await truthFixture(database);
  const repo = gitRepository();
  make(repo);
  const deploy = await truth.deploy('production', repo.directory);
  expect(deploy).toMatchObject({ state: 'failed', code_version: null });
  expect(deploy.error).toContain(words);
  expect(deploy.log).toContain(words);
  expect(deploy.finished_at).not.toBeNull();
  expect((await findEnvironment(database.db, 'production'))!.code_version).toBeNull();
  expect(truth.queued).toEqual([]);
});

test('a reference that is not there, a repository that is none, and one that cannot be reached', async () => {
  const truth = await truthFixture(database);
  const repo = gitRepository();
  repo.commit({ a: 'a' });
  expect((await truth.deploy('production', repo.directory, 'nope')).error).toBe(
    `${repo.directory} has no branch, tag or commit 'nope'`,
  );
  expect((await truth.deploy('production', repo.directory, '1234567890')).error).toContain("commit '1234567890'");
  const none = await truth.deploy('production', temporaryDirectory('none'), 'main');
  expect(none.state).toBe('failed');
  expect(none.error).toContain('does not appear to be a git repository');
  const away = await truth.deploy('production', 'https://deploy:s3cret@127.0.0.1:9/x.git');
  expect(away.state).toBe('failed');
  expect(away.error).toMatch(/could not fetch 'main' of https:\/\/deploy:\*\*\*@127\.0\.0\.1:9\/x\.git/);
  expect(`${away.log}${away.error}`).not.toContain('s3cret');
  // Nobody is asked for a password, and a host that is not known is not asked about either.
  const asked = await truth.deploy('production', 'ssh://git@127.0.0.1:9/x.git');
  expect(asked.state).toBe('failed');
});

test.each(['--upload-pack=touch pwned', 'ext::sh -c "touch pwned"'])('%s never reaches git', async (repo) => {
  const truth = await truthFixture(database);
  await expect(truth.request('production', repo)).rejects.toMatchObject({ code: 'REPOSITORY_INVALID' });
  await expect(truth.request('production', '/srv/x', '--output=/tmp/pwned')).rejects.toMatchObject({
    code: 'GIT_REF_INVALID',
  });
  await expect(truth.request('Not An Environment', '/srv/x')).rejects.toMatchObject({
    code: 'ENVIRONMENT_NAME_INVALID',
  });
  expect(await findEnvironment(database.db, 'production')).toBeUndefined();
});

test("the server's modules: links within are kept or copied, links elsewhere and special files refuse the deploy", async () => {
  const base = temporaryDirectory('base');
  const elsewhere = temporaryDirectory('elsewhere');
  writeFileSync(join(elsewhere, 'secret'), 'secret');
  const module = join(base, 'apache');
  mkdirSync(join(module, 'files'), { recursive: true });
  writeFileSync(join(module, 'files', 'a'), 'a');
  symlinkSync('a', join(module, 'files', 'within'));
  mkdirSync(join(base, 'shared', 'files'), { recursive: true });
  writeFileSync(join(base, 'shared', 'files', 'b'), 'b');
  symlinkSync('../../shared/files/b', join(module, 'files', 'neighbour'));
  const repo = gitRepository();
  repo.commit({ 'environment.conf': 'modulepath = $basemodulepath\n' });
  const truth = await truthFixture(database, { basemodulepath: [base] });
  expect((await truth.deploy('production', repo.directory)).state).toBe('done');

  symlinkSync(join(elsewhere, 'secret'), join(module, 'files', 'away'));
  const away = await truth.deploy('production', repo.directory);
  expect(away).toMatchObject({ state: 'failed' });
  expect(away.error).toContain(`leaves its directory: ${join(elsewhere, 'secret')}`);
  execFileSync('rm', [join(module, 'files', 'away')]);

  execFileSync('mkfifo', [join(module, 'files', 'pipe')]);
  const special = await truth.deploy('production', repo.directory);
  expect(special.error).toContain('is neither a file, a directory nor a link');
});
