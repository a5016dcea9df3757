/** Plans end to end: real git, real Puppet, the real command line. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test, vi } from 'vitest';
import { type PlannedFleet, plannedFleet, SITE } from './planned-fleet.ts';

vi.setConfig({ testTimeout: 60_000 });
let fleet: PlannedFleet;

beforeAll(async () => {
  fleet = await plannedFleet();
  await fleet.deploy(SITE);
  for (const name of ['web1', 'web2', 'web3'])
    await fleet.facts(`${name}.example`, { role: 'web', os: { family: 'Debian' }, odd: 'a\0b' });
  await fleet.facts('db1.example', { role: 'db', os: { family: 'RedHat' } });
  await fleet.facts('odd1.example', { role: 'odd', os: { family: 'Debian' } });
  await fleet.compiled();
}, 180_000);

test('nodes that run nothing yet are new, each with all of its catalog', async () => {
  const { exitCode, stdout } = await fleet.callboard('plan', 'production');
  expect(stdout).toContain('5 nodes change, 5 of them new');
  expect(stdout).toMatch(/3 nodes: new node: \d+ resources\n {2}web1\.example, web2\.example, web3\.example/);
  expect(exitCode).toBe(3);
  await fleet.api.post('/api/v1/releases', { environment: 'production', nodes: 'all' });
  const after = await fleet.callboard('plan', 'production');
  expect(after.stdout).toBe(`${after.stdout.split(':')[0]}: no node changes, 5 unchanged`);
  expect(after.exitCode).toBe(0);
});

test('a change is told once for all nodes that have it, with what is refreshed, and the failure of another', async () => {
  await fleet.deploy({
    'modules/web/manifests/init.pp': SITE['modules/web/manifests/init.pp'].replace('workers = 2', 'workers = 4'),
    'modules/db/manifests/init.pp': 'class db { fail("no database today") }\n',
  });
  const { exitCode, stdout } = await fleet.callboard('plan', 'production');
  expect(stdout).toContain('3 nodes change, 1 does not compile, 1 unaffected');
  expect(stdout).toContain(
    '3 nodes: File[/etc/web.conf] content, Service[web] refreshed because of it, Class[Web] workers',
  );
  expect(stdout).toContain('-workers 2');
  expect(stdout).toContain('+workers 4');
  expect(stdout).toContain('1 node: does not compile');
  expect(stdout).toContain('no database today');
  expect(stdout).not.toContain('on node db1');
  expect(exitCode).toBe(4);

  const json = await fleet.callboard(
    'plan',
    'production',
    '--json',
    '--where',
    'certname=web*',
    '--where',
    'certname!=web2*',
  );
  const plan = JSON.parse(json.stdout);
  expect(json.exitCode).toBe(3);
  expect(plan.summary).toEqual({
    total: 2,
    changed: 2,
    new: 0,
    unchanged: 0,
    unaffected: 0,
    failed: 0,
    not_compiled: 0,
  });
  expect(plan.groups).toHaveLength(1);
  expect(plan.groups[0]).toMatchObject({
    count: 2,
    certnames: ['web1.example', 'web3.example'],
    counts: { added: 0, removed: 0, changed: 2 },
    change: {
      edges_changed: false,
      order_changed: false,
      refreshed: [{ resource: 'Service[web]', because: 'File[/etc/web.conf]' }],
    },
  });
  const redhat = await fleet.callboard('plan', 'production', '--json', '--where', 'facts.os.family=RedHat');
  expect(JSON.parse(redhat.stdout).failures[0]).toMatchObject({
    count: 1,
    file: 'modules/db/manifests/init.pp',
    line: 1,
  });
  expect((await fleet.callboard('plan', 'production', '--where', 'colour=red')).stderr).toContain('is no condition');

  const markdown = await fleet.callboard('plan', 'production', '--markdown');
  expect(markdown.stdout).toContain('#### 3 nodes: `File[/etc/web.conf] content');
  expect(markdown.stdout).toContain('```diff\n');
  expect(markdown.stdout).toContain('\n+workers 4\n');
});

test('secrets are told to differ, and not what they are', async () => {
  await fleet.deploy({
    'modules/web/manifests/init.pp': SITE['modules/web/manifests/init.pp'].replace('"key ', '"another key '),
    'modules/db/manifests/init.pp': SITE['modules/db/manifests/init.pp'],
  });
  for (const form of ['--json', '--markdown', '--edges']) {
    const { stdout, exitCode } = await fleet.callboard('plan', 'production', form);
    expect(exitCode).toBe(3);
    expect(stdout).toContain('/etc/web.key');
    expect(stdout).not.toContain('another key');
  }
});

test('a working tree is planned as it is, and neither it nor the environment notices', async () => {
  const { repo } = fleet;
  const newest = await fleet.deploy({ 'modules/web/manifests/init.pp': SITE['modules/web/manifests/init.pp'] });
  await fleet.compiled();
  writeFileSync(
    join(repo.directory, 'modules/db/manifests/init.pp'),
    "class db { package { 'postgresql': ensure => '17' } }\n",
  );
  writeFileSync(join(repo.directory, 'modules/db/manifests/more.pp'), 'class db::more { }\n');
  writeFileSync(join(repo.directory, '.gitignore'), '*.swp\n');
  writeFileSync(join(repo.directory, 'manifests/site.pp.swp'), 'this does not parse {');
  const before = [repo.git('status', '--porcelain'), repo.git('for-each-ref'), repo.git('count-objects', '-v')];

  const { exitCode, stdout, stderr } = await fleet.callboard('plan', 'production', '--local', repo.directory);
  expect(stderr).toBe('');
  expect(stdout).toContain('(a working tree): 1 node changes, 4 unaffected');
  expect(stdout).toContain('1 node: Package[postgresql] ensure\n  db1.example\n');
  expect(stdout).toContain('ensure: "15" → "17"');
  expect(exitCode).toBe(3);

  expect([repo.git('status', '--porcelain'), repo.git('for-each-ref'), repo.git('count-objects', '-v')]).toEqual(
    before,
  );
  const { rows } = await fleet.pool.query('select code_version from environment');
  expect(rows).toEqual([{ code_version: newest }]);
  const trial = /code ([0-9a-f]{10})/.exec(stdout)![1]!;
  const released = await fleet.callboard('release', 'production', '--all', '--code', trial);
  expect(released.stderr).toContain('CODE_VERSION_NOT_FOUND');
  const { rows: made } = await fleet.pool.query(
    `select catalog from compiled where starts_with(code_version, $1) and certname = 'db1.example'`,
    [trial],
  );
  const pinned = await fleet.callboard('pin', 'db1.example', made[0].catalog);
  expect(pinned.stderr).toContain('CATALOG_NOT_FOUND');
  const again = await fleet.callboard('plan', 'production', '--code', trial);
  expect(again.stdout).toBe(stdout);

  writeFileSync(join(repo.directory, 'modules/db/manifests/init.pp'), 'class db { fail("on trial") }\n');
  const failing = await fleet.callboard('plan', 'production', '--local', repo.directory);
  expect([failing.exitCode, failing.stdout]).toEqual([4, expect.stringContaining('on trial')]);
  const shown = JSON.parse((await fleet.callboard('node', 'show', 'db1.example', '--json')).stdout);
  expect(shown.last_compile).toMatchObject({ error: null });

  writeFileSync(join(repo.directory, 'Puppetfile'), "mod 'nothing', :git => '/nowhere/at/all'\n");
  const refused = await fleet.callboard('plan', 'production', '--local', join(repo.directory, 'modules'));
  expect(refused.exitCode).toBe(1);
  expect(refused.stderr).toContain('The working tree became no code version');
  expect((await fleet.callboard('plan', 'production', '--local', '/')).stderr).toContain('is no git working tree');
});

test('what was not compiled anew is unaffected, and what does not come in time is told as missing', async () => {
  await fleet.pool.query(
    `select graphile_worker.add_job('compile', '{}', run_at := now() + interval '1 day',
       job_key := 'compile:production:' || code_version || ':web1.example') from environment`,
  );
  const { rows } = await fleet.pool.query(
    `delete from compiled using environment e where compiled.code_version = e.code_version and certname = 'web1.example' returning 1`,
  );
  expect(rows).toHaveLength(1);
  // As a deploy leaves a node of which it changes nothing: the earlier compile holds under the new code, too.
  await fleet.pool.query(
    `update compile set code_version = repeat('0', 64)
     where id = (select compile from compiled k join environment e using (code_version) where certname = 'web2.example')`,
  );
  const lines: string[] = [];
  for await (const line of fleet.api.lines('/api/v1/plans/production?wait=1')) lines.push(line);
  const told = lines.map((line) => JSON.parse(line));
  expect(told[0].plan).toMatchObject({ environment: 'production', trial: false });
  expect(told[1].progress).toMatchObject({ stage: 'compiling', total: 5, done: 4, queued: 1 });
  expect(told.at(-2)).toEqual({ not_compiled: { count: 1, certnames: ['web1.example'] } });
  expect(told.at(-1).summary).toMatchObject({ total: 5, unchanged: 3, unaffected: 1, not_compiled: 1 });
  expect((await fleet.callboard('plan', 'production', '--wait', '0')).exitCode).toBe(4);
  expect((await fleet.callboard('plan', 'nothing')).stderr).toContain('ENVIRONMENT_NOT_FOUND');
});
