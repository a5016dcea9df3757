/** Code of modules that an interpreter loads ahead of its compiles: the same catalogs, the same reads, and nothing of one compile in another. */
/** biome-ignore-all lint/suspicious/noTemplateCurlyInString: Puppet interpolates like this too. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { CompileResult } from '../../src/compile/request.ts';
import { codeTree, type Entry } from '../compile/code-tree.ts';
import { openPool, request } from './compiling.ts';

const notes: [string, Record<string, unknown>][] = [];
const pool = openPool({ concurrency: 1, note: (...note) => notes.push(note) });
beforeAll(() => pool.start(), 300_000);
afterAll(() => pool.close());

const counting = `$asked = 0
Puppet::Functions.create_function(:'m::count') do
  def count
    $asked += 1
  end
end
`;
const MODULE: Record<string, Entry> = {
  'manifests/site.pp': 'include m\n',
  'modules/m/manifests/init.pp':
    'class m { m::one { "a": port => 1 } notify { "${m::count()} ${m::own(2)} ${old()} ${facts["os"]["family"]}": } m_kind { "x": } }',
  'modules/m/manifests/one.pp': 'define m::one(M::Port $port) { include m::two }',
  'modules/m/manifests/two.pp': 'class m::two { }',
  'modules/m/types/port.pp': 'type M::Port = Integer[1]',
  'modules/m/functions/own.pp': 'function m::own($n) { $n * 2 }',
  'modules/m/lib/puppet/functions/m/count.rb': counting,
  'modules/m/lib/puppet/parser/functions/old.rb':
    'module Puppet::Parser::Functions; newfunction(:old, type: :rvalue) { |_| "old" }; end',
  'modules/m/lib/puppet/type/m_kind.rb': 'Puppet::Type.newtype(:m_kind) { newparam(:name, namevar: true) }',
};

/** Compiles until an interpreter has loaded ahead, or has been tried; gives one apart and the one after. */
async function apartAndAfter(files: Record<string, Entry>): Promise<[CompileResult, CompileResult]> {
  const codeDirectory = await codeTree(files);
  const { interpreters } = pool.state;
  const asked = request('n1.example.net', { codeDirectory });
  const apart = await pool.compile({ ...asked, apart: true });
  const had = notes.length;
  for (let n = 0; n < 6; n++) await pool.compile(asked);
  // One that has loaded code is started beside the first one; or it is given up, which is noted.
  await expect
    .poll(() => notes.length > had || pool.state.interpreters === interpreters + 2, { timeout: 20_000 })
    .toBe(true);
  await expect.poll(() => pool.state.starting, { timeout: 20_000 }).toBe(0);
  return [apart, await pool.compile(asked)];
}
const seen = (result: CompileResult) => ({
  said: result.status === 'compiled' ? String(result.canonical) : result.error,
  reads: result.reads,
});

test('what was loaded ahead gives the same catalog and the same reads, as often as it is asked', {
  timeout: 120_000,
}, async () => {
  const [apart, after] = await apartAndAfter(MODULE);
  expect(apart.status).toBe('compiled');
  expect(seen(after)).toEqual(seen(apart));
  expect(String(after.status === 'compiled' && after.canonical)).toContain('1 4 old Debian');
  expect(notes).toEqual([]);
});

test('code that looks at more than the code version is loaded by each compile', { timeout: 120_000 }, async () => {
  const [apart, after] = await apartAndAfter({
    ...MODULE,
    'modules/m/lib/puppet/functions/m/count.rb': `File.exist?('/etc/hostname')\n${counting}`,
  });
  expect(seen(after)).toEqual(seen(apart));
  expect(apart.reads?.outside).toHaveProperty(['kind /etc/hostname']);
  expect(notes.at(-1)?.[0]).toBe('code is not loaded ahead');
});

test('a compile that fails says what it says without', { timeout: 120_000 }, async () => {
  const files = { ...MODULE, 'modules/m/manifests/two.pp': 'class m::two { fail("no: ${m::count()}") }' };
  const [apart, after] = await apartAndAfter(files);
  expect(apart.status).toBe('failed');
  expect(seen(after)).toEqual(seen(apart));
});
