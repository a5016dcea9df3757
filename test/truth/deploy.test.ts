/** Deploys from real git repositories, with real PostgreSQL and a real content store. */
import { createHash } from 'node:crypto';
import { lstatSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { beforeAll, expect, test, vi } from 'vitest';
import type { CodeVersionHash, ContentHash } from '../../src/model/ids.ts';
import { readTree } from '../../src/model/tree.ts';
import { codeDirectories } from '../../src/truth/code-directory.ts';
import { findEnvironment, listCode } from '../../src/truth/store.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { gitRepository } from './git-fixture.ts';
import { truthFixture } from './truth-fixture.ts';

vi.setConfig({ testTimeout: 120_000 });

let database: FreshDatabase;
beforeAll(async () => {
  database = await freshDatabase();
});

const SITE = {
  'environment.conf': 'modulepath = site-modules:modules:$basemodulepath\n',
  'manifests/site.pp': 'node default { include role }\n',
  'site-modules/role/manifests/init.pp': 'class role { }\n',
  'site-modules/role/lib/facter/role.rb': "Facter.add(:role) { setcode { 'web' } }\n",
  'site-modules/role/facts.d/site.sh': { script: '#!/bin/sh\necho site=here\n' },
  'site-modules/role/files/link': { link: 'target' },
  'site-modules/role/files/target': 'bytes\n',
};

test('a deploy makes the code version, its manifests and files are content, and its compiles are queued', async () => {
  const truth = await truthFixture(database);
  const repo = gitRepository();
  const commit = repo.commit(SITE);
  const deploy = await truth.deploy('production', repo.directory);
  expect(deploy).toMatchObject({ state: 'done', error: null, commit });
  const environment = (await findEnvironment(database.db, 'production'))!;
  expect(environment.code_version).toBe(deploy.code_version);
  expect(truth.queued).toEqual([
    {
      environment: 'production',
      codeVersion: deploy.code_version,
      trigger: `code version ${deploy.code_version!.slice(0, 12)} deployed`,
    },
  ]);

  const manifest = await truth.content.read(deploy.code_version as ContentHash);
  const entries = readTree(manifest);
  expect(entries.map((entry) => entry.path)).toEqual([...Object.keys(SITE), '.callboard/environment.json'].sort());
  for (const entry of entries) {
    if (entry.kind === 'file') expect(await truth.content.size(entry.hash)).toBe(entry.size);
  }
  const { rows } = await sql<{ plugins: string }>`select plugins from code_version`.execute(database.db);
  const plugins = readTree(await truth.content.read(rows[0]!.plugins as ContentHash));
  expect(plugins).toEqual([
    {
      kind: 'file',
      path: 'facts.d/site.sh',
      mode: '755',
      hash: createHash('sha256').update(SITE['site-modules/role/facts.d/site.sh'].script).digest('hex'),
      size: SITE['site-modules/role/facts.d/site.sh'].script.length,
    },
    {
      kind: 'file',
      path: 'lib/facter/role.rb',
      mode: '644',
      hash: createHash('sha256').update(SITE['site-modules/role/lib/facter/role.rb']).digest('hex'),
      size: SITE['site-modules/role/lib/facter/role.rb'].length,
    },
  ]);
  const references = await sql<{ content: string }>`
    select content from content_reference where holder = ${rows[0]!.plugins}
  `.execute(database.db);
  expect(references.rows.map((row) => row.content).sort()).toEqual(
    [rows[0]!.plugins, ...plugins.map((file) => (file as { hash: string }).hash)].sort(),
  );
  expect(deploy.log.trimEnd().split('\n').at(-1)).toBe(
    `Code version ${deploy.code_version!.slice(0, 12)} is the newest of production`,
  );
});

test('a code version becomes a directory that nobody may write, with the bytes and links of the commit', async () => {
  const truth = await truthFixture(database);
  const repo = gitRepository();
  repo.commit(SITE);
  const { code_version } = await truth.deploy('production', repo.directory);
  const directories = codeDirectories(truth);
  const made = await Promise.all([1, 2, 3].map(() => directories.codeDirectory(code_version as CodeVersionHash)));
  expect(new Set(made)).toEqual(new Set([join(truth.state, 'code', code_version!)]));
  const directory = made[0]!;
  for (const [path, value] of Object.entries(SITE)) {
    if (typeof value === 'string') {
      expect(readFileSync(join(directory, path), 'utf8')).toBe(value);
      expect(lstatSync(join(directory, path)).mode & 0o777).toBe(0o444);
    }
  }
  expect(readlinkSync(join(directory, 'site-modules/role/files/link'))).toBe('target');
  expect(lstatSync(join(directory, 'site-modules/role/facts.d/site.sh')).mode & 0o777).toBe(0o555);
  expect(lstatSync(join(directory, 'site-modules')).mode & 0o777).toBe(0o555);
  expect(JSON.parse(readFileSync(join(directory, '.callboard/environment.json'), 'utf8'))).toEqual({
    modulepath: ['site-modules'],
  });
  await directories.removeCodeDirectory(code_version as CodeVersionHash);
  expect(await directories.listCodeDirectories()).toEqual([]);
});

test('the same tree has the same name, whatever the commit, the environment or the state directory', async () => {
  const repo = gitRepository();
  repo.commit(SITE);
  const first = await truthFixture(database);
  const one = await first.deploy('production', repo.directory);
  repo.commit({ extra: 'x' });
  const two = await first.deploy('production', repo.directory);
  const commit = repo.commit({ extra: null });
  const three = await first.deploy('staging', repo.directory);
  expect(two.code_version).not.toBe(one.code_version);
  expect(three).toMatchObject({ code_version: one.code_version, commit });
  const second = await truthFixture(database);
  expect(await second.deploy('production', repo.directory)).toMatchObject({ code_version: one.code_version });
  // The same code once more: nothing new to compile.
  const again = await second.deploy('production', repo.directory);
  expect(again.state).toBe('done');
  expect(second.queued).toHaveLength(1);
  expect(await listCode(database.db, 'production', 10)).toMatchObject([
    { id: one.code_version, commit, newest: true, released: false },
  ]);
});
