/** What a pool stands: many code versions at once, a huge catalog, code that starts threads and processes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { codeTree } from '../compile/code-tree.ts';
import { message, openPool, request } from './compiling.ts';

const pool = openPool({ concurrency: 2, interpretersMax: 4, interpreterIdleMaxMs: 4000 });
beforeAll(async () => void (await pool.start()), 180_000);
afterAll(() => pool.close());

test('fifty code versions in turn: each gives its own, few are kept, and those that nobody uses end', async () => {
  const directories = await Promise.all(
    Array.from({ length: 50 }, (_, version) =>
      codeTree({ 'manifests/site.pp': `notify { 'v': message => 'version ${version}' }` }),
    ),
  );
  const messages = await Promise.all(
    directories.map(async (codeDirectory) => message(await pool.compile(request('n.example', { codeDirectory })))),
  );
  expect(messages).toEqual(directories.map((_, version) => `version ${version}`));
  await expect.poll(() => pool.state.interpreters, { timeout: 2000 }).toBeLessThanOrEqual(4 + 2);
  await sleep(6000);
  expect(pool.state.interpreters).toBe(0);
  expect(message(await pool.compile(request('n.example', { codeDirectory: directories[0]! })))).toBe('version 0');
}, 240_000);

test('a catalog of 20,000 resources and 50 MB', async () => {
  const codeDirectory = await codeTree({
    'manifests/site.pp': `
      $text = 'x'.with |$x| { range(1, 2500).map |$i| { $x }.join }
      range(1, 20000).each |$i| { notify { "n\${i}": message => $text } }`,
    'modules/m/lib/puppet/functions/range.rb':
      "Puppet::Functions.create_function(:range) { dispatch(:r) { param 'Integer', :a; param 'Integer', :b }; def r(a, b) (a..b).to_a end }",
  });
  const small = await codeTree({ 'manifests/site.pp': "notify { 'v': message => 'beside' }" });
  const huge = pool.compile(request('huge.example', { codeDirectory }), undefined, { timeMaxMs: 240_000 });
  expect(message(await pool.compile(request('n.example', { codeDirectory: small })))).toBe('beside');
  const result = await huge;
  if (result.status === 'failed') throw new Error(JSON.stringify(result.error));
  expect(result.canonical.length).toBeGreaterThan(50e6);
  expect(JSON.parse(String(result.canonical)).resources.length).toBeGreaterThanOrEqual(20_000);
}, 300_000);

test('code that starts threads and processes gets its catalog, and they end with it', async () => {
  const codeDirectory = await codeTree({
    'manifests/site.pp': "notify { 'v': message => busy() }",
    'modules/m/lib/puppet/functions/busy.rb': `
      Puppet::Functions.create_function(:busy) do
        def busy
          20.times { Thread.new { loop { sleep 0.01 } } }
          3.times { fork { loop { sleep 1 } } }
          "pid #{Process.pid}"
        end
      end`,
  });
  const pid = Number(/\d+/.exec(message(await pool.compile(request('n.example', { codeDirectory }))))![0]);
  await expect.poll(() => isRunning(-pid), { timeout: 5000 }).toBe(false);
}, 120_000);

/** A process, or with a negative number its group. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
