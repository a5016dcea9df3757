/**
 * What can change about a site, one change at a time. Each kind changes a world in place and says what it did, or gives
 * undefined where there is nothing for it to do.
 */
import { posix } from 'node:path';
import { parse, stringify } from 'yaml';
import type { Random } from './random.ts';
import {
  BASE_MODULES,
  type CodeFile,
  type Facts,
  fileOf,
  type Json,
  type Machine,
  ROLES,
  type World,
} from './world.ts';

export interface Kind {
  name: string;
  /** How often it comes, beside the others. */
  weight: number;
  /** It changes nothing but comments and white space. */
  remark?: true;
  mutate(world: World, random: Random): string | undefined;
}

const SITE = 'site-modules/';
/** Directories of modules whose manifests and templates are edited. */
const EDITED = /^(site-modules\/[^/]+|\.callboard\/modulepath\/0\/(ntp|ssh|mysql|placement|apache))\//;

const kinds: Kind[] = [];
function kind(name: string, weight: number, mutate: Kind['mutate'], remark?: true): void {
  kinds.push({ name, weight, mutate, ...(remark ? { remark } : {}) });
}

// --- what is found in a world ---

function paths(world: World, match: RegExp): string[] {
  return [...world.files.keys()].filter((path) => match.test(path)).sort();
}

function textOf(world: World, path: string): string {
  const file = world.files.get(path);
  return file && 'bytes' in file ? file.bytes.toString() : '';
}

function write(world: World, path: string, text: string): void {
  const before = world.files.get(path);
  world.files.set(path, fileOf(text, before && 'bytes' in before ? before.mode : '644'));
}

/** Edits a file; undefined where the edit changes nothing. */
function edit(world: World, path: string, change: (text: string) => string): string | undefined {
  const before = textOf(world, path);
  const after = change(before);
  if (after === before) return undefined;
  write(world, path, after);
  return path;
}

/** Puts a file there, or takes it away where it is. */
function toggle(world: World, path: string, text: string): string {
  if (world.files.delete(path)) return `${path} vanishes`;
  write(world, path, text);
  return `${path} appears`;
}

function machine(world: World, random: Random): Machine {
  return random.pick([...world.machines.values()]);
}

/** Replaces one match of several, chosen at random. */
function replaceOne(text: string, match: RegExp, random: Random, by: (found: RegExpMatchArray) => string): string {
  const found = [...text.matchAll(match)];
  if (found.length === 0) return text;
  const one = random.pick(found);
  return text.slice(0, one.index) + by(one) + text.slice(one.index + one[0].length);
}

// --- facts, certificates, the classifier ---

type Path = (string | number)[];

function leaves(value: Json, path: Path = []): Path[] {
  if (value === null || typeof value !== 'object') return [path];
  if (Array.isArray(value)) return value.flatMap((item, index) => leaves(item, [...path, index]));
  return Object.entries(value).flatMap(([key, item]) => leaves(item, [...path, key]));
}

function parentOf(facts: Facts, path: Path): Facts | undefined {
  let value: Json | undefined = facts;
  for (const step of path.slice(0, -1)) value = (value as Facts | undefined)?.[step];
  return value !== null && typeof value === 'object' ? (value as Facts) : undefined;
}

function another(value: Json | undefined, random: Random): Json {
  if (typeof value === 'number') return value + 1 + random.below(50);
  if (typeof value === 'boolean') return !value;
  return random.word();
}

function setFact(target: Machine, path: Path, value: Json): string | undefined {
  const parent = parentOf(target.facts, path);
  if (!parent) return undefined;
  const last = path.at(-1)!;
  if (JSON.stringify(parent[last]) === JSON.stringify(value)) return undefined;
  parent[last] = value;
  return `${target.certname}: ${path.join('.')} = ${JSON.stringify(value)}`;
}

