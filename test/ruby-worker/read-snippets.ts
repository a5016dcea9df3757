/** Ways to read facts, trusted and server facts, and what of them must be on record. */
/** biome-ignore-all lint/suspicious/noTemplateCurlyInString: Puppet interpolates like this too. */

export const FACTS = {
  kernel: 'Linux',
  osfamily: 'Debian',
  os: { family: 'Debian', release: { major: '12' } },
  networking: { fqdn: 'n1.example.net', interfaces: [{ ip: '192.0.2.1' }, { ip: '192.0.2.2' }] },
  memory: { free: 5 },
  flag: false,
};
export type Facts = Record<string, unknown>;

/** The node after something about it changed. */
export interface Node {
  facts: Facts;
  extensions: Record<string, string>;
  servername: string;
}
export const NODE: Node = { facts: FACTS, extensions: { pp_role: 'web' }, servername: 'callboard' };

const facts = (over: Facts): Partial<Node> => ({ facts: { ...FACTS, ...over } });
const without = (name: string): Partial<Node> => ({
  facts: Object.fromEntries(Object.entries(FACTS).filter(([key]) => key !== name)),
});

export const MUTATIONS: Record<string, Partial<Node>> = {
  family: facts({ os: { family: 'RedHat', release: { major: '12' } } }),
  release: facts({ os: { family: 'Debian', release: { major: '13' } } }),
  'os is text': facts({ os: 'Debian' }),
  'os has more': facts({ os: { family: 'Debian', name: 'Debian', release: { major: '12' } } }),
  'no os': without('os'),
  kernel: facts({ kernel: 'Darwin' }),
  'no kernel': without('kernel'),
  osfamily: facts({ osfamily: 'RedHat' }),
  fqdn: facts({ networking: { ...FACTS.networking, fqdn: 'n2.example.net' } }),
  'an address': facts({ networking: { ...FACTS.networking, interfaces: [{ ip: '192.0.2.1' }, { ip: '192.0.2.3' }] } }),
  'one interface': facts({ networking: { ...FACTS.networking, interfaces: [{ ip: '192.0.2.1' }] } }),
  memory: facts({ memory: { free: 6 } }),
  flag: facts({ flag: true }),
  'later is there': facts({ later: 'now' }),
  'nope is there': facts({ nope: { a: 1 } }),
  role: { extensions: { pp_role: 'db' } },
  'another extension': { extensions: { pp_role: 'web', pp_zone: 'z' } },
  servername: { servername: 'elsewhere' },
};

type Path = (string | number)[];
export interface Snippet {
  /** An expression; its value ends in the catalog. */
  code: string;
  /** Exactly the paths that are read; `ALL`: all facts, at least. */
  reads: Path[] | 'ALL';
}
const one = (code: string, ...path: Path): Snippet => ({ code, reads: [path] });
const all = (code: string): Snippet => ({ code, reads: 'ALL' });

