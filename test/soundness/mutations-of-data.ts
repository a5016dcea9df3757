import { parse, stringify } from 'yaml';
import { another, edit, kindsOf, machine, paths, replaceOne, SITE, textOf, toggle, write } from './editing.ts';
import { encrypted } from './eyaml.ts';
import type { Random } from './random.ts';
import { BASE_MODULES, type Facts, type Json, ROLES, type World } from './world.ts';

const { kinds, kind } = kindsOf();
export const DATA_KINDS = kinds;

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
  const path = random.pick(paths(world, YAML_DATA));
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
      ? ['app::instances', 'app::file_limits', '^app::i.*', 'region']
      : [
          'profile::base::packages',
          'profile::base::labels',
          'profile::time::servers',
          'app::file_limits',
          'app::greeting',
          'nobody::asks',
          '^profile::base::l.*',
          '^app::.*s$',
        ],
  );
  const merge = random.pick(
    ['first', 'unique', 'hash', 'deep'].filter((each) => each !== 'unique' || /packages|servers/.test(key)),
  );
  const options = { ...(values.lookup_options as Facts | undefined) };
  if (key in options && random.chance(0.3)) delete options[key];
  else if (random.chance(0.1)) options[key] = { merge: `%{facts.nothing}${merge}` };
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
      edit(world, 'site-modules/app/data/sealed.yaml', (text) =>
        replaceOne(text, /SEALED\[.*?\]/g, random, () => `SEALED[${Buffer.from(random.word()).toString('base64')}]`),
      ),
  ])(),
);
kind('data: eyaml', 3, (world, random) =>
  edit(world, 'data/secrets.eyaml', (text) =>
    random.pick([
      () => replaceOne(text, /ENC\[.*?\]/g, random, () => encrypted(random.word())),
      () =>
        `${text}${random.pick(['app::extra', 'nobody::asks', 'profile::base::motto'])}: ${encrypted(random.word())}\n`,
      () => `${text}region: "${encrypted(random.word())} %{facts.site.name} %{lookup('profile::base::contact')}"\n`,
      () => replaceOne(text, /^\w.*\n/gm, random, () => ''),
    ])(),
  ),
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
