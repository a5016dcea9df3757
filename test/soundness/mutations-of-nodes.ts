import { parse, stringify } from 'yaml';
import { another, kindsOf, machine } from './editing.ts';
import type { Random } from './random.ts';
import { type Facts, type Json, type Machine, ROLES } from './world.ts';

const { kinds, kind } = kindsOf();
export const NODE_KINDS = kinds;

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
