import { edit, kindsOf, paths, toggle } from './editing.ts';
import { BASE_MODULES, type CodeFile } from './world.ts';

const { kinds, kind } = kindsOf();
export const FILE_KINDS = kinds;

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
  const change = random.pick([
    /("version": ")\d+/,
    /("version_requirement": ">= )\d+/,
    /("name": "puppetlabs[/-][a-z]+)/,
  ]);
  return edit(world, path, (text) => text.replace(change, (_, before) => `${before}${1 + random.below(90)}`));
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
