import { edit, kindsOf, paths, toggle } from './editing.ts';

const { kinds, kind } = kindsOf();
export const NAME_KINDS = kinds;

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