const VOLATILE = /^(system_uptime|uptime|load_averages|memory(free)?|mountpoints|swapfree)/;
/** Facts that manifests, templates and data ask for, with values that mean something to them. */
const USED: [Path, (random: Random) => Json][] = [
  [['site', 'name'], (random) => random.pick(['north', 'south', 'west'])],
  [['site', 'rack'], (random) => random.pick(['r1', 'r2', 'r3'])],
  [['app_tier'], (random) => random.pick(['gold', 'silver'])],
  [['processors', 'count'], (random) => 1 + random.below(64)],
  [['processorcount'], (random) => 1 + random.below(64)],
  [['networking', 'hostname'], (random) => random.pick(['files1', 'files2', 'plain1', random.word()])],
  [['networking', 'domain'], (random) => `${random.word()}.example.net`],
  [['networking', 'fqdn'], (random) => `${random.word()}.example.net`],
  [['networking', 'primary'], (random) => random.pick(['eth0', 'eth1'])],
  [['os', 'name'], (random) => random.pick(['Debian', 'Ubuntu', 'Devuan'])],
  [['os', 'release', 'major'], (random) => String(10 + random.below(4))],
  [['mysql_server_id'], (random) => 1 + random.below(99)],
  [['fqdn'], (random) => `${random.word()}.example.net`],
  [['hostname'], (random) => random.word()],
  [['ipaddress'], (random) => `192.0.2.${1 + random.below(250)}`],
  [['lsbdistcodename'], (random) => random.pick(['bookworm', 'trixie'])],
];

kind('fact that is asked for', 8, (world, random) => {
  const [path, value] = random.pick(USED);
  return setFact(machine(world, random), path, value(random));
});
kind('fact at random', 4, (world, random) => {
  const target = machine(world, random);
  const path = random.pick(leaves(target.facts).filter((each) => !VOLATILE.test(String(each[0]))));
  return setFact(target, path, another(parentOf(target.facts, path)![path.at(-1)!], random));
});
kind('fact added', 3, (world, random) => {
  const target = machine(world, random);
  const path: Path = random.pick([
    [random.word()],
    ['networking', random.word()],
    ['site', random.word()],
    ['app_tier'],
  ]);
  return setFact(target, path, random.word());
});
kind('fact removed', 3, (world, random) => {
  const target = machine(world, random);
  const path = random.pick(
    random.chance(0.4) ? USED.map(([used]) => used) : leaves(target.facts).filter((each) => each.length < 3),
  );
  const parent = parentOf(target.facts, path);
  if (!parent || !(path.at(-1)! in parent)) return undefined;
  if (Array.isArray(parent)) parent.splice(Number(path.at(-1)), 1);
  else delete parent[path.at(-1)!];
  return `${target.certname}: ${path.join('.')} is gone`;
});
kind('fact that changes by itself', 2, (world, random) => {
  const target = machine(world, random);
  const seconds = random.below(1_000_000);
  target.facts.system_uptime = { seconds, hours: seconds % 3600, days: 0, uptime: 'some' };
  target.facts.uptime_seconds = seconds;
  return `${target.certname}: uptime`;
});
kind('fact with the name of a variable', 1, (world, random) => {
  const target = machine(world, random);
  return setFact(
    target,
    [random.pick(['change_window', 'site_name', 'title', 'module_name', 'rack_from_enc'])],
    random.word(),
  );
});
kind('certificate extension', 2, (world, random) => {
  const target = machine(world, random);
  const name = random.pick(['pp_datacenter', 'pp_zone']);
  if (target.extensions[name] && random.chance(0.3)) delete target.extensions[name];
  else target.extensions[name] = random.word();
  return `${target.certname}: ${name} = ${target.extensions[name]}`;
});
kind('role', 3, (world, random) => {
  const target = machine(world, random);
  target.extensions.pp_role = random.pick(Object.keys(ROLES).filter((role) => role !== 'web' && role !== 'cloud'));
  return `${target.certname}: role ${target.extensions.pp_role}`;
});
function classification(target: Machine): { classes?: Record<string, Facts>; parameters?: Facts } {
  return parse(target.enc) ?? {};
}
kind('classifier: parameter', 4, (world, random) => {
  const target = machine(world, random);
  const answer = classification(target);
  const name = random.pick(['rack_from_enc', 'rack_from_enc', 'change_window', 'nobody_asks']);
  answer.parameters = { ...answer.parameters };
  if (name in answer.parameters && random.chance(0.3)) delete answer.parameters[name];
  else answer.parameters[name] = random.word();
  target.enc = stringify(answer);
  return `${target.certname}: parameter ${name}`;
});
kind('classifier: class', 3, (world, random) => {
  const target = machine(world, random);
  const answer = classification(target);
  if (answer.classes?.['profile::labels'] && random.chance(0.4)) delete answer.classes['profile::labels'];
  else answer.classes = { ...answer.classes, 'profile::labels': { colour: random.word() } };
  target.enc = stringify(answer);
  return `${target.certname}: ${JSON.stringify(answer.classes)}`;
});

// --- Hiera ---

const YAML_DATA = /^data\/.*\.yaml$/;
const data = (world: World, path: string): Facts => {
  try {
    return (parse(textOf(world, path)) as Facts | null) ?? {};
  } catch {
    return {};
  }
};
const keysOf = (values: Facts): string[] => Object.keys(values).filter((key) => key !== 'lookup_options');

