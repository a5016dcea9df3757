/** Explanations, histories and bisections end to end: real git, real Puppet, the real command line. */
import { beforeAll, expect, test, vi } from 'vitest';
import { type PlannedFleet, plannedFleet, SITE } from './planned-fleet.ts';

vi.setConfig({ testTimeout: 60_000 });
let fleet: PlannedFleet;
const WEB = SITE['modules/web/manifests/init.pp'];
const codes: string[] = [];
const commits: string[] = [];

async function step(files: Record<string, string>): Promise<void> {
  codes.push(await fleet.deploy(files));
  commits.push(fleet.repo.git('rev-parse', 'HEAD'));
  await fleet.compiled();
}

beforeAll(async () => {
  fleet = await plannedFleet();
  codes.push(
    await fleet.deploy({
      ...SITE,
      'hiera.yaml':
        'version: 5\nhierarchy:\n  - { name: nodes, path: "nodes/%{trusted.certname}.yaml" }\n  - { name: all, path: common.yaml }\n',
      'data/common.yaml': 'web::workers: 3\nweb::other: 1\n',
    }),
  );
  commits.push(fleet.repo.git('rev-parse', 'HEAD'));
  for (const name of ['web1', 'web2', 'db1'])
    await fleet.facts(`${name}.example`, { role: name.slice(0, -1), os: { family: 'Debian' } });
  await fleet.compiled();
  await fleet.api.post('/api/v1/releases', { environment: 'production', nodes: 'all' });
  await step({ 'modules/db/manifests/init.pp': "class db { package { 'postgresql': ensure => '17' } }\n" });
  await step({ 'data/common.yaml': 'web::workers: 5\nweb::other: 1\n' });
}, 180_000);

const EXPECTED_CHANGE = ['-workers 3', '+workers 5'];

test('a resource: where it is declared, what it stands in, and what the candidate would change in it', async () => {
  const { stdout, exitCode } = await fleet.callboard('explain', 'web1.example', 'File[/etc/web.conf]');
  expect(exitCode).toBe(0);
  for (const line of [
    'web1.example: released catalog',
    // Its released catalog went along with the deploy that concerned another node.
    `code         ${codes[1]!.slice(0, 10)}, commit ${commits[1]!.slice(0, 10)} of main`,
    'declared     modules/web/manifests/init.pp:3',
    'in           Stage[main] → Class[Web]',
    'relations    notify Service[web]',
    'What the candidate would change',
    '~ File[/etc/web.conf]',
    ...EXPECTED_CHANGE,
    'What was read and is different',
    'changed  data data/common.yaml web::workers',
  ])
    expect(stdout).toContain(line);
  const service = await fleet.callboard('explain', 'web1.example', 'Service[web]', '--candidate');
  expect(service.stdout).toContain('File[/etc/web.conf] has notify Service[web]');
  expect(service.stdout).toContain('refreshed because of File[/etc/web.conf]');
  const secret = await fleet.callboard('explain', 'web1.example', 'File[/etc/web.key]', '--json');
  expect(secret.stdout).toContain('Sensitive [value redacted]');
  expect(secret.stdout).not.toContain('key ');
  expect((await fleet.callboard('explain', 'web1.example', 'File[/nowhere]')).stderr).toContain('RESOURCE_NOT_FOUND');
  expect((await fleet.callboard('explain', 'nobody.example')).stderr).toContain('NODE_NOT_FOUND');
});

test('a catalog: why it was compiled, what it read, and that this is not known where it was not recorded', async () => {
  const known = await fleet.callboard('explain', 'db1.example');
  expect(known.stdout).toContain('ago, because facts');
  expect(known.stdout).toContain('modules/db/manifests/init.pp');
  await fleet.pool.query("update compile set read_set = null where certname = 'db1.example'");
  const { stdout } = await fleet.callboard('explain', 'db1.example');
  expect(stdout).toContain('not known: what the compile read was not recorded');
});

test('with read sets: facts and data with their origins, and the changed inputs behind a change', async () => {
  await readSet('web1.example', [
    'data data/common.yaml\tweb::other',
    'data data/common.yaml\tweb::workers',
    'data data/nodes/web1.example.yaml\tweb::workers',
    'file manifests/site.pp',
    'file modules/web/manifests/init.pp',
    'list data',
  ]);
  const { stdout } = await fleet.callboard('explain', 'web1.example');
  expect(stdout).toContain('facts        facts.role = "web"');
  expect(stdout).toContain('data         web::other from data/common.yaml');
  expect(stdout).toContain('web::workers from data/common.yaml');
  expect(stdout).toContain('files        manifests/site.pp');
  const json = JSON.parse((await fleet.callboard('explain', 'web1.example', 'File[/etc/web.conf]', '--json')).stdout);
  expect(json.reads.data[1]).toEqual({
    key: 'web::workers',
    from: 'data/common.yaml',
    files: [
      { path: 'data/nodes/web1.example.yaml', has_key: false },
      { path: 'data/common.yaml', has_key: true },
    ],
  });
  expect(json.resource.plan).toMatchObject({ traced: true, facts_changed: false });
  expect(json.resource.plan.inputs).toEqual([
    { input: 'data data/common.yaml\tweb::workers', change: 'changed', path: 'data/common.yaml', near: true },
  ]);
});

