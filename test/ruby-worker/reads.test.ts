/** What a compile read, by kind of input: in small trees, present and absent. */
/** biome-ignore-all lint/suspicious/noTemplateCurlyInString: Puppet interpolates like this too. */
import { createHash } from 'node:crypto';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Reads } from '../../src/compile/request.ts';
import { codeTree, type Entry } from '../compile/code-tree.ts';
import { encrypted, PRIVATE_KEY, PUBLIC_KEY } from '../soundness/eyaml.ts';
import { openPool, request } from './compiling.ts';

const pool = openPool({ concurrency: 2 });
let beside: string;
beforeAll(async () => {
  beside = await mkdtemp(join(tmpdir(), 'callboard-beside-'));
  await writeFile(join(beside, 'there'), 'text');
  await pool.start();
}, 300_000);
afterAll(async () => {
  await pool.close();
  await rm(beside, { recursive: true });
});

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

async function readsOf(files: Record<string, Entry>, status = 'compiled'): Promise<Reads> {
  const result = await pool.compile(request('n1.example.net', { codeDirectory: await codeTree(files) }));
  if (result.status !== status || !result.reads) throw new Error(JSON.stringify(result));
  return result.reads;
}
const inputsOf = async (files: Record<string, Entry>, status?: string) => (await readsOf(files, status)).inputs;
const rubyFunction = (name: string, body: string) =>
  `Puppet::Functions.create_function(:'${name}') do\n  def ${name.replace(/.*:/, '')}\n    ${body}\n  end\nend\n`;

