/**
 * The server's own modules in a code version, and the plugin tree, against real Puppet: it looks at the control repo as a plain
 * directory environment, with the server's module directories, and says which modules it finds and which plugins it would sync.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa, execaSync } from 'execa';
import { sql } from 'kysely';
import { beforeAll, expect, test, vi } from 'vitest';
import type { CodeVersionHash, ContentHash } from '../../src/model/ids.ts';
import { readTree } from '../../src/model/tree.ts';
import { codeDirectories } from '../../src/truth/code-directory.ts';
import { type FreshDatabase, freshDatabase } from '../postgres/fresh.ts';
import { gitRepository, temporaryDirectory } from './git-fixture.ts';
import { truthFixture } from './truth-fixture.ts';

vi.setConfig({ testTimeout: 240_000 });

/** Some of Debian's modules, linked as Debian links them. */
function debianModules(): string {
  const directory = temporaryDirectory('debian');
  for (const name of ['apache', 'concat', 'inifile', 'saz-rsyslog', 'stdlib']) {
    symlinkSync(join('/usr/share/puppet/modules', name), join(directory, name));
  }
  return directory;
}

const PUPPET = fileURLToPath(new URL('puppet.rb', import.meta.url));

interface Seen {
  modulepath: string[];
  modules: Record<string, string>;
  lib: Record<string, string>;
  'facts.d': Record<string, string>;
  locales: Record<string, string>;
}

async function askPuppet(environmentpath: string, environment: string, basemodulepath: string[]): Promise<Seen> {
  const { stdout } = await execa('ruby', [PUPPET, environmentpath, environment, basemodulepath.join(':')]);
  return JSON.parse(stdout);
}

let database: FreshDatabase;
beforeAll(async () => {
  database = await freshDatabase();
});

function write(root: string, files: Record<string, string>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
}

