/** Puppetfiles, resolved by the real r10k: modules from real git repositories, a forge that cannot be reached, no r10k at all. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test, vi } from 'vitest';
import type { ContentHash } from '../../src/model/ids.ts';
import { readTree } from '../../src/model/tree.ts';
import { freshDatabase } from '../postgres/fresh.ts';
import { gitRepository, temporaryDirectory } from './git-fixture.ts';
import { type TruthFixture, truthFixture } from './truth-fixture.ts';

/** r10k is started several times a test; a busy machine takes its time. */
vi.setConfig({ testTimeout: 120_000 });

let truth: TruthFixture;
beforeAll(async () => {
  truth = await truthFixture(await freshDatabase(), {}, 'file');
});

async function pathsOf(codeVersion: string | null): Promise<string[]> {
  return readTree(await truth.content.read(codeVersion as ContentHash)).map((entry) => entry.path);
}

test("a Puppetfile's git modules become part of the code version, whatever else lies in the repo", async () => {
  const ferry = gitRepository();
  ferry.commit({
    'manifests/init.pp': 'class ferry { }\n',
    'lib/facter/ferry.rb': '# one\n',
    'bin/run': { script: '#!/bin/sh\n' },
  });
  const repo = gitRepository();
  repo.commit({
    Puppetfile: `moduledir 'dist'\nmod 'ferry', :git => '${ferry.directory}', :branch => 'main'\n`,
    'environment.conf': 'modulepath = site:dist\n',
    'site/role/manifests/init.pp': 'class role { }\n',
    'manifests/site.pp': '# here\n',
  });
  const first = await truth.deploy('production', repo.directory);
  expect(first).toMatchObject({ state: 'done', error: null });
  expect(first.log).toMatch(/r10k: INFO.*ferry/);
  expect(await pathsOf(first.code_version)).toEqual([
    '.callboard/environment.json',
    'Puppetfile',
    'dist/ferry/bin/run',
    'dist/ferry/lib/facter/ferry.rb',
    'dist/ferry/manifests/init.pp',
    'environment.conf',
    'manifests/site.pp',
    'site/role/manifests/init.pp',
  ]);

  // The same commit, but the branch that the Puppetfile names has moved: another tree, another name.
  ferry.commit({ 'lib/facter/ferry.rb': '# two\n' });
  const second = await truth.deploy('production', repo.directory);
  expect(second).toMatchObject({ state: 'done', commit: first.commit });
  expect(second.code_version).not.toBe(first.code_version);
  // And once more: the same tree, from a checkout of its own, has the same name.
  const third = await truth.deploy('staging', repo.directory);
  expect(third.code_version).toBe(second.code_version);
  expect(readdirSync(join(truth.state, 'git', 'staging'))).toEqual([]);
});

test('deploys of different environments run r10k side by side, each with a cache of its own', async () => {
  const ferry = gitRepository();
  ferry.commit({ 'manifests/init.pp': 'class ferry { }\n' });
  const repo = gitRepository();
  repo.commit({ Puppetfile: `mod 'ferry', :git => '${ferry.directory}', :branch => 'main'\n` });
  const [one, two] = await Promise.all([truth.deploy('one', repo.directory), truth.deploy('two', repo.directory)]);
  expect(one).toMatchObject({ state: 'done', code_version: two.code_version });
  expect(await pathsOf(one.code_version)).toContain('modules/ferry/manifests/init.pp');
  expect(existsSync(join(truth.state, 'git', 'r10k-1'))).toBe(true);
});

test("a forge that cannot be reached fails the deploy with r10k's own words", async () => {
  const before = { ...process.env };
  process.env.https_proxy = process.env.HTTPS_PROXY = process.env.http_proxy = 'http://127.0.0.1:9';
  try {
    const repo = gitRepository();
    repo.commit({ Puppetfile: "mod 'puppetlabs/stdlib', '8.5.0'\n" });
    const deploy = await truth.deploy('forge', repo.directory);
    expect(deploy.state).toBe('failed');
    expect(deploy.error).toMatch(/^r10k could not install the Puppetfile: .+/);
    expect(deploy.log).toMatch(/r10k: ERROR.*->/);
  } finally {
    for (const name of ['https_proxy', 'HTTPS_PROXY', 'http_proxy']) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  }
});