/** What a node's compiles would have recorded. */
async function readSet(certname: string, inputs: string[]): Promise<void> {
  await fleet.pool.query(
    `with part as (insert into read_part (hash, inputs) values ('p', $2) returning id),
       made as (insert into read_set (hash, data) values ('s', '[["facts","role"]]') returning id),
       tied as (insert into read_set_part (part, read_set) select part.id, made.id from part, made)
     update compile set read_set = made.id from made where certname = $1`,
    [certname, inputs],
  );
}

test('bisect names the deploy, and the commits between it and the one before', async () => {
  const { stdout } = await fleet.callboard('bisect', 'web1.example', 'File[/etc/web.conf]');
  expect(stdout).toContain(`File[/etc/web.conf] of web1.example is as it is since code ${codes[2]!.slice(0, 10)}`);
  expect(stdout).toContain(`git log ${commits[1]!.slice(0, 10)}..${commits[2]!.slice(0, 10)}`);
  for (const line of [
    ...EXPECTED_CHANGE,
    'What was read and is different',
    'changed  data data/common.yaml web::workers',
  ])
    expect(stdout).toContain(line);

  const always = await fleet.callboard('bisect', 'web1.example', 'Service[web]');
  expect(always.stdout).toContain(`since code ${codes[0]!.slice(0, 10)}`);
  expect(always.stdout).toContain('No earlier deploy with a kept catalog has it otherwise.');

  // A deploy in between whose catalog is not kept any more.
  await fleet.pool.query("delete from compiled where certname = 'web1.example' and code_version = $1", [codes[1]]);
  await fleet.pool.query("delete from compile where certname = 'web1.example' and code_version = $1", [codes[1]]);
  const gap = await fleet.callboard('bisect', 'web1.example', 'File[/etc/web.conf]');
  expect(gap.stdout).toContain(`git log ${commits[0]!.slice(0, 10)}..${commits[2]!.slice(0, 10)}`);
  expect(gap.stdout).toContain(`1 deploy in between has no kept catalog of this node: ${codes[1]!.slice(0, 10)}`);
  expect((await fleet.callboard('bisect', 'web1.example', 'File[/nowhere]')).stderr).toContain('RESOURCE_NOT_FOUND');

  await step({ 'modules/web/manifests/init.pp': WEB.replace(/ {2}file \{ '\/etc\/web.key'.*\n/, '') });
  const gone = await fleet.callboard('bisect', 'web1.example', 'File[/etc/web.key]');
  expect(gone.stdout).toContain(`File[/etc/web.key] of web1.example is not there since code ${codes[3]!.slice(0, 10)}`);
});

test('a history: every catalog, when, by whom, from which commit, and what it changed', async () => {
  await fleet.api.post('/api/v1/releases', {
    environment: 'production',
    nodes: ['web1.example'],
    code_version: codes[2],
  });
  await fleet.api.post('/api/v1/rollbacks', { environment: 'production', nodes: ['web1.example'] });
  const { stdout } = await fleet.callboard('history', 'web1.example', '--json');
  const past = JSON.parse(stdout);
  expect(past.map((each: { cause: string }) => each.cause)).toEqual(['rollback', 'release', 'release']);
  expect(past[1]).toMatchObject({
    requested_by: 'operator test',
    code_version: codes[2],
    commit: commits[2],
    difference: { added: 0, removed: 0, changed: 2 },
  });
  expect(past[2].trigger).toMatch(/^facts/);
  expect(past[2].difference.added).toBeGreaterThan(3);
  const text = await fleet.callboard('history', 'web1.example', '--limit', '1');
  expect(text.stdout).toContain('rollback');
  expect(text.stdout).toContain('+0 -0 ~2');
});

test('a catalog by the first digits of its id, without its secrets', async () => {
  const { released_catalog: id } = await fleet.api.get<{ released_catalog: string }>('/api/v1/nodes/web2.example');
  const { stdout } = await fleet.callboard('catalog', 'show', id.slice(0, 12));
  expect(stdout).toContain(`catalog ${id.slice(0, 10)} of web2.example in production`);
  expect(stdout).toMatch(/Service\[web\] +modules\/web\/manifests\/init\.pp:5/);
  const one = await fleet.callboard('catalog', 'show', id, '--resource', 'File[/etc/web.key]');
  expect(one.stdout).toContain('content => "Sensitive [value redacted]"');
  const document = await fleet.callboard('catalog', 'show', id, '--json');
  expect(JSON.parse(document.stdout)).toMatchObject({ name: 'web2.example', version: id });
  expect(document.stdout).not.toContain('"key ');
  expect((await fleet.callboard('catalog', 'show', 'ffff')).stderr).toContain('CATALOG_NOT_FOUND');
  expect((await fleet.callboard('catalog', 'show', id, '--resource', 'File[/x]')).exitCode).toBe(1);
});
