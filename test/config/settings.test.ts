import { expect, test } from 'vitest';
import { listSettings, parseSettings, SERVICES } from '../../src/config/settings.ts';

test('every default is acceptable', () => {
  const settings = parseSettings({}, {});
  expect(settings).toMatchObject({
    state: '/var/lib/callboard',
    listen: { host: '0.0.0.0', port: 8140 },
    databaseUrl: undefined,
    compileTimeMaxMs: 120_000,
    compileMemoryMaxBytes: 1024 ** 3,
    metricsListen: { host: '127.0.0.1', port: 8141 },
    logLevel: 'info',
  });
  expect([...settings.only]).toEqual([...SERVICES]);
  expect(settings.compileWorkers).toBeGreaterThan(0);
});

test('a flag wins over its variable, which wins over the default', () => {
  const variables = { CALLBOARD_LISTEN: '127.0.0.1:1', CALLBOARD_LOG_LEVEL: 'debug' };
  const settings = parseSettings({ listen: '[::1]:2' }, variables);
  expect(settings.listen).toEqual({ host: '::1', port: 2 });
  expect(settings.logLevel).toBe('debug');
});

test('units are read', () => {
  const settings = parseSettings(
    {
      compileTimeMax: '2m',
      compileMemoryMax: '2GiB',
      only: 'api, compile',
      baseModulepath: '/a:/b',
      metricsListen: 'off',
    },
    {},
  );
  expect(settings.compileTimeMaxMs).toBe(120_000);
  expect(settings.compileMemoryMaxBytes).toBe(2 * 1024 ** 3);
  expect([...settings.only]).toEqual(['api', 'compile']);
  expect(settings.baseModulepath).toEqual(['/a', '/b']);
  expect(settings.metricsListen).toBeUndefined();
});

test.each([
  ['listen', '8140', 'is not HOST:PORT'],
  ['listen', 'localhost:70000', 'is not HOST:PORT'],
  ['only', 'api,teapot', "names 'teapot'"],
  ['only', '', "names ''"],
  ['serverName', 'Two Words', 'is not a host name'],
  ['baseModulepath', 'modules', 'is not an absolute path'],
  ['compileWorkers', '0', 'from 1 to 256'],
  ['compileWorkers', '1.5', 'from 1 to 256'],
  ['compileTimeMax', '90', 'is not a duration'],
  ['compileTimeMax', '1ms', 'is not a duration'],
  ['compileMemoryMax', '1GB', 'is not a size'],
  ['metricsListen', '0.0.0.0:8141', 'is not a loopback address'],
  ['eventsKeep', '-1', 'is not a whole number'],
  ['logLevel', 'loud', 'is none of'],
  ['r10k', '', 'is empty'],
])('%s: %j is refused, and the message names the flag', (key, value, reason) => {
  expect(() => parseSettings({ [key]: value }, {})).toThrow(reason);
  const flag = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  expect(() => parseSettings({ [key]: value }, {})).toThrow(`--${flag}`);
});

test('a wrong variable is named, and a secret value is not shown', () => {
  expect(() => parseSettings({}, { CALLBOARD_DATABASE_URL: 'mysql://u:hunter2@h/d' })).toThrow(
    "CALLBOARD_DATABASE_URL: '…' is not a postgres:// URL",
  );
});

test('names, flags and variables are unique, and each has its sentence', () => {
  const settings = listSettings();
  for (const field of ['name', 'flag', 'variable'] as const) {
    expect(new Set(settings.map((each) => each[field])).size).toBe(settings.length);
  }
  for (const each of settings) expect(each.sentence).toMatch(/\.$/);
});