test('a Puppetfile that is not Ruby, and one whose module is not there', async () => {
  const repo = gitRepository();
  repo.commit({ Puppetfile: "mod 'ferry', :git => \n)" });
  const broken = await truth.deploy('broken', repo.directory);
  expect(broken).toMatchObject({ state: 'failed' });
  expect(broken.error).toMatch(/r10k could not install the Puppetfile: .*Puppetfile/);
  repo.commit({ Puppetfile: `mod 'ferry', :git => '${temporaryDirectory('none')}', :branch => 'main'\n` });
  expect(await truth.deploy('broken', repo.directory)).toMatchObject({ state: 'failed', code_version: null });
});

test('a Puppetfile without r10k on the server is a clear error', async () => {
  const without = await truthFixture({ db: truth.deps.db } as never, { r10k: '/nowhere/r10k' });
  const repo = gitRepository();
  repo.commit({ Puppetfile: "mod 'ferry'\n" });
  const deploy = await without.deploy('without', repo.directory);
  expect(deploy).toMatchObject({
    state: 'failed',
    error: "The control repo has a Puppetfile, and '/nowhere/r10k' is not installed on this server",
  });
});

test("a cache in which r10k was killed is made anew, and one that a dead server's r10k still works in is left alone", async () => {
  const ferry = gitRepository();
  ferry.commit({ 'manifests/init.pp': 'class ferry { }\n' });
  const repo = gitRepository();
  repo.commit({ Puppetfile: `mod 'ferry', :git => '${ferry.directory}', :branch => 'main'\n` });
  const git = join(truth.state, 'git');
  mkdirSync(join(git, 'r10k-0'), { recursive: true });
  writeFileSync(join(git, 'r10k-0', 'half'), '');
  writeFileSync(join(git, 'r10k-0.user'), '4194999 12345');
  const old = join(git, 'staging', 'deploy-killed');
  mkdirSync(old, { recursive: true });
  utimesSync(old, 0, 0);
  expect(await truth.deploy('killed', repo.directory)).toMatchObject({ state: 'done', error: null });
  expect(existsSync(join(git, 'r10k-0', 'half'))).toBe(false);
  expect(existsSync(join(git, 'r10k-0.user'))).toBe(false);
  expect(existsSync(old)).toBe(false);

  const fields = readFileSync('/proc/self/stat', 'utf8').split(') ')[1]!.split(' ');
  writeFileSync(join(git, 'r10k-0.user'), `${process.pid} ${fields[19]}`);
  rmSync(join(git, 'r10k-0'), { recursive: true });
  expect(await truth.deploy('killed', repo.directory)).toMatchObject({ state: 'done', error: null });
  expect(existsSync(join(git, 'r10k-0'))).toBe(false);
  rmSync(join(git, 'r10k-0.user'));
});

test('a deploy that is stopped ends r10k and what it started', async () => {
  const directory = temporaryDirectory('stop');
  const repo = gitRepository();
  repo.commit({ Puppetfile: `File.write('${directory}/pid', Process.pid.to_s)\nsleep 300\n` });
  const stop = new AbortController();
  const id = await truth.request('stop', repo.directory);
  const running = truth.run(id, { signal: stop.signal, lastAttempt: false });
  running.catch(() => {});
  const pid = await vi.waitFor(
    () => {
      const text = readFileSync(join(directory, 'pid'), 'utf8');
      expect(text).toMatch(/^\d+$/);
      return Number(text);
    },
    { timeout: 60_000 },
  );
  stop.abort(new Error('the server stops'));
  await expect(running).rejects.toThrow('the server stops');
  await vi.waitFor(() => expect(() => process.kill(pid, 0)).toThrow(), { timeout: 20_000 });
});
