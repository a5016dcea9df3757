import { EDITED, edit, kindsOf, paths, replaceOne, SITE, toggle } from './editing.ts';

const { kinds, kind } = kindsOf();
export const MANIFEST_KINDS = kinds;

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
