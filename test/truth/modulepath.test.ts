import { expect, test } from 'vitest';
import { isModuleName, planModulepath, readEnvironmentConf } from '../../src/truth/modulepath.ts';

const context = {
  environment: 'production',
  basemodulepath: ['/etc/puppet/code/modules', '/usr/share/puppet/modules'],
};
const plan = (setting?: string) =>
  planModulepath(setting, context).map((entry) => `${entry.place} ${entry.path}${entry.pattern ? ' (pattern)' : ''}`);

test('without a modulepath, it is modules/ and the server modules', () => {
  expect(plan()).toEqual(['repo modules', 'server /etc/puppet/code/modules', 'server /usr/share/puppet/modules']);
  expect(plan('')).toEqual(plan());
});

test('entries are relative to the environment, absolute ones are the server s, and each counts once', () => {
  expect(plan('site-modules:./modules/:$basemodulepath:/usr/share/puppet/modules/:site-modules')).toEqual([
    'repo site-modules',
    'repo modules',
    'server /etc/puppet/code/modules',
    'server /usr/share/puppet/modules',
  ]);
  expect(plan(`\${basemodulepath}:.`)).toEqual([
    'server /etc/puppet/code/modules',
    'server /usr/share/puppet/modules',
    'repo .',
  ]);
});

test("a path that spells out the environment's own place means the control repo", () => {
  expect(plan('/etc/puppetlabs/code/environments/production/site:$environmentpath/$environment/dist')).toEqual([
    'repo site',
    'repo dist',
  ]);
  expect(plan('/etc/puppetlabs/code/environments/staging/site')).toEqual([
    'server /etc/puppetlabs/code/environments/staging/site',
  ]);
  expect(plan(`site-\${environment}`)).toEqual(['repo site-production']);
});

test('wildcards are kept as patterns', () => {
  expect(plan('teams/*/modules')).toEqual(['repo teams/*/modules (pattern)']);
});

test.each([
  ['../shared', 'leaves the control repo'],
  ['a/../../b', 'leaves the control repo'],
  ['$codedir/modules', '$codedir'],
  ['~/modules', 'home directory'],
])('the entry %s is refused', (setting, reason) => {
  expect(() => plan(setting)).toThrowError(
    expect.objectContaining({ code: 'CODE_DEPLOY_FAILED', message: expect.stringContaining(reason) }),
  );
});

test('environment.conf: comments, sections, and the first setting of a name counts', () => {
  const settings = readEnvironmentConf(
    '# modulepath = no\n\n  modulepath =  a:b  \nmodulepath = c\n[main]\nmanifest=site.pp\n[other]\nconfig_version = x\n',
  );
  expect([...settings]).toEqual([
    ['modulepath', 'a:b'],
    ['manifest', 'site.pp'],
  ]);
  expect(() => readEnvironmentConf('modulepath a:b')).toThrowError(/line 1: cannot be read/);
});

test('module names are what Puppet takes', () => {
  expect(['apache', 'a_b2'].every(isModuleName)).toBe(true);
  expect(['saz-rsyslog', 'Apache', '_a', '2a', '.git', 'a.b', ''].some(isModuleName)).toBe(false);
});