/** Another value of the same shape. */
function reshaped(value: Json, random: Random): Json {
  if (Array.isArray(value)) return random.chance(0.5) ? [...value, random.word()] : value.slice(0, -1);
  if (value !== null && typeof value === 'object') {
    const key = random.pick([...Object.keys(value), random.word()]);
    const before = value[key];
    if (before === undefined && Object.values(value).some((each) => typeof each !== 'string')) return value;
    return { ...value, [key]: before === undefined ? random.word() : reshaped(before, random) };
  }
  if (typeof value === 'string' && value.startsWith('SEALED['))
    return `SEALED[${Buffer.from(random.word()).toString('base64')}]`;
  if (typeof value === 'string' && /^\d+M$/.test(value)) return `${64 + random.below(1000)}M`;
  return another(value, random);
}

kind('data: value', 9, (world, random) => {
  const path = random.pick(paths(world, YAML_DATA));
  const values = data(world, path);
  const keys = keysOf(values);
  if (keys.length === 0) return undefined;
  const key = random.pick(keys);
  const value = reshaped(values[key]!, random);
  if (JSON.stringify(value) === JSON.stringify(values[key])) return undefined;
  write(world, path, stringify({ ...values, [key]: value }));
  return `${path}: ${key}`;
});
/** Keys that some class asks for, with a value that fits. */
const KEYS: Record<string, (random: Random) => Json> = {
  'profile::base::packages': (random) => [random.word()],
  'profile::base::contact': (random) => random.word(),
  'profile::base::labels': (random) => ({ [random.word()]: random.word() }),
  'profile::base::motto': (random) => `%{facts.os.name} ${random.word()}`,
  'profile::time::servers': (random) => [random.word()],
  'profile::bastion::options': (random) => ({ Banner: `/etc/${random.word()}` }),
  'profile::cloud::region': (random) => random.word(),
  'profile::database::buffer': (random) => `${64 + random.below(1000)}M`,
  'app::greeting': (random) => `%{lookup('profile::base::contact')} ${random.word()}`,
  'app::extra': (random) => random.word(),
  'app::mode': (random) => random.word(),
  'app::token': (random) => random.word(),
  'app::admin_port': (random) => 2000 + random.below(1000),
  'app::owner': (random) => random.word(),
  region: (random) => random.word(),
  'ntp::iburst_enable': (random) => random.chance(0.5),
  'nobody::asks': (random) => random.word(),
};
/** A key that machines of a role are likely to ask for. */
function fitting(role: string | undefined, random: Random): string {
  const all = Object.keys(KEYS);
  const own: Record<string, RegExp> = {
    app: /^app|^region/,
    time: /::time::/,
    bastion: /bastion/,
    cloud: /cloud/,
    database: /database/,
  };
  const fits = all.filter((key) => (role && own[role]?.test(key)) || key.startsWith('profile::base'));
  return random.pick(random.chance(0.8) ? fits : all);
}
kind('data: key added', 5, (world, random) => {
  const path = random.pick(paths(world, YAML_DATA));
  const values = data(world, path);
  const role = /data\/roles\/(\w+)|data\/nodes\/([a-z]+)/.exec(path);
  const key = fitting(role?.[1] ?? role?.[2], random);
  if (key in values) return undefined;
  write(world, path, stringify({ ...values, [key]: KEYS[key]!(random) }));
  return `${path}: ${key}`;
});
kind('data: key removed', 3, (world, random) => {
  const path = random.pick(paths(world, /^data\/(?!sealed).*\.yaml$/));
  const { [random.pick([...keysOf(data(world, path)), 'none'])]: gone, ...rest } = data(world, path);
  if (gone === undefined) return undefined;
  write(world, path, stringify(rest));
  return `${path}: a key`;
});
kind('data: file of a node', 4, (world, random) => {
  const { certname, extensions } = machine(world, random);
  const key = fitting(extensions.pp_role, random);
  return toggle(world, `data/nodes/${certname}.yaml`, stringify({ [key]: KEYS[key]!(random) }));
});
kind('data: file of a role, site or system', 3, (world, random) => {
  const path = random.pick([
    ...Object.keys(ROLES).map((role) => `roles/${role}`),
    ...[
      'sites/north',
      'sites/south',
      'sites/west',
      'sites/south/r1',
      'sites/north/r2',
      'os/Debian/more',
      'os/RedHat/more',
    ],
  ]);
  const key = fitting(path.startsWith('roles/') ? path.slice(6) : undefined, random);
  return toggle(world, `data/${path}.yaml`, stringify({ [key]: KEYS[key]!(random) }));
});
kind('data: lookup_options', 2, (world, random) => {
  const path = random.pick([
    'data/common.yaml',
    'data/common.yaml',
    'data/roles/app.yaml',
    'site-modules/app/data/common.yaml',
  ]);
  const values = data(world, path);
  const key = random.pick(
    path.startsWith(SITE)
      ? ['app::instances', 'app::file_limits']
      : [
          'profile::base::packages',
          'profile::base::labels',
          'profile::time::servers',
          'app::file_limits',
          'app::greeting',
          'nobody::asks',
        ],
  );
  const merge = random.pick(
    ['first', 'unique', 'hash', 'deep'].filter((each) => each !== 'unique' || /packages|servers/.test(key)),
  );
  const options = { ...(values.lookup_options as Facts | undefined) };
  if (key in options && random.chance(0.3)) delete options[key];
  else options[key] = { merge };
  write(world, path, stringify({ ...values, lookup_options: options }));
  return `${path}: ${key} ${JSON.stringify(options[key])}`;
});
kind('data: of another backend', 3, (world, random) =>
  random.pick([
    () =>
      edit(world, 'site-modules/app/data/settings.ini', (text) =>
        replaceOne(text, /= .*/g, random, () => `= ${1 + random.below(9)}`),
      ),
    () =>
      edit(
        world,
        'site-modules/app/data/settings.ini',
        (text) => `${text}${random.pick(['app::extra', 'app::nobody'])} = ${random.word()}\n`,
      ),
    () =>
      edit(world, 'site-modules/app/data/registry.txt', (text) =>
        replaceOne(text, / \S+$/gm, random, () => ` ${random.word()}`),
      ),
    () =>
      edit(
        world,
        'site-modules/app/data/registry.txt',
        (text) => `${text}app::registry.${random.word()} ${random.word()}\n`,
      ),
    () =>
      edit(world, 'data/ports.json', (text) =>
        replaceOne(text, /\d{2,}/g, random, () => String(2000 + random.below(9000))),
      ),
    () =>
      edit(world, 'data/ports.json', (text) =>
        text.replace('{', `{\n  "${random.pick(['app::extra', 'nobody::asks'])}": "${random.word()}",`),
      ),
    () =>
      edit(world, 'data/sealed.yaml', (text) =>
        replaceOne(text, /SEALED\[.*?\]/g, random, () => `SEALED[${Buffer.from(random.word()).toString('base64')}]`),
      ),
  ])(),
);
kind('data: of a module', 3, (world, random) =>
  random.pick([
    () =>
      edit(world, 'site-modules/app/data/common.yaml', (text) =>
        replaceOne(text, /: [\w/]+$/gm, random, () => `: /opt/${random.word()}`),
      ),
    () =>
      edit(
        world,
        'site-modules/app/data/common.yaml',
        (text) => `${text}app::${random.pick(['extra', 'nobody'])}: ${random.word()}\n`,
      ),
    () =>
      toggle(
        world,
        `site-modules/app/data/${random.pick(['Ubuntu', 'Devuan'])}.yaml`,
        `---\napp::owner: ${random.word()}\n`,
      ),
    () =>
      edit(world, `${BASE_MODULES}/ntp/data/common.yaml`, (text) =>
        replaceOne(text, /(ntp::\w+: )true/g, random, (found) => `${found[1]}false`),
      ),
  ])(),
);
kind(
  'data: a key twice, an empty file, other bytes for the same values',
  1,
  (world, random) => {
    const path = random.pick(paths(world, YAML_DATA));
    return edit(world, path, (text) =>
      random.pick([text.replace(/^---\n/, ''), text === '' ? '---\n' : `${text}\n\n`]),
    );
  },
  true,
);
kind('data: broken', 1, (world, random) => {
  const path = random.pick(paths(world, YAML_DATA));
  return edit(world, path, (text) => `${text}  : [\n`);
});
kind('hiera.yaml', 1, (world, random) =>
  random.pick([
    () =>
      edit(world, 'hiera.yaml', (text) =>
        text.replace(
          '  - name: Common\n',
          `  - name: ${random.word()}\n    path: "more/%{facts.site.name}.yaml"\n  - name: Common\n`,
        ),
      ),
    () => edit(world, 'hiera.yaml', (text) => text.replace(/ {2}- name: Sites\n {4}paths:\n.*\n.*\n/, '')),
    () =>
      edit(world, 'hiera.yaml', (text) =>
        text.replace(/( {2}- name: Roles\n.*\n)([\s\S]*)( {2}- name: Sealed)/, '$2$1$3'),
      ),
    () => edit(world, 'site-modules/app/hiera.yaml', (text) => text.replace('facts.os.name', 'facts.os.family')),
    () =>
      toggle(
        world,
        'site-modules/profile/hiera.yaml',
        '---\nversion: 5\nhierarchy:\n  - name: Common\n    path: common.yaml\n',
      ),
  ])(),
);