describe.concurrent('things of the code version', { timeout: 120_000 }, () => {
  test('what every compile reads', async () => {
    expect(await inputsOf({ 'manifests/site.pp': '' })).toEqual([
      'file .callboard/environment.json',
      'file environment.conf',
      'file manifests/site.pp',
      'glob manifests/**/*.pp',
      'kind manifests',
    ]);
  });
  test('manifests, there and not', async () => {
    const inputs = await inputsOf({
      'manifests/site.pp': 'include m, m::a\nif defined("m::b") { notify { "b": } }',
      'modules/m/manifests/init.pp': 'class m {}',
      'modules/m/manifests/a.pp': 'class m::a {}',
    });
    expect(inputs).toEqual(
      expect.arrayContaining([
        'file modules/m/manifests/init.pp',
        'file modules/m/manifests/a.pp',
        'kind modules/m/manifests/b.pp',
      ]),
    );
  });
  test('a template that is not UTF-8 compiles as without a trace, and reads all facts', async () => {
    const codeDirectory = await codeTree({
      'manifests/site.pp': "notify { 'a': message => template('m/a.erb') }",
      'modules/m/templates/a.erb': '',
    });
    const text = Buffer.from("<%# \xe9 %><%= scope['facts']['os']['family'] %>", 'latin1');
    await writeFile(join(codeDirectory, 'modules/m/templates/a.erb'), text);
    const asked = request('n1.example.net', { codeDirectory });
    const [traced, not] = [await pool.compile(asked), await pool.compile({ ...asked, trace: false })];
    expect(traced.status === 'compiled' && String(traced.canonical)).toContain('"message":"Debian"');
    expect(not.status === 'compiled' && not.canonical).toEqual(traced.status === 'compiled' && traced.canonical);
    expect(traced.reads?.data).toContainEqual(['facts']);
  });
  test('templates, files and sources, there and not', async () => {
    const inputs = await inputsOf({
      'manifests/site.pp': `
        notify { 'a': message => template('m/a.erb') }
        notify { 'b': message => epp('m/b.epp') }
        notify { 'c': message => file('/nothing/here', 'm/none', 'm/c') }
        notify { 'd': message => String(find_file('m/d1', 'm/d2')) }
        file { '/e': source => ['puppet:///modules/m/e1', 'puppet:///modules/m/e2'] }
        file { '/f': ensure => directory, recurse => remote, source => 'puppet:///modules/m/f' }`,
      'modules/m/templates/a.erb': 'a',
      'modules/m/templates/b.epp': 'b',
      'modules/m/files/c': 'c',
      'modules/m/files/d2': 'd',
      'modules/m/files/e2': 'e',
      'modules/m/files/f/g/h': 'h',
    });
    expect(inputs).toEqual(
      expect.arrayContaining([
        'file modules/m/templates/a.erb',
        'file modules/m/templates/b.epp',
        'kind modules/m/files/none',
        'file modules/m/files/c',
        'kind modules/m/files/d1',
        'kind modules/m/files/d2',
        'kind modules/m/files/e1',
        'file modules/m/files/e2',
        'list modules/m/files/f',
        'list modules/m/files/f/g',
        'file modules/m/files/f/g/h',
      ]),
    );
  });
  test('the mode of a file where code looks at it', async () => {
    const looking = async (codes: string[]) => {
      const inputs = await inputsOf({
        'manifests/site.pp': "notify { 'a': message => String(m::look()) }",
        'modules/m/lib/puppet/functions/m/look.rb': rubyFunction(
          'm::look',
          `${codes.map((code, at) => `path = File.expand_path("../../../../files/f${at}", __dir__); ${code}`).join('\n')}; 1`,
        ),
        ...Object.fromEntries(codes.map((_, at) => [`modules/m/files/f${at}`, 'text'])),
      });
      return codes.filter((_, at) => inputs.includes(`mode modules/m/files/f${at}`));
    };
    const looks = [
      'File.executable?(path)',
      'FileTest.world_readable?(path)',
      'Pathname.new(path).executable?',
      'Puppet::FileSystem.executable?(path)',
      'test("x", path)',
      'File.stat(path).mode',
      'File.lstat(path).executable_real?',
      'File::Stat.new(path).inspect',
    ];
    const others = [
      'File.exist?(path) && File.readable?(path) && File.read(path)',
      'File.stat(path).size + File.open(path) { |file| file.lstat.size }',
      'File::Stat.new(path).ftype',
    ];
    expect(await looking([...others, ...looks])).toEqual(looks);
    // Whose mode it is cannot be seen.
    for (const code of [
      'File.lstat(path).dup.executable?',
      'File.open(path) { |file| file.stat.mode }',
      'IO.open(IO.sysopen(path)).stat.mode',
      'File.open(path) { |file| File.executable?(file) }',
      'require "fileutils"; FileUtils.cp(path, "/dev/null")',
    ])
      expect(await looking([others[0]!, code])).toEqual([others[0], code]);
  });
  test('the mode of a source that the catalog takes it from, and of no other', async () => {
    const inputs = await inputsOf({
      'manifests/site.pp': `
        file { '/a': source => 'puppet:///modules/m/a', source_permissions => use }
        file { '/b': source => 'puppet:///modules/m/b', source_permissions => use_when_creating }
        file { '/c': source => 'puppet:///modules/m/c' }
        file { '/d': ensure => directory, recurse => true, source => 'puppet:///modules/m/d', source_permissions => use }
        file { '/e': ensure => directory, recurse => true, source => 'puppet:///modules/m/e' }`,
      'modules/m/files/a': 'a',
      'modules/m/files/b': 'b',
      'modules/m/files/c': 'c',
      'modules/m/files/d/one': 'd',
      'modules/m/files/e/one': 'e',
    });
    expect(inputs.filter((input) => input.startsWith('mode'))).toEqual([
      'mode modules/m/files/a',
      'mode modules/m/files/b',
      'mode modules/m/files/d',
      'mode modules/m/files/d/one',
    ]);
  });
  test('functions, types and plugins by name', async () => {
    const inputs = await inputsOf({
      'manifests/site.pp': `
        $a = [m::pp(), m::ruby(), legacy(), defined('m_unknown')]
        m_thing { 'a': }
        notify { 'c': message => "\${a} \${'b' =~ M::Text}" }`,
      'modules/m/functions/pp.pp': 'function m::pp() { 1 }',
      'modules/m/lib/puppet/functions/m/ruby.rb': rubyFunction(
        'm::ruby',
        'begin; require "puppet_x/m/missing"; rescue LoadError; require_relative "../../../helper/one"; end; 1',
      ),
      'modules/m/lib/helper/one.rb': 'Object.const_set(:ONE, 1)',
      'modules/m/lib/puppet/parser/functions/legacy.rb':
        'Puppet::Parser::Functions.newfunction(:legacy, type: :rvalue) { |_| 1 }',
      'modules/m/types/text.pp': 'type M::Text = String',
      'modules/m/lib/puppet/type/m_thing.rb': 'Puppet::Type.newtype(:m_thing) { newparam(:name) }',
      'modules/m/lib/puppet/provider/m_thing/one.rb':
        'Facter.value(:kernel)\nPuppet::Type.type(:m_thing).provide(:one) {}',
    });
    expect(inputs).toEqual(
      expect.arrayContaining([
        'name function m::pp',
        'file modules/m/functions/pp.pp',
        'name function m::ruby',
        'file modules/m/lib/puppet/functions/m/ruby.rb',
        'name require puppet_x/m/missing',
        'file modules/m/lib/helper/one.rb',
        'name function legacy',
        'file modules/m/lib/puppet/parser/functions/legacy.rb',
        'name type m::text',
        'name type m',
        'file modules/m/types/text.pp',
        'name resource_type m_thing',
        'file modules/m/lib/puppet/type/m_thing.rb',
        'name provider m_thing',
        'file modules/m/lib/puppet/provider/m_thing/one.rb',
        'name resource_type m_unknown',
      ]),
    );
    expect(inputs.filter((input) => input.startsWith('glob'))).toEqual(['glob manifests/**/*.pp']);
  });
  test('hiera: root keys of YAML and JSON, everything else as a whole', async () => {
    const inputs = await inputsOf({
      'manifests/site.pp': `
        notify { 'a': message => String([lookup('a.b'), lookup('none', default_value => 1), lookup('from_m::key')]) }`,
      'hiera.yaml': `version: 5
hierarchy:
  - { name: yaml, paths: ["nodes/%{trusted.certname}.yaml", common.yaml] }
  - { name: json, data_hash: json_data, path: more.json }
  - { name: globs, glob: "roles/*.yaml" }
  - { name: custom, lookup_key: from_m::look, path: custom.txt }
`,
      'data/common.yaml': 'a: { b: 1 }\nc: 2\n',
      'data/more.json': '{"d":1}',
      'data/roles/web.yaml': 'e: 1',
      'data/custom.txt': 'f',
      'modules/from_m/lib/puppet/functions/from_m/look.rb': `Puppet::Functions.create_function(:'from_m::look') do
  dispatch(:look) { param 'String', :key; param 'Hash', :options; param 'Puppet::LookupContext', :context }
  def look(key, options, context)
    key == 'from_m::key' ? context.cached_file_data(options['path']) : context.not_found
  end
end`,
    });
    expect(inputs).toEqual(
      expect.arrayContaining([
        'file hiera.yaml',
        'kind data/nodes/n1.example.net.yaml',
        'data data/common.yaml\ta',
        'data data/common.yaml\tlookup_options\tpatterns',
        'data data/common.yaml\tnone',
        'option a',
        'option none',
        'option from_m::key',
        'data data/more.json\tnone',
        'data data/roles/web.yaml\tnone',
        'glob data/roles/*.yaml',
        'name function from_m::look',
        'file data/custom.txt',
        'kind modules/from_m/hiera.yaml',
      ]),
    );
    expect(inputs).not.toContain('file data/common.yaml');
    expect(inputs).not.toContain('data data/common.yaml\tlookup_options');
    expect(inputs).not.toContain('file data/more.json');
  });
  test('eyaml by key, with what a value asks for, and the key pair', async () => {
    const reads = await readsOf({
      'manifests/site.pp': `$secret = lookup('secret')
        if $secret != 'open from elsewhere' { fail("got \${secret}") }
        notify { 'a': message => lookup('none', default_value => 1) }`,
      'hiera.yaml': `version: 5
hierarchy:
  - name: secrets
    lookup_key: eyaml_lookup_key
    paths: [secrets.eyaml, absent.eyaml]
    options: { pkcs7_private_key: ${PRIVATE_KEY}, pkcs7_public_key: ${PUBLIC_KEY} }
  - { name: plain, path: common.yaml }
`,
      'data/secrets.eyaml': `secret: "${encrypted('open')} %{lookup('from')}"\nother: 1\n`,
      'data/common.yaml': 'from: from elsewhere\n',
    });
    expect(reads.inputs.filter((input) => /secrets|absent|common/.test(input))).toEqual([
      'data data/common.yaml\tfrom',
      'data data/common.yaml\tlookup_options\tpatterns',
      'data data/common.yaml\tnone',
      'data data/secrets.eyaml\tfrom',
      'data data/secrets.eyaml\tlookup_options\tpatterns',
      'data data/secrets.eyaml\tnone',
      'data data/secrets.eyaml\tsecret',
      'kind data/absent.eyaml',
      'kind data/common.yaml',
      'kind data/secrets.eyaml',
    ]);
    expect(reads.outside).toHaveProperty(`file ${PRIVATE_KEY}`, expect.stringMatching(/^[0-9a-f]{64}$/));
  });
  test('lookup_options: for which keys, in which files, and all of them where code may see them', async () => {
    const optionsOf = async (site: string, more: Record<string, Entry> = {}) => {
      const inputs = await inputsOf({
        'manifests/site.pp': site,
        'hiera.yaml': 'version: 5\nhierarchy: [{ name: yaml, path: common.yaml }]\n',
        'data/common.yaml': 'a: [1]\nlookup_options: { "a": { merge: deep }, "m::x": { merge: first } }\n',
        'modules/m/hiera.yaml': 'version: 5\nhierarchy: [{ name: yaml, path: common.yaml }]\n',
        'modules/m/data/common.yaml': 'm::x: 1\nlookup_options: { "m::x": { merge: unique } }\n',
        'modules/m/manifests/init.pp': 'class m($x, $y = 2) { notify { "a": message => "${x} ${y}" } }',
        ...more,
      });
      return inputs.filter((input) => /lookup_options|^option/.test(input));
    };
    const common = 'data data/common.yaml\tlookup_options';
    const own = 'data modules/m/data/common.yaml\tlookup_options';
    const asked = [`${common}\tpatterns`, `${own}\tmodules`, `${own}\tpatterns`, 'option m::x', 'option m::y'];
    expect(await optionsOf('include m')).toEqual(asked);
    expect(await optionsOf('notify { "b": message => String(lookup("a", merge => unique)) }')).toEqual([
      `${common}\tpatterns`,
      'option a',
    ]);
    const code = (body: string) => ({ 'modules/m/lib/puppet/functions/m/look.rb': rubyFunction('m::look', body) });
    const whole = [common, `${common}\tpatterns`, own, `${own}\tmodules`, `${own}\tpatterns`];
    expect(await optionsOf('include m\nm::look()', code('"lookup_options"; 1'))).toEqual(whole);
    const explaining = `scope = closure_scope
    explainer = Puppet::Pops::Lookup::Explainer.new(true)
    invocation = Puppet::Pops::Lookup::Invocation.new(scope, {}, {}, explainer)
    Puppet::Pops::Lookup.lookup("m::x", nil, nil, false, nil, invocation)
    raise "not explained" unless explainer.explain.include?("unique")`;
    expect(await optionsOf('m::look()', code(explaining))).toEqual([common, own]);
  });
  test('links: where they lead, and that they lead there', async () => {
    const inputs = await inputsOf({
      'manifests/site.pp': "notify { 'a': message => file('m/a') }",
      'modules/m': { link: '../elsewhere/m' },
      'elsewhere/m/files/a': { link: 'b' },
      'elsewhere/m/files/b': 'b',
    });
    expect(inputs).toEqual(
      expect.arrayContaining(['file modules/m', 'file elsewhere/m/files/a', 'file elsewhere/m/files/b']),
    );
  });
  test('patterns of a module’s code', async () => {
    const inputs = await inputsOf({
      'manifests/site.pp': "notify { 'a': message => String(m::look()) }",
      'modules/m/lib/puppet/functions/m/look.rb': rubyFunction(
        'm::look',
        'base = File.expand_path("../../../../files", __dir__); Dir.glob("#{base}/{a,b}/*.txt") + Dir["#{base}/[xy]/*"] + Dir.children(base)',
      ),
      'modules/m/files/a/one.txt': '',
    });
    expect(inputs).toEqual(
      expect.arrayContaining([
        'glob modules/m/files/a/*.txt',
        'glob modules/m/files/b/*.txt',
        'list modules/m/files',
        'list modules/m/files/a',
      ]),
    );
  });
  test.each([
    ["environment.module('m').version", ['file modules/m/metadata.json'], []],
    ["environment.module('m').dependencies", ['file modules/m/metadata.json'], []],
    ['environment.module_requirements', [], ['asks which versions of modules there are']],
    ["environment.module('m').unmet_dependencies", [], ['asks which versions of modules there are']],
    ["environment.module('m').name", [], []],
  ])('versions of modules, where code asks for them: %s', async (code, inputs, volatile) => {
    const reads = await readsOf({
      'manifests/site.pp': "notify { 'a': message => String(m::look()) }",
      'modules/m/metadata.json': JSON.stringify({ ...METADATA, name: 'a-m' }),
      'modules/m/lib/puppet/functions/m/look.rb': rubyFunction(
        'm::look',
        `environment = closure_scope.compiler.environment; String(${code}).size`,
      ),
    });
    expect(reads.inputs.filter((input) => input.includes('metadata'))).toEqual(inputs);
    expect(reads.volatile.map(({ reason }) => reason)).toEqual(volatile);
  });
  test.each([
    ['fail("no")', []],
    ['include m::nowhere', ['kind modules/m/manifests/nowhere.pp']],
    ['no::such()', ['name function no::such']],
    ['notify { "a": message => template("m/none.erb") }', ['kind modules/m/templates/none.erb']],
  ])('a compile that fails tells too: %s', async (manifest, expected) => {
    const inputs = await inputsOf({ 'manifests/site.pp': manifest, 'modules/m/metadata.json': '{}' }, 'failed');
    expect(inputs).toEqual(expect.arrayContaining(['file manifests/site.pp', ...expected]));
  });
});

