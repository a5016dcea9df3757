import { execaSync } from 'execa';
import { expect, test } from 'vitest';
import { checkRef, checkRepository, looksLikeCommit, secretsOf, shownRepository } from '../../src/truth/ref.ts';

test.each([
  '/srv/control-repo',
  'https://git.example.org/control-repo.git',
  'ssh://git@git.example.org:2222/control-repo.git',
  'git@git.example.org:team/control-repo.git',
  'git.example.org:control-repo',
  'file:///srv/control repo',
  'git://git.example.org/control-repo',
  'https://deploy:s3cret@git.example.org/control-repo.git',
])('%s may be a control repo', (repository) => {
  expect(checkRepository(repository)).toBe(repository);
});

test.each([
  ['', 'no path'],
  ['--upload-pack=touch /tmp/x', 'no path'],
  ['ext::sh -c "touch /tmp/x"', 'commands'],
  ['fd::17/x', 'commands'],
  ['relative/path', 'no absolute path'],
  ['./here', 'no absolute path'],
  ['ftp://example.org/x', 'not one of'],
  ['/srv/a\nb', 'control characters'],
  ['ssh://-oProxyCommand=touch/x', 'dash'],
  [`/${'x'.repeat(3000)}`, 'longer'],
])('%j is refused as a control repo', (repository, reason) => {
  expect(() => checkRepository(repository)).toThrowError(
    expect.objectContaining({ code: 'REPOSITORY_INVALID', message: expect.stringContaining(reason) }),
  );
});

const REFS = [
  'main',
  'HEAD',
  'feature/one',
  'v1.2.3',
  'refs/heads/main',
  'a@b',
  '1234567890123456789012345678901234567890',
  'ünïcode',
  '-main',
  '--upload-pack=x',
  'a b',
  'a..b',
  'a~1',
  'a^',
  'a:b',
  'a?',
  'a*',
  'a[b',
  'a\\b',
  'a@{1}',
  'a.lock',
  'a.lock/b',
  'a/',
  'a.',
  '.a',
  'a/.b',
  'a//b',
  '/a',
  'a\x01',
  'a\x7f',
  '',
];

test.each(REFS)('the reference %j is taken exactly when git would take it as a name', (ref) => {
  const git = execaSync('git', ['check-ref-format', '--branch', ref], { reject: false, cwd: '/' });
  const taken = (() => {
    try {
      return checkRef(ref) === ref;
    } catch (error) {
      expect(error).toMatchObject({ code: 'GIT_REF_INVALID' });
      return false;
    }
  })();
  // git keeps HEAD from being a branch's name; as something to deploy it has a meaning.
  expect(taken).toBe(git.exitCode === 0 || ref === 'HEAD');
});

test('a commit may be cut, but not so far that anything is one', () => {
  expect(looksLikeCommit('1234abc')).toBe(true);
  expect(looksLikeCommit('1234ab')).toBe(false);
  expect(looksLikeCommit('main')).toBe(false);
});

test("a repository's password is never shown, and is known as something to keep out of logs", () => {
  const repository = 'https://deploy:s3%20cret@git.example.org/control-repo.git';
  expect(shownRepository(repository)).toBe('https://deploy:***@git.example.org/control-repo.git');
  expect(secretsOf(repository)).toEqual(['s3%20cret', 's3 cret']);
  const token = 'https://ghp_0123456789012345678901234567890123456@git.example.org/x.git';
  expect(shownRepository(token)).toBe('https://***@git.example.org/x.git');
  expect(secretsOf(token)).toHaveLength(1);
  expect(shownRepository('git@git.example.org:x.git')).toBe('git@git.example.org:x.git');
  expect(secretsOf('ssh://git@git.example.org/x.git')).toEqual([]);
});