export const SNIPPETS: Snippet[] = [
  one("$facts['os']['family']", 'facts', 'os', 'family'),
  one("$::facts['os']['family']", 'facts', 'os', 'family'),
  one("\"${facts['os']['family']}\"", 'facts', 'os', 'family'),
  one('"${facts[os][family]}"', 'facts', 'os', 'family'),
  one("$facts['os']", 'facts', 'os'),
  one("$os['release']['major']", 'facts', 'os', 'release', 'major'),
  one("$::os['family']", 'facts', 'os', 'family'),
  one('$osfamily', 'facts', 'osfamily'),
  one('$::osfamily', 'facts', 'osfamily'),
  one('$later', 'facts', 'later'),
  one("$facts['nope']", 'facts', 'nope'),
  one("$facts['memory']['nope']", 'facts', 'memory', 'nope'),
  one("$facts['networking']['interfaces'][1]['ip']", 'facts', 'networking', 'interfaces', 1, 'ip'),
  one("$facts['networking']['interfaces'][5]", 'facts', 'networking', 'interfaces', 5),
  one("$facts['networking']['interfaces'][-1]", 'facts', 'networking', 'interfaces'),
  one("$facts['networking']['interfaces'][0, 1]", 'facts', 'networking', 'interfaces'),
  one("$facts['kernel'][0, 2]", 'facts', 'kernel'),
  {
    code: "$facts[downcase($facts['os']['family'])]",
    reads: [
      ['facts', 'debian'],
      ['facts', 'os', 'family'],
    ],
  },
  {
    code: "$facts[$facts['flag'] ? { true => 'kernel', default => 'osfamily' }]",
    reads: [
      ['facts', 'flag'],
      ['facts', 'osfamily'],
    ],
  },
  {
    code: "if $facts['flag'] { $facts['kernel'] } else { $osfamily }",
    reads: [
      ['facts', 'flag'],
      ['facts', 'osfamily'],
    ],
  },
  one("$facts.dig('os', 'family')", 'facts', 'os', 'family'),
  one("$facts['os'].dig('release', 'major')", 'facts', 'os', 'release', 'major'),
  one("$facts.dig('nope', 'a')", 'facts', 'nope'),
  one("dig($facts, 'networking', 'interfaces', 0, 'ip')", 'facts', 'networking', 'interfaces', 0, 'ip'),
  one("$facts.get('os.family')", 'facts', 'os', 'family'),
  one("get($facts, 'nope.a', 'default')", 'facts', 'nope'),
  one("getvar('facts.os.family')", 'facts', 'os', 'family'),
  one("getvar('facts.nope', 'default')", 'facts', 'nope'),
  one("getvar('kernel')", 'facts', 'kernel'),
  all("getvar('facts.nope.a') |$e| { $facts['kernel'] }"),
  one("fqdn_rand(1000000, 'x')", 'facts', 'networking', 'fqdn'),
  one("defined('$later')", 'facts', 'later'),
  one("defined('$::kernel')", 'facts', 'kernel'),
  one("$trusted['extensions']['pp_role']", 'trusted', 'extensions', 'pp_role'),
  one("$trusted['extensions']['pp_zone']", 'trusted', 'extensions', 'pp_zone'),
  one('$trusted', 'trusted'),
  one("$server_facts['servername']", 'server_facts', 'servername'),
  {
    code: '$servername',
    reads: [
      ['facts', 'servername'],
      ['server_facts', 'servername'],
    ],
  },
  all('$facts'),
  all("'later' in $facts"),
  all("with($facts) |$f| { $f['kernel'] }"),
  all("[$facts].map |$f| { $f['os']['family'] }"),
  all("$facts.filter |$k, $v| { $k == 'later' }"),
  all('$facts =~ Struct[{ Optional[later] => String, Optional[kernel] => Any, default => Any }]'),
  one("inline_epp(\"<%= \\$facts['os']['family'] %>\")", 'facts', 'os', 'family'),
  one('inline_epp("<%= \\$kernel %>")', 'facts', 'kernel'),
  one("inline_template('<%= @kernel %>')", 'facts', 'kernel'),
  one("inline_template('<%= @later %>')", 'facts', 'later'),
  one("inline_template(\"<%= @facts['os']['family'] %>\")", 'facts', 'os', 'family'),
  one('inline_template("self send method then <% if @flag then %>a<% end %>")', 'facts', 'flag'),
  one('inline_template("<%= scope[\'kernel\'] %>")', 'facts', 'kernel'),
  one('inline_template("<%= scope.lookupvar(\'::kernel\') %>")', 'facts', 'kernel'),
  one('inline_template("<%= has_variable?(\'later\') %>")', 'facts', 'later'),
  all("inline_template(\"<%= instance_variable_get('@' + 'kernel') %>\")"),
  all('inline_template("<%= scope.to_hash[\'kernel\'] %>")'),
  all("inline_template(\"<%= scope['facts']['kernel'] %>\")"),
  all('inline_template("<%= @facts.keys.size %>")'),
  one("TEMPLATE <%= scope['facts']['os']['family'] %>", 'facts', 'os', 'family'),
  one("TEMPLATE <%= scope.lookupvar('::facts')['kernel'] %><%= scope['s::none'] %>", 'facts', 'kernel'),
  one("TEMPLATE <%= [1].map { scope['facts']['kernel'] } %>", 'facts', 'kernel'),
  one(
    "TEMPLATE <%= scope['facts']['kernel'] %><%= scope.call_function('sprintf', ['%s', scope['facts']['kernel']]) %>",
    'facts',
    'kernel',
  ),
  all("TEMPLATE <%= scope['facts']['kernel'] %><%= scope['facts'].size %>"),
  all("TEMPLATE <% name = 'facts' %><%= scope['facts']['os'] %><%= scope[name]['kernel'] %>"),
  all("TEMPLATE <%= scope['facts']['os'] %><%= @__scope__['facts']['kernel'] %>"),
  all("TEMPLATE <%= scope['facts']['os'] %><%= send('sco' + 'pe')['facts']['kernel'] %>"),
  all("TEMPLATE <% s = scope %><%= scope['facts']['os'] %><%= s['facts']['kernel'] %>"),
  all("TEMPLATE <%= scope['facts']['os'] %><%= scope.call_function('getvar', ['facts'])['kernel'] %>"),
  all(
    "TEMPLATE <%= scope['facts']['os'] %><%= scope.call_function('inline_template', [\"<\" + \"%= scope['facts']['kernel'] %\" + \">\"]) %>",
  ),
  {
    code: "lookup('by_family')",
    reads: [
      ['facts', 'os', 'family'],
      ['trusted', 'certname'],
    ],
  },
  {
    code: "lookup('interpolated')",
    reads: [
      ['facts', 'kernel'],
      ['facts', 'os', 'family'],
      ['facts', 'osfamily'],
      ['trusted', 'certname'],
    ],
  },
  ...[
    "closure_scope['facts']['kernel']",
    "closure_scope.to_hash['kernel']",
    'closure_scope.compiler.node.facts.values',
    "closure_scope.compiler.node.parameters['kernel']",
    "closure_scope.compiler.node.trusted_data.to_s + closure_scope['kernel']",
    "closure_scope.compiler.qualified_variables['kernel']",
    "closure_scope.compiler.topscope.instance_variable_get(:@symtable)['kernel']",
    "closure_scope.compiler.node.instance_eval { @facts.values['kernel'] }",
    "closure_scope.compiler.topscope.dup.lookupvar('kernel')",
    "ObjectSpace.each_object(Puppet::Node).map { |n| n.to_s && n.send(:facts).values['later'].to_s }.join",
    "closure_scope.effective_symtable(true)['kernel'].to_s + closure_scope.find_global_scope.lookupvar('facts').size.to_s",
  ].map((ruby) => all(`RUBY ${ruby}`)),
  one("RUBY closure_scope['kernel']", 'facts', 'kernel'),
  one("RUBY closure_scope.lookupvar('::kernel')", 'facts', 'kernel'),
  one("RUBY closure_scope.exist?('later')", 'facts', 'later'),
  one("RUBY closure_scope.include?('later')", 'facts', 'later'),
  one("RUBY closure_scope.compiler.topscope.has_local_variable?('later')", 'facts', 'later'),
];

