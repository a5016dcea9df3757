/**
 * Modules of a Puppetfile, by the real r10k and the real g10k, from real git repositories. Wanted: both give the same code
 * version, and of many environments that are deployed at once only one asks the modules' git server.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { ContentHash } from '../../src/model/ids.ts';
import { readTree } from '../../src/model/tree.ts';
import { plainModuleDirectory } from '../../src/truth/installed.ts';
import { moduleRepositories } from '../../src/truth/module-mirrors.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { gitRepository, temporaryDirectory } from './git-fixture.ts';
import { type TruthFixture, truthFixture } from './truth-fixture.ts';

/** Ruby is started several times a test; a busy machine takes its time. */
vi.setConfig({ testTimeout: 120_000 });

let database: FreshDatabase;
let root: string;
let url: string;
let daemon: ReturnType<typeof startDaemon>;
/** What the git server was asked, one line a fetch or clone. */
const requests: string[] = [];

function startDaemon(port: number) {
  const child = execa(
    'git',
    [
      'daemon',
      '--verbose',
      '--export-all',
      '--reuseaddr',
      '--listen=127.0.0.1',
      `--port=${port}`,
      `--base-path=${root}`,
    ],
    { reject: false, all: true, killDescendants: true },
  );
  child.all.on('data', (bytes: Buffer) => {
    requests.push(...(bytes.toString().match(/Request upload-pack for '[^']+'/g) ?? []));
  });
  return child;
}

beforeAll(async () => {
  database = await freshDatabase();
  root = temporaryDirectory('modules', 'file');
  const port = await new Promise<number>((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
  daemon = startDaemon(port);
  url = `git://127.0.0.1:${port}`;
});
afterAll(async () => {
  daemon.kill();
  await daemon;
});

/** A module that the git server serves. */
function module(name: string) {
  const repo = gitRepository(join(root, name), 'file');
  return { ...repo, url: `${url}/${name}` };
}

async function ready(repo: string): Promise<void> {
  for (let n = 0; n < 100; n += 1) {
    if ((await execa('git', ['ls-remote', repo], { reject: false })).exitCode === 0) return;
    await sleep(50);
  }
  throw new Error('git daemon does not answer');
}

async function filesOf(truth: TruthFixture, codeVersion: string | null): Promise<string[]> {
  return readTree(await truth.content.read(codeVersion as ContentHash)).map((entry) => entry.path);
}

test('many environments with the same Puppetfile ask each git server once, and g10k makes of it what r10k makes', async () => {
  const [ferry, buoy] = [module('ferry'), module('buoy')];
  ferry.commit({ 'manifests/init.pp': 'class ferry { }\n', 'bin/run': { script: '#!/bin/sh\n' } });
  const pinned = buoy.commit({ 'manifests/init.pp': 'class buoy { }\n' });
  buoy.commit({ 'manifests/init.pp': 'class buoy { } # newer\n' });
  await ready(ferry.url);
  const control = gitRepository();
  control.commit({
    Puppetfile: [
      "moduledir 'dist'",
      `mod 'ferry', :git => '${ferry.url}', :branch => 'main'`,
      `mod 'buoy',\n  :git => '${buoy.url}',\n  :ref => '${pinned}'\n`,
    ].join('\n'),
    'environment.conf': 'modulepath = dist\n',
  });

  const made: Record<string, string | null> = {};
  for (const [tool, options] of [
    ['r10k', {}],
    ['g10k', { g10k: 'g10k' }],
  ] as const) {
    const truth = await truthFixture(database, options);
    requests.length = 0;
    const environments = ['one', 'two', 'three', 'four', 'five'];
    const ids = await Promise.all(environments.map((environment) => truth.request(environment, control.directory)));
    const deploys = await Promise.all(ids.map((id) => truth.run(id)));
    for (const deploy of deploys) expect(deploy).toMatchObject({ state: 'done', error: null });
    expect(new Set(deploys.map((deploy) => deploy.code_version)).size).toBe(1);
    expect(deploys[0]!.log).toMatch(new RegExp(`^${tool}: .+`, 'm'));
    expect(await filesOf(truth, deploys[0]!.code_version)).toEqual([
      '.callboard/environment.json',
      'Puppetfile',
      'dist/buoy/manifests/init.pp',
      'dist/ferry/bin/run',
      'dist/ferry/manifests/init.pp',
      'environment.conf',
    ]);
    await vi.waitFor(() => expect(requests.length).toBeGreaterThanOrEqual(2));
    expect([...requests].sort(), tool).toEqual(["Request upload-pack for '/buoy'", "Request upload-pack for '/ferry'"]);
    made[tool] = deploys[0]!.code_version;
  }
  expect(made.g10k).toBe(made.r10k);
});

test.each([{}, { g10k: 'g10k' }])('a deploy asked for after a push sees it: %j', async (options) => {
  const name = `lighthouse${Object.keys(options).length}`;
  const lighthouse = module(name);
  lighthouse.commit({ 'manifests/init.pp': '# one\n' });
  const control = gitRepository();
  control.commit({ Puppetfile: `mod '${name}', :git => '${lighthouse.url}', :branch => 'main'\n` });
  const truth = await truthFixture(database, options);
  const first = await truth.deploy('production', control.directory);
  expect(first).toMatchObject({ state: 'done', error: null });
  lighthouse.commit({ 'manifests/init.pp': '# two\n' });
  const second = await truth.deploy('production', control.directory);
  expect(second).toMatchObject({ state: 'done', error: null });
  expect(second.code_version).not.toBe(first.code_version);
  // A mirror that a power cut damaged is made anew.
  const mirrors = join(truth.state, 'git', 'modules');
  const [mirror] = (await execa('ls', [mirrors])).stdout.split('\n').filter((file) => /^[0-9a-f]{64}$/.test(file));
  rmSync(join(mirrors, mirror!, 'objects'), { recursive: true });
  mkdirSync(join(mirrors, mirror!, 'objects'));
  const third = await truth.deploy('production', control.directory);
  expect(third).toMatchObject({ state: 'done', error: null, code_version: second.code_version });
});

test("a module that is not there fails the deploy with the installer's words, whichever it is", async () => {
  const control = gitRepository();
  control.commit({ Puppetfile: `mod 'ferry', :git => '${url}/nowhere', :branch => 'main'\n` });
  for (const options of [{}, { g10k: 'g10k' }]) {
    const deploy = await (await truthFixture(database, options)).deploy('production', control.directory);
    expect(deploy.state).toBe('failed');
    expect(deploy.error).toMatch(/^[rg]10k could not install the Puppetfile: .*(nowhere|ferry)/);
    expect(deploy.log).toContain(`Module repository ${url}/nowhere is left to the installer: `);
  }
});

test("g10k's own words for a Puppetfile that it cannot read, for a forge that is away, and for no g10k at all", async () => {
  const control = gitRepository();
  control.commit({ Puppetfile: "mod 'ferry', :git => \n)" });
  const truth = await truthFixture(database, { g10k: 'g10k' });
  expect((await truth.deploy('production', control.directory)).error).toMatch(
    /^g10k could not install the Puppetfile: Trailing comma or invalid setting/,
  );
  control.commit({ Puppetfile: "forge.baseUrl 'http://127.0.0.1:9'\nmod 'puppetlabs/stdlib', '8.5.0'\n" });
  expect((await truth.deploy('production', control.directory)).error).toMatch(/connection refused/);
  const without = await truthFixture(database, { g10k: '/nowhere/g10k' });
  expect((await without.deploy('production', control.directory)).error).toBe(
    "The control repo has a Puppetfile, and '/nowhere/g10k' is not installed on this server",
  );
});

test("the site's r10k.yaml counts: its forge is asked", async () => {
  const config = join(temporaryDirectory('r10k'), 'r10k.yaml');
  writeFileSync(config, "---\nforge:\n  baseurl: 'http://127.0.0.1:9'\ncachedir: /nowhere\nsources: {}\n");
  const control = gitRepository();
  control.commit({ Puppetfile: "mod 'puppetlabs/stdlib', '8.5.0'\n" });
  const truth = await truthFixture(database, { r10kConfig: config });
  const deploy = await truth.deploy('production', control.directory);
  expect(deploy).toMatchObject({ state: 'failed' });
  expect(deploy.log).toMatch(/127\.0\.0\.1/);
  expect(readFileSync(join(truth.state, 'git', 'r10k-0.yaml'), 'utf8')).not.toContain('/nowhere');
});

test.each([
  ["mod 'a', :git => 'https://x/a.git'", ['https://x/a.git']],
  ['mod "a", git: "git@x:a.git", ref: "1"', ['git@x:a.git']],
  ["mod 'a', :git=>'https://x/a'\n# mod 'b', :git => 'https://x/b'\n", ['https://x/a']],
  ["mod 'puppetlabs/stdlib', '8.5.0'", []],
  ["mod 'a', :git => 'git://x/a'", ['git://x/a']],
  // Made by Ruby: nothing is shared.
  ["mod 'a', :git => 'https://x/a'\nmod 'b', :git => base + 'b'", []],
  ["mod 'a', :git => 'https://x/a'\nmod 'b', git: \"#{base}/b\"", []],
  ["mod 'a', :git => './a'", []],
  // git replaces beginnings: the shorter one would catch the longer.
  ["mod 'a', :git => 'https://x/a'\nmod 'b', :git => 'https://x/a-b'", ['https://x/a-b']],
])('of the Puppetfile %j the repositories are %j', (puppetfile, repos) => {
  expect(moduleRepositories(puppetfile)).toEqual(repos);
});

test('a Puppetfile is plain when it names modules and nothing else', () => {
  const plain = `forge 'https://forge.example'\nmoduledir 'thirdparty'\n# a comment\nmod 'puppetlabs/stdlib', '9.6.0' # why\n
    mod 'ntp',\n  :git => 'https://git.example/ntp.git',\n  :tag => 'v1'\nmod "ssh", git: 'git@git.example:ssh.git', branch: 'main'\n`;
  expect(plainModuleDirectory(plain)).toBe('thirdparty');
  expect(plainModuleDirectory("mod 'a', :git => 'x'\n")).toBe('modules');
  for (const line of [
    "mod 'puppetlabs/stdlib'",
    "mod 'puppetlabs/stdlib', :latest",
    "mod 'a', :git => 'x', :branch => :control_branch",
    "mod 'a', :git => 'x', :install_path => 'elsewhere'",
    "mod 'a', :local => true",
    "mod 'a', :svn => 'x'",
    'mod \'a\', :git => "x#{1}"',
    "load 'more'",
    "mod 'a', '1.2.3'; system('x')",
    "moduledir '../x'",
  ])
    expect(plainModuleDirectory(`${line}\n`), line).toBeUndefined();
});

test('modules that did not move are neither installed nor read again', async () => {
  const truth = await truthFixture(database);
  const one = module('unmoved');
  one.commit(Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`files/f${n}`, `${n}`])));
  const control = gitRepository();
  control.commit({ Puppetfile: `mod 'unmoved', :git => '${one.url}', :branch => 'main'\n`, 'manifests/site.pp': '' });
  await ready(one.url);
  const deploy = async () => truth.run(await truth.request('production', control.directory));
  const first = await deploy();
  expect(first.log).toContain('running r10k');
  control.commit({ 'manifests/site.pp': 'include unmoved' });
  const second = await deploy();
  expect(second).toMatchObject({ state: 'done', error: null });
  expect(second.log).toContain('are those that were installed before');
  expect(second.log).not.toContain('running r10k');
  expect(await filesOf(truth, second.code_version)).toEqual(await filesOf(truth, first.code_version));

  one.commit({ 'files/f0': 'moved' });
  const third = await deploy();
  expect(third.log).toContain('running r10k');
  expect(third.code_version).not.toBe(second.code_version);
});