test("modules and plugins are those that Puppet sees in the same repo with the server's Debian modules", async () => {
  // A second module directory of the server's: a name that Puppet refuses, a file, a module that another place has first.
  const server = temporaryDirectory('server');
  write(server, {
    'saz-rsyslog/lib/facter/never.rb': '# no module',
    README: 'not a module',
    'stdlib/lib/facter/never.rb': '# shadowed by the repo',
    'extra/lib/facter/extra.rb': '# extra',
    'extra/lib/shared.rb': '# first by name',
    'extra/lib/CVS/Root': '# never sent',
    'extra/locales/config.yaml': 'never: sent',
    'extra/locales/extra.pot': 'never sent',
    'extra/locales/de/extra.po': 'sent',
    'extra/facts.d/site.txt': 'site=here',
    'zeta/lib/shared.rb': '# second by name',
    'zeta/lib/both/file.rb': '# a directory here',
  });
  symlinkSync('extra.rb', join(server, 'extra/lib/facter/link.rb'));
  const base = [server, debianModules(), '/nonexistent/modules'];

  const repo = gitRepository();
  repo.commit({
    'environment.conf': '# ours\nmodulepath = site:teams/*/modules:modules:$basemodulepath\n',
    'manifests/site.pp': '',
    'site/role/manifests/init.pp': 'class role { }\n',
    'site/role/lib/shared.rb': '# of the repo\n',
    'site/Wrong/lib/facter/never.rb': '# no module\n',
    'site/linked': { link: '../store/linked' },
    'store/linked/lib/facter/linked.rb': '# through a link\n',
    'teams/a/modules/alpha/lib/facter/alpha.rb': '# a\n',
    'teams/b/modules/alpha/lib/facter/never.rb': '# shadowed\n',
    'teams/b/modules/beta/lib/facter': { link: '../../gamma/lib/facter' },
    'teams/b/modules/gamma/lib/facter/gamma.rb': '# g\n',
    'modules/stdlib/lib/facter/ours.rb': '# the one that counts\n',
  });
  const environments = temporaryDirectory('environments');
  execaSync('cp', ['-a', repo.directory, join(environments, 'production')]);
  const seen = await askPuppet(environments, 'production', base);

  const truth = await truthFixture(database, { basemodulepath: base });
  const deploy = await truth.deploy('production', repo.directory);
  expect(deploy).toMatchObject({ state: 'done', error: null });
  expect(deploy.log).toContain(`'${join(server, 'saz-rsyslog')}' has no module's name: left out`);
  const directory = await codeDirectories(truth).codeDirectory(deploy.code_version as CodeVersionHash);

  // The tree itself, as Puppet sees it with the modulepath of environment.json and no server modules at all.
  const { modulepath } = JSON.parse(readFileSync(join(directory, '.callboard/environment.json'), 'utf8'));
  expect(modulepath).toEqual([
    'site',
    'teams/a/modules',
    'teams/b/modules',
    'modules',
    '.callboard/modulepath/0',
    '.callboard/modulepath/1',
  ]);
  const copies = temporaryDirectory('copies');
  execaSync('cp', ['-a', directory, join(copies, 'production')]);
  execaSync('chmod', ['-R', 'u+w', copies]);
  writeFileSync(join(copies, 'production', 'environment.conf'), `modulepath = ${modulepath.join(':')}\n`);
  const whole = await askPuppet(copies, 'production', []);
  expect(Object.keys(whole.modules).sort()).toEqual(Object.keys(seen.modules).sort());
  expect(Object.keys(seen.modules)).toEqual(
    expect.arrayContaining(['alpha', 'extra', 'linked', 'role', 'stdlib', 'concat']),
  );
  expect({ ...whole, modulepath: [], modules: {} }).toEqual({ ...seen, modulepath: [], modules: {} });

  // The plugin tree against plugin sync.
  const { rows } = await sql<{ plugins: string }>`
    select plugins from code_version where id = ${deploy.code_version}
  `.execute(database.db);
  const sent: Record<string, Record<string, string>> = { lib: {}, 'facts.d': {}, locales: {} };
  for (const entry of readTree(await truth.content.read(rows[0]!.plugins as ContentHash))) {
    if (entry.kind !== 'file') throw new Error(`${entry.path} is no file`);
    const [mount, ...rest] = entry.path.split('/');
    sent[mount!]![rest.join('/')] = entry.hash;
  }
  // Two modules with one path: Puppet takes them in the order of the directory on disk, we by name. All else must be equal.
  delete sent.lib!['shared.rb'];
  delete seen.lib['shared.rb'];
  expect(sent.lib).toEqual(seen.lib);
  expect(sent['facts.d']).toEqual(seen['facts.d']);
  expect(sent.locales).toEqual(seen.locales);
  expect(Object.keys(seen.lib).length).toBeGreaterThan(20);

  // Nothing read again when nothing changed.
  await vi.waitFor(
    async () => {
      const again = await truth.deploy('staging', repo.directory);
      expect(again.log).toMatch(/; 0 read, 0 stored anew;/);
      expect(again.code_version).toBe(deploy.code_version);
    },
    { timeout: 60_000, interval: 2000 },
  );

  // A changed file of the server's is another tree.
  writeFileSync(join(server, 'extra/lib/facter/extra.rb'), '# other');
  const changed = await truth.deploy('production', repo.directory);
  expect(changed.code_version).not.toBe(deploy.code_version);
  expect(changed.log).toMatch(/; 1 read, 3 stored anew;/); // The file and the two manifests.
});

test("the example's control repo deploys with Debian's modules, its changes apply in order, and the directory has all files", async () => {
  const example = fileURLToPath(new URL('../../examples/', import.meta.url));
  const place = temporaryDirectory('example');
  execaSync('cp', ['-r', join(example, 'control-repo'), join(place, 'repo')]);
  const repo = gitRepository(join(place, 'repo'));
  repo.commit({});
  const truth = await truthFixture(database, { basemodulepath: [debianModules()] });
  const first = await truth.deploy('production', repo.directory);
  expect(first).toMatchObject({ state: 'done', error: null });
  const versions = new Set([first.code_version]);
  const patches = readdirSync(join(example, 'changes'))
    .filter((name) => name.endsWith('.patch'))
    .sort();
  expect(patches).toHaveLength(2);
  for (const patch of patches) {
    repo.git('apply', join(example, 'changes', patch));
    repo.commit({});
    versions.add((await truth.deploy('production', repo.directory)).code_version);
  }
  expect(versions.size).toBe(3);
  const directory = await codeDirectories(truth).codeDirectory(first.code_version as CodeVersionHash);
  for (const path of ['hiera.yaml', 'manifests/site.pp', '.callboard/modulepath/0/stdlib/metadata.json']) {
    expect(existsSync(join(directory, path))).toBe(true);
  }
});