/** A code version with a class `s::s0`, `s::s1` … for each snippet. */
export function snippetTree(): Record<string, string> {
  const files: Record<string, string> = {
    'manifests/site.pp': '$assigned = 1\n',
    'hiera.yaml': `version: 5
hierarchy:
  - { name: all, paths: ["nodes/%{trusted.certname}.yaml", "os/%{facts.os.family}.yaml", common.yaml] }
`,
    'data/os/Debian.yaml': 'by_family: debian\n',
    'data/os/RedHat.yaml': 'by_family: redhat\n',
    'data/common.yaml': 'by_family: other\ninterpolated: "%{facts.kernel} %{::osfamily}"\n',
  };
  for (const [n, { code }] of SNIPPETS.entries()) {
    const ruby = /^RUBY (.*)$/.exec(code)?.[1];
    const template = /^TEMPLATE (.*)$/.exec(code)?.[1];
    if (template) files[`modules/s/templates/t${n}.erb`] = template;
    if (ruby)
      files[`modules/s/lib/puppet/functions/s/f${n}.rb`] =
        `Puppet::Functions.create_function(:'s::f${n}') do\n  def f${n}\n    (${ruby}).to_s\n  end\nend\n`;
    files[`modules/s/manifests/s${n}.pp`] =
      `class s::s${n} {\n  $value = ${ruby ? `s::f${n}()` : template ? `template('s/t${n}.erb')` : code.startsWith('if') ? code : `(${code})`}\n  notify { 's${n}': message => String($value, '%p') }\n}\n`;
  }
  return files;
}
