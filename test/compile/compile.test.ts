/** What a catalog depends on, and what it does not. */
/** biome-ignore-all lint/suspicious/noTemplateCurlyInString: Puppet interpolates like this too. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CompileRequest, CompileResult } from '../../src/compile/request.ts';
import { servedCatalog } from '../../src/model/catalog.ts';
import { openPool, request } from '../ruby-worker/compiling.ts';
import { codeTree } from './code-tree.ts';

const MANIFEST = `
notify { 'trusted': message => "\${trusted['authenticated']} \${trusted['certname']} \${trusted['hostname']} \${trusted['domain']} \${trusted['extensions']['pp_role']} \${trusted['external']}" }
notify { 'server': message => "\${servername} \${serverversion} \${server_facts['environment']} \${environment}" }
notify { 'facts': message => "\${facts.keys.join(',')} \${facts['os']}" }
notify { 'numbers': message => String([$facts['big'], $facts['float'], $facts['deep']['volatile'], $facts['deep']['stable']]) }
notify { 'settings': message => "\${settings::confdir} \${settings::vardir} \${settings::certname}" }
`;

const pool = openPool({ concurrency: 3 });
beforeAll(() => pool.start(), 300_000);
afterAll(() => pool.close());

function resources(result: CompileResult): Record<string, Record<string, unknown>> {
  if (result.status === 'failed') throw new Error(JSON.stringify(result.error));
  const catalog = JSON.parse(String(result.canonical));
  return Object.fromEntries(
    catalog.resources.map((one: { type: string; title: string; parameters: object }) => [
      `${one.type}[${one.title}]`,
      one.parameters,
    ]),
  );
}
function said(result: CompileResult, title: string): unknown {
  return resources(result)[`Notify[${title}]`]?.message;
}
const FACTS =
  '{"z":1,"os":{"name":"Debian","family":"Debian"},"big":9007199254740993,"float":1.0,"deep":{"stable":"s"},"a":[1,2]}';
const SHUFFLED =
  '{"a":[1,2],"deep":{"stable":"s"},"float":1.0,"big":9007199254740993,"os":{"family":"Debian","name":"Debian"},"z":1}';
const full = (codeDirectory: string, over: Partial<CompileRequest> = {}) =>
  request('n1.example.net', {
    codeDirectory,
    facts: FACTS,
    volatileFacts: '{"deep":{"volatile":7}}',
    trustedExtensions: { pp_role: 'web' },
    serverFacts: { servername: 'compilers.example.net', serverip: '192.0.2.1' },
    ...over,
  });

describe('inputs', { timeout: 180_000 }, () => {
  test('are the certificate, the facts, and the server facts as they are told', async () => {
    const code = await codeTree({ 'manifests/site.pp': MANIFEST });
    const result = await pool.compile(full(code));
    expect(said(result, 'trusted')).toBe('remote n1.example.net n1 example.net web {}');
    expect(said(result, 'server')).toMatch(/^compilers\.example\.net \d+\.\d+\.\d+ production production$/);
    expect(said(result, 'facts')).toBe(
      "a,big,deep,float,os,z {'family' => 'Debian', 'name' => 'Debian'}".replaceAll("'", ''),
    );
    expect(said(result, 'numbers')).toBe("[9007199254740993, 1.0, 7, 's']");
    expect(said(result, 'settings')).toBe('/etc/callboard/puppet /var/lib/callboard/puppet callboard');
  });

  test('a node cannot make itself trusted by its facts', async () => {
    const code = await codeTree({ 'manifests/site.pp': MANIFEST });
    const facts = '{"trusted":{"authenticated":"remote","certname":"other","extensions":{"pp_role":"admin"}},"os":{}}';
    const result = await pool.compile(full(code, { facts, trustedExtensions: {} }));
    expect(said(result, 'trusted')).toMatch(/^remote n1\.example\.net n1 example\.net {2}\{\}$/);
  });

  test('environment.conf and hiera.yaml of the code version count', async () => {
    const code = await codeTree(
      {
        'environment.conf': 'manifest = site\nmodulepath = nonsense\nconfig_version = /bin/false\n',
        'site/10-a.pp': 'include thing',
        'manifests/site.pp': 'fail("the wrong manifest")',
        'site-modules/thing/manifests/init.pp':
          'class thing(Integer $n, String $own = lookup("thing::word")) { notify { "n": message => "${n} ${own}" } }',
        'hiera.yaml':
          'version: 5\nhierarchy:\n  - {name: role, path: "%{trusted.extensions.pp_role}.yaml"}\n  - {name: os, path: "%{facts.os.family}.yaml"}\n',
        'data/web.yaml': 'thing::n: 3\n',
        'data/Debian.yaml': 'thing::n: 4\nthing::word: "of %{facts.os.family}"\n',
      },
      ['site-modules'],
    );
    expect(said(await pool.compile(full(code)), 'n')).toBe('3 of Debian');
  });
});

describe('ENC', { timeout: 180_000 }, () => {
  const files = {
    'manifests/site.pp': 'notify { "seen": message => "${color} ${os}" }',
    'modules/a/manifests/init.pp': 'class a(String $p = "default") { notify { "a": message => $p } }',
    'modules/b/manifests/init.pp': 'class b { notify { "b": } }',
  };
  const answers: [string, string, Record<string, string>][] = [
    ['a list of classes', 'classes: [a, b]', { 'Notify[a]': 'default' }],
    ['classes with parameters', 'classes:\n  a: {p: given}\n  b:\n', { 'Notify[a]': 'given' }],
    ['symbols', ':classes: [a]\n:parameters: {color: blue}\n', { 'Notify[a]': 'default', 'Notify[seen]': 'blue ' }],
    ['parameters over facts', 'parameters: {color: red, os: mine}', { 'Notify[seen]': 'red mine' }],
  ];
  test.each(answers)('%s', async (_, enc, expected) => {
    const code = await codeTree(files);
    const result = await pool.compile(full(code, { enc, facts: enc.includes('mine') ? FACTS : '{"os":""}' }));
    for (const [ref, text] of Object.entries(expected)) expect(resources(result)[ref]?.message).toBe(text);
  });
  test.each([
    ['', "The ENC does not know the node 'n1.example.net'; cannot compile"],
    ['[1, 2]', 'is not a hash'],
    ['a: [', 'Could not load external node results'],
    ['classes: [nothing_like_it]', 'Could not find class nothing_like_it for n1.example.net'],
  ])('%j is an error', async (enc, expected) => {
    const result = await pool.compile(full(await codeTree(files), { enc }));
    expect(result).toMatchObject({ status: 'failed', error: { message: expect.stringContaining(expected) } });
  });
});

describe('P3: equal inputs give equal bytes', { timeout: 300_000 }, () => {
  test('in fresh processes, from another directory, with facts in another order, warm and cold', async () => {
    const files = {
      'manifests/site.pp': `${MANIFEST} include many`,
      'modules/many/manifests/init.pp':
        'class many { $facts.each |$k, $v| { file { "/f/${k}": content => "${v}", tag => [$k, "x"] } } file { "/t": recurse => true, source => "puppet:///modules/many/t" } }',
      ...Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`modules/many/files/t/${(i * 7) % 30}`, String(i)])),
    };
    const [here, there] = [await codeTree(files), await codeTree(files)];
    const other = openPool();
    try {
      const results = [
        await pool.compile(full(here)),
        await pool.compile(full(here)),
        await pool.compile(full(there, { facts: SHUFFLED })),
        await other.compile(full(there)),
        await other.compile(full(here, { facts: SHUFFLED })),
      ];
      const ids = results.map((one) => one.status === 'compiled' && servedCatalog(one.canonical).id);
      expect(new Set(ids).size).toBe(1);
      const text = String(results[0]!.status === 'compiled' && results[0]!.canonical);
      expect(text).not.toContain(here);
      expect(Object.keys(JSON.parse(text))).toEqual(Object.keys(JSON.parse(text)).sort());
      for (const dropped of ['version', 'catalog_uuid', 'code_id'])
        expect(JSON.parse(text)).not.toHaveProperty(dropped);
    } finally {
      await other.close();
    }
  });

  test('the certname, a fact and the code each make another catalog', async () => {
    const [code, changed] = [
      await codeTree({ 'manifests/site.pp': MANIFEST }),
      await codeTree({ 'manifests/site.pp': `\n${MANIFEST}` }),
    ];
    const results = await Promise.all([
      pool.compile(full(code)),
      pool.compile({ ...full(code), certname: 'n2.example.net' }),
      pool.compile(full(code, { facts: FACTS.replace('"z":1', '"z":1,"y":2') })),
      pool.compile(full(changed)),
    ]);
    const ids = results.map((one) => one.status === 'compiled' && servedCatalog(one.canonical).id);
    expect(new Set(ids).size).toBe(4);
  });
});

test('types and functions of the same name live side by side in two code versions', { timeout: 300_000 }, async () => {
  const tree = (param: string) =>
    codeTree({
      'manifests/site.pp': `same { 'x': ${param} => 'v' } notify { 'f': message => same::f() }`,
      'modules/same/lib/puppet/type/same.rb': `Puppet::Type.newtype(:same) { newparam(:name); newparam(:${param}) }`,
      'modules/same/lib/puppet/functions/same/f.rb': `Puppet::Functions.create_function(:'same::f') { def f; '${param}'; end }`,
    });
  const [left, right] = [await tree('left'), await tree('right')];
  for (let round = 0; round < 3; round += 1) {
    const [l, r] = await Promise.all([pool.compile(full(left)), pool.compile(full(right, { environment: 'staging' }))]);
    expect([said(l, 'f'), said(r, 'f')]).toEqual(['left', 'right']);
    expect(resources(l)['Same[x]']).toEqual({ left: 'v' });
    expect(resources(r)['Same[x]']).toEqual({ right: 'v' });
  }
});

describe('errors and warnings', { timeout: 180_000 }, () => {
  test.each([
    ['notify { "a":', 'Syntax error at end of input', 'manifests/site.pp', null],
    ['\ninclude nowhere', 'Could not find class ::nowhere', 'manifests/site.pp', 2],
    ['fail("because")', 'because', 'manifests/site.pp', 1],
    ['notify { "a": } notify { "a": }', 'Duplicate declaration', 'manifests/site.pp', 1],
    ['notify { "a": require => Notify["b"] }', "Could not find resource 'Notify[b]'", 'manifests/site.pp', 1],
    ['notify { "a": message => Binary("gA==").binary_file }', 'binary_file', 'manifests/site.pp', 1],
  ])('%j', async (site, expected, file, line) => {
    const result = await pool.compile(full(await codeTree({ 'manifests/site.pp': site })));
    if (result.status === 'compiled') throw new Error('compiled');
    expect(result.error.message).toContain(expected);
    expect(result.error.file).toBe(file);
    if (line) expect(result.error.line).toBe(line);
    expect(JSON.stringify(result)).not.toContain('/callboard-code-');
  });
  test('warnings come with the catalog, at most a hundred', async () => {
    const site = 'Integer[1, 150].each |$i| { warning("number ${i}") } notice("not told")';
    const result = await pool.compile(full(await codeTree({ 'manifests/site.pp': site })));
    expect(result.status).toBe('compiled');
    expect(result.warnings).toHaveLength(100);
    expect(result.warnings[0]).toMatchObject({ level: 'warning', message: 'number 1' });
  });
  test('a directory that is no code version is trouble of ours, not of the code', async () => {
    await expect(pool.compile(full('/nonexistent/code'))).rejects.toMatchObject({ code: 'WORKER_FAILED' });
  });
  test('bytes that are no text are an error that names the place', async () => {
    const code = await codeTree({
      'manifests/site.pp': 'notify { "n": message => bytes::bad() }',
      'modules/bytes/lib/puppet/functions/bytes/bad.rb':
        "Puppet::Functions.create_function(:'bytes::bad') { def bad; \"\\xff\\xfe\".dup.force_encoding('UTF-8'); end }",
    });
    const result = await pool.compile(full(code));
    expect(result).toMatchObject({
      status: 'failed',
      error: { message: expect.stringMatching(/parameters\.message is not UTF-8 text/) },
    });
  });
  test('rich data, exported and virtual resources are as an agent expects them', async () => {
    const code = await codeTree({
      'manifests/site.pp': `
        notify { 'sensitive': message => Sensitive('hush') }
        notify { 'deferred': message => Deferred('join', [['a', 'b']]) }
        notify { 'binary': message => Binary('gIE=') }
        notify { 'regexp': message => /a.b/ }
        @notify { 'virtual': } @@notify { 'exported': }
        @notify { 'realized': } realize(Notify['realized'])`,
    });
    const result = await pool.compile(full(code));
    const found = resources(result);
    expect(found['Notify[sensitive]']).toEqual({ message: 'hush' });
    expect(found['Notify[deferred]']!.message).toMatchObject({ __ptype: 'Deferred', name: 'join' });
    // A stock agent fills a Deferred by position.
    expect(Object.keys(found['Notify[deferred]']!.message as object)).toEqual(['__ptype', 'name', 'arguments']);
    expect(found['Notify[binary]']!.message).toEqual({ __ptype: 'Binary', __pvalue: 'gIE=' });
    expect(found['Notify[regexp]']!.message).toEqual({ __ptype: 'Regexp', __pvalue: 'a.b' });
    expect(Object.keys(found)).toContain('Notify[realized]');
    expect(Object.keys(found)).not.toContain('Notify[virtual]');
    expect(Object.keys(found)).not.toContain('Notify[exported]');
  });
});