const METADATA = { version: '1.0.0', source: '', author: 'a', license: 'x', dependencies: [] };

describe.concurrent('outside the code version', { timeout: 120_000 }, () => {
  test('files, lists and variables can be looked at again', async () => {
    const reads = await readsOf({
      'manifests/site.pp': `notify { 'a': message => String([m::look(), file('${beside}/none', '${beside}/there')]) }`,
      'modules/m/lib/puppet/functions/m/look.rb': rubyFunction(
        'm::look',
        `[ENV['HOME'].nil?, ENV['NOT_THERE'], Dir.children('${beside}'), File.directory?('${beside}/no'), File.executable?('${beside}/there')]`,
      ),
    });
    expect(reads.outside).toMatchObject({
      [`file ${beside}/there`]: sha256('text'),
      [`kind ${beside}/none`]: null,
      [`list ${beside}`]: sha256('there\n'),
      [`kind ${beside}/no`]: null,
      [`mode ${beside}/there`]: (await stat(join(beside, 'there'))).mode.toString(8).slice(-3),
      'env NOT_THERE': null,
      'env HOME': expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    expect(reads.volatile).toEqual([]);
  });
  const ruby = (code: string) => ({
    'manifests/site.pp': "notify { 'a': message => String(m::look()) }",
    'modules/m/lib/puppet/functions/m/look.rb': rubyFunction('m::look', `${code}; 1`),
  });
  test.each([
    ['Time.now', 'reads the clock'],
    ['Date.today', 'reads the clock'],
    ['Process.clock_gettime(Process::CLOCK_REALTIME)', 'reads the clock'],
    ['rand(5)', 'makes a random choice'],
    ['[1, 2].shuffle', 'makes a random choice'],
    ['SecureRandom.hex', 'makes a random choice'],
    ['`true`', 'runs a command'],
    ['system("true")', 'runs a command'],
    ['IO.popen("true").read', 'runs a command'],
    ['require "open3"; Open3.capture2("true")', 'runs a command'],
    ['Puppet::Util::Execution.execute(["/bin/true"])', 'runs a command'],
    ['begin; TCPSocket.new("127.0.0.1", 1); rescue SystemCallError; end', 'uses the network'],
    ['begin; Addrinfo.getaddrinfo("localhost", 1); rescue SocketError; end', 'uses the network'],
    ['Facter.value(:kernel)', 'asks Facter about the machine that compiles'],
    ['Puppet.runtime[:facter].value(:kernel)', 'asks Facter about the machine that compiles'],
    ['ENV.to_h', 'reads the environment of the process'],
    ['File.mtime(__FILE__)', 'looks at the time of a file'],
    ['File.read("/proc/uptime")', 'reads /proc/uptime, which is never the same'],
  ])('%s: %s', async (code, reason) => {
    const { volatile } = await readsOf(ruby(code));
    expect(volatile).toContainEqual({ reason, file: 'modules/m/lib/puppet/functions/m/look.rb', line: 3 });
  });
  test.each([
    ['Timestamp()', 'reads the clock'],
    ["generate('/bin/echo', 'a')", 'runs a command'],
    ["inline_template('<%= Time.now %>')", 'reads the clock'],
  ])('%s: %s', async (expression, reason) => {
    const { volatile } = await readsOf({ 'manifests/site.pp': `\nnotify { 'a': message => String(${expression}) }` });
    expect(volatile).toContainEqual({ reason, file: 'manifests/site.pp', line: 2 });
  });
  test.each(["fqdn_rand(100, 'a')", "strftime(Timestamp(0), '%s')", "sprintf('%s', 1)"])(
    '%s is always the same',
    async (expression) => {
      const { volatile } = await readsOf({ 'manifests/site.pp': `notify { 'a': message => String(${expression}) }` });
      expect(volatile).toEqual([]);
    },
  );
});

test('without a trace there are no reads', async () => {
  const codeDirectory = await codeTree({ 'manifests/site.pp': '' });
  expect(await pool.compile(request('n1.example.net', { codeDirectory, trace: false }))).toMatchObject({ reads: null });
});
