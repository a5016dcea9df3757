/** The code and the machines of a small site, as they are at a moment: what mutations change. */
import { createHash } from 'node:crypto';
import { lstat, readdir, readFile, readlink, realpath } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ContentHash } from '../../src/model/ids.ts';
import type { TreeEntry } from '../../src/model/tree.ts';
import { type ModulepathEntry, planModulepath, readEnvironmentConf } from '../../src/truth/modulepath.ts';
import { environmentFile } from '../../src/truth/plugins.ts';
import { encrypted, PRIVATE_KEY, PUBLIC_KEY } from './eyaml.ts';

const REPO = fileURLToPath(new URL('../fixtures/soundness-repo', import.meta.url));
const FACTS = new URL('../fixtures/facts/debian-12.json', import.meta.url);
const DEBIAN = '/usr/share/puppet/modules';
/** Debian's modules that the roles need. */
const MODULES = ['apache', 'concat', 'inifile', 'mysql', 'ntp', 'openstacklib', 'oslo', 'placement', 'ssh', 'stdlib'];
export const BASE_MODULES = '.callboard/modulepath/0';
export const ABOUT = '.callboard/environment.json';

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type Facts = { [name: string]: Json };

export type CodeFile = { bytes: Buffer; mode: '644' | '755'; hash: ContentHash } | { link: string };

export interface Machine {
  certname: string;
  facts: Facts;
  extensions: Record<string, string>;
  /** What the classifier prints. */
  enc: string;
}

export interface World {
  files: Map<string, CodeFile>;
  machines: Map<string, Machine>;
}

/** How many machines there are of each role, the ones that take longest to compile first. */
export const ROLES = { cloud: 1, web: 1, database: 2, bastion: 2, time: 3, app: 4, files: 3, plain: 8 } as const;
export type Role = keyof typeof ROLES;

export function fileOf(text: string | Buffer, mode: '644' | '755' = '644'): CodeFile {
  const bytes = Buffer.from(text);
  return { bytes, mode, hash: createHash('sha256').update(bytes).digest('hex') as ContentHash };
}

/** The site as its fixture has it, with the machines of some roles. */
export async function firstWorld(roles: Partial<Record<Role, number>> = ROLES): Promise<World> {
  const files = new Map<string, CodeFile>();
  await readFiles(REPO, '', files);
  const replaced = (path: string, change: (text: string) => string): void => {
    const file = files.get(path)!;
    if ('bytes' in file) files.set(path, fileOf(change(file.bytes.toString()), file.mode));
  };
  replaced('hiera.yaml', (text) => text.replace('%PRIVATE_KEY%', PRIVATE_KEY).replace('%PUBLIC_KEY%', PUBLIC_KEY));
  replaced('data/secrets.eyaml', (text) => text.replace(/DEC\[(.*?)\]/g, (_, plain) => encrypted(plain)));
  for (const name of MODULES) await readFiles(await realpath(join(DEBIAN, name)), `${BASE_MODULES}/${name}`, files);
  const facts = JSON.parse(await readFile(FACTS, 'utf8')) as Facts;
  const machines = new Map<string, Machine>();
  for (const [role, count] of Object.entries(roles))
    for (let number = 1; number <= count; number++) {
      const machine = newMachine(role, number, facts);
      machines.set(machine.certname, machine);
    }
  return { files, machines };
}

export function copyOf(world: World): World {
  return { files: new Map(world.files), machines: new Map(structuredClone([...world.machines])) };
}

function newMachine(role: string, number: number, like: Facts): Machine {
  const hostname = `${role}${number}`;
  const facts = structuredClone(like);
  Object.assign(facts, { hostname, fqdn: `${hostname}.example.net`, clientcert: `${hostname}.example.net` });
  Object.assign(facts.networking as Facts, { hostname, fqdn: `${hostname}.example.net`, primary: 'eth0' });
  facts.ipaddress = `192.0.2.${number + role.length}`;
  facts.processors = { count: 2 + number, isa: 'x86_64', models: ['a', 'a'] };
  facts.processorcount = 2 + number;
  facts.site = { name: number % 2 === 0 ? 'south' : 'north', rack: `r${(number % 3) + 1}` };
  if (number % 3 === 0) facts.app_tier = 'gold';
  facts.system_uptime = { seconds: 1000 * number, hours: 0, days: 0, uptime: '0:16 hours' };
  facts.uptime_seconds = 1000 * number;
  return {
    certname: `${hostname}.example.net`,
    facts,
    extensions: { pp_role: role, pp_datacenter: 'one' },
    enc: number % 4 === 1 ? 'classes: {profile::labels: {colour: red}}\nparameters: {rack_from_enc: r1}\n' : '{}\n',
  };
}

async function readFiles(root: string, into: string, files: Map<string, CodeFile>): Promise<void> {
  for (const name of await readdir(root)) {
    // What a module's own tests are made of.
    if (into.startsWith(BASE_MODULES) && (name === 'spec' || name === 'locales' || name.endsWith('.md'))) continue;
    const path = join(root, name);
    const place = into === '' ? name : `${into}/${name}`;
    const about = await lstat(path);
    if (about.isDirectory()) await readFiles(path, place, files);
    else if (about.isSymbolicLink() && !into.startsWith(BASE_MODULES)) files.set(place, { link: await readlink(path) });
    else files.set(place, fileOf(await readFile(path), about.mode & 0o100 ? '755' : '644'));
  }
}

/** The tree of a deploy: with the modulepath that the environment.conf means, as src/truth makes it. */
export function treeOf(files: ReadonlyMap<string, CodeFile>): { entries: TreeEntry[]; about: CodeFile } {
  const conf = files.get('environment.conf');
  const setting = conf && 'bytes' in conf ? readEnvironmentConf(conf.bytes.toString()).get('modulepath') : undefined;
  const directories = new Set<string>();
  for (const path of files.keys())
    for (let above = posix.dirname(path); above !== '.'; above = posix.dirname(above)) directories.add(above);
  const place = (entry: ModulepathEntry): string => (entry.place === 'repo' ? entry.path : BASE_MODULES);
  const modulepath = planModulepath(setting, { environment: 'production', basemodulepath: ['/base'] })
    .map(place)
    .filter((path) => directories.has(path));
  const about = fileOf(environmentFile(modulepath));
  const entries = [...files, [ABOUT, about] as const].map(([path, file]): TreeEntry => {
    if ('link' in file) return { kind: 'link', path, target: file.link };
    return { kind: 'file', path, mode: file.mode, hash: file.hash, size: file.bytes.length };
  });
  return { entries, about };
}