// --- manifests, templates ---

kind('manifest: literal', 7, (world, random) => {
  const path = random.pick(
    paths(world, /\.pp$/).filter(
      (each) => EDITED.test(each) && /\/manifests\//.test(each) && (each.startsWith(SITE) || random.chance(0.1)),
    ),
  );
  return edit(world, path, (text) =>
    replaceOne(text, /=> '([\w ]+)'/g, random, (found) => `=> '${found[1]}${random.below(10)}'`),
  );
});
kind('manifest: statement', 5, (world, random) => {
  const path = random.pick(paths(world, /^site-modules\/(profile|app|role)\/manifests\/.*\.pp$/));
  const statement = random.pick([
    `notify { "${random.word()} \${facts['site']['name']}": }`,
    `if $facts['${random.pick(['app_tier', 'nobody'])}'] { notify { '${random.word()}': } }`,
    `notify { "${random.word()} \${lookup('region')}": }`,
    `$${random.word()} = profile::quoted('${random.word()}')`,
    `notify { "${random.word()} \${$trusted['extensions']['pp_datacenter']} \${$::lsbdistcodename}": }`,
  ]);
  return edit(world, path, (text) => text.replace(/\}\s*$/, `  ${statement}\n}\n`));
});
kind('manifest: statement removed', 2, (world, random) => {
  const path = random.pick(paths(world, /^site-modules\/(profile|app|role)\/manifests\/.*\.pp$/));
  return edit(world, path, (text) =>
    replaceOne(text, /^ {2}(notify|include|profile::note|file) .*\}?\n/gm, random, (found) =>
      /\{\s*$/.test(found[0]) ? found[0] : '',
    ),
  );
});
kind('manifest: default of a parameter', 2, (world, random) =>
  edit(world, 'site-modules/profile/manifests/base.pp', (text) =>
    random.pick([
      text.replace(/\$motto = .*,/, `$motto = '${random.word()}',`),
      text.replace(/\$contact = .*,/, `$contact = '${random.word()}',`),
      text.replace(/ {2}Optional\[String\] \$motto/, `  String $${random.word()} = 'x',\n  Optional[String] $motto`),
    ]),
  ),
);
kind('manifest: broken', 2, (world, random) => {
  const path = random.pick(paths(world, /^(site-modules\/.*\/manifests\/.*|manifests\/.*)\.pp$/));
  return edit(world, path, (text) => text.replace(/\}\s*$/, '}}\n'));
});
kind('manifest: another file', 3, (world, random) =>
  random.pick([
    () => toggle(world, 'manifests/more.pp', `notify { '${random.word()}': }\n`),
    () =>
      toggle(
        world,
        `manifests/${random.pick(['functions', 'nodes'])}.pp`,
        `node 'plain2.example.net' { include role::plain }\n`,
      ),
    () => toggle(world, 'modules/role/manifests/plain.pp', 'class role::plain { }\n'),
    () => toggle(world, `site-modules/profile/manifests/${random.word()}.pp`, 'class nobody { }\n'),
    () => toggle(world, 'site-modules/role/manifests/spare.pp', 'class role::spare { }\n'),
  ])(),
);
kind('manifest: site.pp', 2, (world, random) =>
  edit(world, 'manifests/site.pp', (text) =>
    random.pick([
      text.replace(/change_window = '.*'/, `change_window = '${random.word()}'`),
      text.replace(/'site', 'name'\), '.*'/, `'site', 'name'), '${random.word()}'`),
      text.replace(/spare.*?\//, `spare|^plain${1 + random.below(8)}\\./`),
      text.replace(/backup => \S+/, `backup => '${random.word()}'`),
    ]),
  ),
);
kind(
  'manifest: comment at the end',
  2,
  (world, random) => {
    const path = random.pick(paths(world, /\/manifests\/.*\.pp$/).filter((each) => each.startsWith(SITE)));
    return edit(world, path, (text) => `${text}# ${random.word()}\n`);
  },
  true,
);
kind(
  'manifest: comment at the top',
  2,
  (world, random) => {
    const path = random.pick(paths(world, /\/manifests\/.*\.pp$/).filter((each) => each.startsWith(SITE)));
    return edit(world, path, (text) => `# ${random.word()}\n${text}`);
  },
  true,
);
kind('template', 6, (world, random) => {
  const path = random.pick(
    paths(world, /\.(erb|epp)$/).filter(
      (each) => each.startsWith(SITE) || (/\/(ntp|mysql|ssh)\//.test(each) && random.chance(0.5)),
    ),
  );
  const tag = path.endsWith('.epp')
    ? random.pick([
        "<%= $facts['site']['rack'] %>",
        "<%= $facts.get('networking.ip') %>",
        '<%= $trusted["certname"] %>',
      ])
    : random.pick([
        '<%= @fqdn %>',
        "<%= @facts['site'] && @facts['site']['rack'] %>",
        "<%= scope.lookupvar('::ipaddress') %>",
        "<%= scope['facts']['kernel'] %>",
      ]);
  return edit(world, path, (text) => `${text}${random.chance(0.5) ? random.word() : tag}\n`);
});
kind(
  'template: comment',
  1,
  (world, random) => {
    const path = random.pick(paths(world, /\.(erb|epp)$/).filter((each) => each.startsWith(SITE)));
    return edit(world, path, (text) => `${text}<%# ${random.word()} -%>\n`);
  },
  true,
);

// --- functions and types ---

kind('function in Ruby', 4, (world, random) =>
  random.pick([
    () =>
      edit(world, 'site-modules/profile/lib/puppet/functions/profile/quoted.rb', (text) =>
        text.replace(/value\.to_s.*\.inspect/, `value.to_s.concat('${random.word()}').inspect`),
      ),
    () =>
      edit(world, 'site-modules/app/lib/puppet/parser/functions/app_double.rb', (text) =>
        text.replace(/\* \d+/, `* ${2 + random.below(9)}`),
      ),
    () =>
      edit(world, 'site-modules/profile/lib/puppet/functions/profile/settings.rb', (text) =>
        text.replace(/map\(&:\w+\)/, `map(&:${text.includes('strip)') ? 'chomp' : 'strip'})`),
      ),
    () =>
      edit(world, 'site-modules/profile/lib/puppet/functions/profile/sealed.rb', (text) =>
        text.replace(/unpack1\('m'\)(\.\w+)?/, `unpack1('m').${random.pick(['upcase', 'reverse', 'swapcase'])}`),
      ),
  ])(),
);
kind('function in Ruby, to no effect', 1, (world, random) =>
  edit(world, 'site-modules/profile/lib/puppet/functions/profile/quoted.rb', (text) =>
    text.replace(/def quoted\(value\)/, `def ${random.word()}; end\n\n  def quoted(value)`),
  ),
);
kind(
  'function in Ruby: comment',
  1,
  (world, random) => {
    const path = random.pick(paths(world, /^site-modules\/.*\.rb$/));
    return edit(world, path, (text) => `${text}# ${random.word()}\n`);
  },
  true,
);
kind('function in Puppet', 3, (world, random) =>
  edit(world, 'site-modules/app/functions/summary.pp', (text) =>
    random.pick([
      text.replace(/"\$\{mode\}.*"/, `"\${mode} ${random.word()} \${names.join(' ')}"`),
      text.replace(/\n {2}"\$\{mode\}/, `\n  $${random.word()} = $facts['kernel']\n  "\${mode}`),
    ]),
  ),
);
kind('data type', 3, (world, random) =>
  random.pick([
    () =>
      edit(world, 'site-modules/app/types/port.pp', (text) =>
        text.replace(/Integer\[\d+/, `Integer[${random.pick([1, 1024, 8081, 9001])}`),
      ),
    () =>
      edit(world, 'site-modules/profile/types/text.pp', (text) =>
        text.replace(/\+\\z|\{.*?\}\\z/, `{1,${5 + random.below(60)}}\\z`),
      ),
    () =>
      edit(world, 'site-modules/app/types/place.pp', (text) =>
        text.replace(/Optional\[note\] => \w+/, `Optional[note] => ${text.includes('String') ? 'Data' : 'String'}`),
      ),
    () => toggle(world, `site-modules/app/types/${random.word()}.pp`, 'type App::Nobody = String\n'),
  ])(),
);
kind('resource type', 3, (world, random) =>
  random.pick([
    () =>
      edit(world, 'site-modules/app/lib/puppet/type/app_setting.rb', (text) =>
        text.replace(
          /(newproperty\(:value\) do)(\n {4}munge.*)?/,
          `$1\n    munge { |value| "#{value} ${random.word()}" }`,
        ),
      ),
    () =>
      edit(world, 'site-modules/app/lib/puppet/type/app_setting.rb', (text) =>
        text.replace(/newproperty\(:\w+\)/, `newproperty(:${text.includes(':value)') ? 'other' : 'value'})`),
      ),
    () =>
      edit(world, 'site-modules/app/lib/puppet/provider/app_setting/file.rb', (text) =>
        text.replace(/\/etc\/\w+/, `/etc/${random.word()}`),
      ),
    () =>
      edit(world, 'site-modules/app/lib/puppet/type/app_registry.rb', (text) =>
        text.replace(
          /newparam\(:\w+\)\n {2}newprop/,
          `newparam(:${text.includes(':extra') ? 'more' : 'extra'})\n  newprop`,
        ),
      ),
  ])(),
);
kind('generated resource type', 2, (world, random) =>
  random.pick([
    () =>
      toggle(
        world,
        '.resource_types/app_registry.pp',
        GENERATED.replace('app_setting', 'app_registry').replace("'other'", "'extra'"),
      ),
    () => toggle(world, '.resource_types/app_setting.pp', GENERATED),
    () =>
      edit(world, '.resource_types/app_registry.pp', (text) =>
        text.replace(/Any, '(extra|more)'/, (_, name) => `Any, '${name === 'extra' ? 'more' : 'extra'}'`),
      ),
  ])(),
);
const GENERATED = `Puppet::Resource::ResourceType3.new(
  'app_setting',
  [Puppet::Resource::Param(Any, 'value')],
  [Puppet::Resource::Param(Any, 'name', true), Puppet::Resource::Param(Any, 'other')],
  { /(?m-ix:(.*))/ => ['name'] },
  true,
  false)
`;
kind('function or type that shadows another', 2, (world, random) =>
  random.pick([
    () =>
      toggle(
        world,
        'site-modules/role/lib/puppet/functions/profile/quoted.rb',
        "Puppet::Functions.create_function(:'profile::quoted') do\n  def quoted(value)\n    'role'\n  end\nend\n",
      ),
    () =>
      toggle(
        world,
        'site-modules/role/lib/puppet/functions/pick.rb',
        'Puppet::Functions.create_function(:pick) do\n  def pick(*values)\n    values.last\n  end\nend\n',
      ),
    () =>
      toggle(
        world,
        'site-modules/role/lib/puppet/parser/functions/app_double.rb',
        "module Puppet::Parser::Functions\n  newfunction(:app_double, type: :rvalue) { |_| 'role' }\nend\n",
      ),
    () =>
      toggle(
        world,
        'site-modules/app/lib/puppet/functions/app/summary.rb',
        "Puppet::Functions.create_function(:'app::summary') do\n  def summary(_, _)\n    'in Ruby'\n  end\nend\n",
      ),
    () => toggle(world, 'functions/here.pp', "function environment::here() { 'here' }\n"),
    () =>
      toggle(
        world,
        'site-modules/role/lib/puppet/type/app_setting.rb',
        'Puppet::Type.newtype(:app_setting) do\n  newparam(:name, namevar: true)\n  newparam(:value)\nend\n',
      ),
    () =>
      toggle(
        world,
        'site-modules/role/lib/puppet/functions/nobody.rb',
        'Puppet::Functions.create_function(:nobody) do\n  def nobody; end\nend\n',
      ),
  ])(),
);

// --- files, modules, the environment ---

const FILES = 'site-modules/profile/files';
kind('file: bytes', 4, (world, random) => {
  const path = random.pick(paths(world, new RegExp(`^${FILES}/`)).filter((each) => 'bytes' in world.files.get(each)!));
  return edit(world, path, (text) => `${text}${random.word()}\n`);
});
kind('file: mode', 2, (world, random) => {
  const path = random.pick([
    `${FILES}/tool`,
    `${FILES}/tool`,
    `${FILES}/issue`,
    `${FILES}/tree/a`,
    `${FILES}/texts/any.txt`,
  ]);
  const file = world.files.get(path);
  if (!file || !('bytes' in file)) return undefined;
  world.files.set(path, { ...file, mode: file.mode === '644' ? '755' : '644' } as CodeFile);
  return path;
});
kind('file: in a directory', 3, (world, random) =>
  toggle(
    world,
    `${FILES}/${random.pick(['tree/a', 'tree/sub/c', 'tree/new', 'tree/new.bak', 'tree/sub/deep/e', 'more/d', 'more/f', 'aside/g'])}`,
    `${random.word()}\n`,
  ),
);
kind('file: that somebody looks for', 4, (world, random) => {
  const hostname = random.pick([...world.machines.keys()]).split('.')[0]!;
  const place = random.pick([
    `issue.${hostname}`,
    `list/${hostname}`,
    `texts/${hostname}.txt`,
    `probes/${hostname}`,
    'probes/all',
    'list/any',
    'texts/any.txt',
  ]);
  return toggle(world, `${FILES}/${place}`, `${random.word()}\n`);
});
kind('file: link', 1, (world, random) => {
  const path = `${FILES}/tree/link`;
  const before = world.files.get(path);
  if (before && random.chance(0.3)) {
    world.files.delete(path);
    return `${path} vanishes`;
  }
  const link = before && 'link' in before && before.link === 'a' ? 'sub/c' : 'a';
  world.files.set(path, { link });
  return `${path} leads to ${link}`;
});
kind('file: that nobody reads', 2, (world, random) => {
  const path = random.pick([
    'README.md',
    `${FILES}/nobody`,
    'site-modules/profile/lib/facter/fact.rb',
    '.git-ignored',
    'docs/more.txt',
  ]);
  return edit(world, path, (text) => `${text}# ${random.word()}\n`);
});
kind('module: metadata', 1, (world, random) => {
  const path = random.pick([
    'site-modules/profile/metadata.json',
    'site-modules/app/metadata.json',
    `${BASE_MODULES}/ntp/metadata.json`,
  ]);
  return edit(world, path, (text) =>
    text.replace(/("version": ")\d+/, (_, before) => `${before}${1 + random.below(90)}`),
  );
});
kind('module: metadata without what Puppet requires', 1, (world, random) => {
  const path = random.pick(['site-modules/profile/metadata.json', 'site-modules/app/metadata.json']);
  return edit(world, path, (text) => text.replace(/ *"license": .*\n/, ''));
});
kind('module: metadata that nobody reads', 2, (world, random) => {
  const path = random.pick(['site-modules/profile/metadata.json', 'site-modules/app/metadata.json']);
  return edit(world, path, (text) => text.replace(/("summary": ").*?"/, (_, before) => `${before}${random.word()}"`));
});
kind('module: one more', 1, (world, random) =>
  toggle(world, `modules/${random.pick(['more', 'other'])}/manifests/init.pp`, 'class more { }\n'),
);
kind('module: one that shadows another', 1, (world, random) =>
  random.pick([
    () => toggle(world, 'modules/ntp/manifests/init.pp', 'class ntp ($servers, $restrict) { }\n'),
    () =>
      toggle(
        world,
        'modules/unused/lib/puppet/functions/unused.rb',
        'Puppet::Functions.create_function(:unused) do\n  def unused; end\nend\n',
      ),
  ])(),
);
kind('environment.conf', 1, (world, random) =>
  edit(world, 'environment.conf', (text) =>
    random.pick([
      text.replace(/site-modules:modules/, 'modules:site-modules'),
      text.replace(/modules:site-modules/, 'site-modules:modules'),
      `${text}manifest = manifests/${random.pick(['site.pp', ''])}\n`,
    ]),
  ),
);
kind(
  'environment.conf: comment',
  1,
  (world, random) => edit(world, 'environment.conf', (text) => `# ${random.word()}\n${text}`),
  true,
);

export const KINDS: readonly Kind[] = kinds;

/** One kind, by its weight. */
export function pickKind(random: Random): Kind {
  let at = random.next() * KINDS.reduce((sum, each) => sum + each.weight, 0);
  for (const each of KINDS) {
    at -= each.weight;
    if (at < 0) return each;
  }
  return KINDS.at(-1)!;
}

/** Files and machines that differ between two worlds. */
export function changesOf(before: World, after: World): { files: string[]; machines: Machine[] } {
  const files = [...new Set([...before.files.keys(), ...after.files.keys()])].filter(
    (path) => JSON.stringify(named(before.files.get(path))) !== JSON.stringify(named(after.files.get(path))),
  );
  const machines = [...after.machines.values()].filter(
    (each) => JSON.stringify(before.machines.get(each.certname)) !== JSON.stringify(each),
  );
  return { files: files.map((path) => posix.normalize(path)), machines };
}

function named(file: CodeFile | undefined): unknown {
  return file && ('link' in file ? file.link : [file.hash, file.mode]);
}
