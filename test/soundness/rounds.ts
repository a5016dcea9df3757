/**
 * Rounds of the soundness run: one mutation, the queue's decision, the queued compiles, and then what a stock Puppet says of every
 * node. A node whose catalog differs from the oracle's though nobody compiled it is an unsound skip.
 */
import type { CompileRequest } from '../../src/compile/request.ts';
import { extensionsText, splitFacts } from '../../src/model/facts.ts';
import { type ControlPlane, SERVER_FACTS } from './control-plane.ts';
import type { Kind } from './editing.ts';
import { changesOf, pickKind } from './mutations.ts';
import type { Oracle, Outcome } from './oracle.ts';
import type { Random } from './random.ts';
import { copyOf, type Machine, type World } from './world.ts';

export const UNDONE = 'undone';
const SEVERAL = 'several at once';
/** More nodes than this that do not compile teach little: the last mutation is undone. */
const FAILING_MAX = 4;

export interface Tally {
  mutations: number;
  /** Nodes that were looked at. */
  pairs: number;
  /** The oracle's outcome is another than before the mutation. */
  changed: number;
  queued: number;
  /** Changed and not queued. */
  missed: number;
  /** Queued and not changed. */
  unneeded: number;
  remark: boolean;
}

/** Something that should not be. */
export interface Finding {
  mutation: string;
  certname: string;
  /** `missed`: not compiled though it changed; `wrong`: compiled, to something else than a stock Puppet's. */
  what: 'missed' | 'wrong';
  detail: string;
}

export class Rounds {
  readonly tallies = new Map<string, Tally>();
  readonly findings: Finding[] = [];
  /** Of unneeded compiles: how many of each kind by why they were queued. */
  readonly unneeded = new Map<string, number>();
  /** Told a line of each round. */
  tell: (line: string) => unknown = () => {};
  readonly #plane: ControlPlane;
  readonly #oracle: Oracle;
  readonly #random: Random;
  #world: World;
  /** What the oracle said last. */
  #before = new Map<string, Outcome>();
  #earlier: World[] = [];

  constructor(plane: ControlPlane, oracle: Oracle, random: Random, world: World) {
    this.#plane = plane;
    this.#oracle = oracle;
    this.#random = random;
    this.#world = world;
  }

  /** Everything is compiled once, and compared. */
  async begin(): Promise<void> {
    this.#plane.classify(this.#world.machines.values());
    await this.#plane.deploy(this.#world.files);
    for (const machine of this.#world.machines.values()) await this.#plane.submit(machine);
    const queued = await this.#plane.compileQueued();
    await this.#compare('the beginning', queued);
    const failing = [...this.#before].filter(([, outcome]) => 'error' in outcome);
    if (failing.length > 0) throw new Error(`not everything compiles: ${JSON.stringify(failing)}`);
  }

  /** A mutation of each of some kinds, in one round; false where none of them finds anything to do. */
  async mutate(...kinds: Kind[]): Promise<boolean> {
    const next = copyOf(this.#world);
    const done: string[] = [];
    for (const kind of kinds) {
      for (let attempt = 0; attempt < 10; attempt++) {
        const what = kind.mutate(next, this.#random);
        if (what === undefined) continue;
        done.push(`${kind.name}: ${what}`);
        break;
      }
    }
    if (isSame(this.#world, next)) return false;
    this.#earlier = [...this.#earlier.slice(-3), this.#world];
    const name = kinds.length === 1 ? kinds[0]!.name : SEVERAL;
    const remark = kinds.every((kind) => kind.remark);
    await this.#round({ kind: name, mutation: done.join('; '), mutations: done.length, remark }, next);
    return true;
  }

  /** Mutations of any kind, and now and then back to what was. */
  async wander(): Promise<void> {
    while (!(await this.mutate(pickKind(this.#random))));
    await this.settle(0.3);
  }

  /** Undoes the last mutation by chance; where nodes fail, rather sooner than later all since they did. */
  async settle(chance: number): Promise<void> {
    const failing = () => [...this.#before.values()].filter((outcome) => 'error' in outcome).length;
    const back = failing() > FAILING_MAX || this.#random.chance(failing() > 0 ? 0.6 : chance);
    if (!back) return;
    do {
      const earlier = this.#earlier.pop();
      if (!earlier) return;
      await this.#round(
        { kind: UNDONE, mutation: 'undone: the mutation before', mutations: 1, remark: false },
        earlier,
      );
    } while (failing() > 0);
  }

  async #round(
    { kind, mutation, mutations, remark }: { kind: string; mutation: string; mutations: number; remark: boolean },
    next: World,
  ): Promise<void> {
    const changes = changesOf(this.#world, next);
    const startedAt = performance.now();
    const classified = changes.machines.filter((each) => each.enc !== this.#world.machines.get(each.certname)!.enc);
    this.#world = next;
    this.#plane.classify(next.machines.values());
    if (changes.files.length > 0) await this.#plane.deploy(next.files);
    for (const machine of changes.machines) await this.#plane.submit(machine);
    if (classified.length > 0) await this.#plane.classifyAgain(classified);
    const queued = await this.#plane.compileQueued();
    const compiledAt = performance.now();
    const before = this.#before;
    const missed = await this.#compare(mutation, queued);

    const none = { mutations: 0, pairs: 0, changed: 0, queued: 0, missed: 0, unneeded: 0 };
    const tally = this.tallies.get(kind) ?? { ...none, remark };
    tally.mutations += mutations;
    tally.missed += missed;
    for (const [certname, now] of this.#before) {
      const changed = !isEqual(before.get(certname), now);
      tally.pairs += 1;
      if (changed) tally.changed += 1;
      const trigger = queued.get(certname);
      if (trigger === undefined) continue;
      tally.queued += 1;
      if (changed) continue;
      tally.unneeded += 1;
      const volatile = trigger.endsWith('volatile') ? ` ${await this.#plane.volatile(certname)}` : '';
      const why = `${kind}: ${trigger}${volatile}`;
      this.unneeded.set(why, (this.unneeded.get(why) ?? 0) + 1);
    }
    this.tallies.set(kind, tally);
    const [ours, theirs] = [compiledAt - startedAt, performance.now() - compiledAt].map((time) =>
      (time / 1000).toFixed(1),
    );
    const changed = [...this.#before]
      .filter(([certname, now]) => !isEqual(before.get(certname), now))
      .map(([name]) => name);
    const names = (list: Iterable<string>): string => [...list].map((name) => name.split('.')[0]).join(' ');
    this.tell(`${mutation} | changed: ${names(changed)} | queued: ${names(queued.keys())} | ${ours} + ${theirs} s`);
  }

  /** Asks the oracle about every node. How many were missed; they are put right, so that the next round begins well. */
  async #compare(mutation: string, queued: Map<string, string>): Promise<number> {
    const question = {
      code: this.#plane.version,
      environmentPath: this.#plane.directories.environmentPath(this.#plane.version),
      groups: this.#groups().map((group) => group.map((each) => this.#request(each))),
    };
    const said = await this.#oracle.ask(question);
    const ours = await this.#plane.outcomes();
    const differ = [...said.keys()].filter((certname) => !isEqual(said.get(certname), ours.get(certname)));
    this.#before = said;
    if (differ.length === 0) return 0;

    const groups = [question.groups.flat().filter((request) => differ.includes(request.certname))];
    const again = await this.#oracle.askAlone({ ...question, groups });
    let missed = 0;
    for (const [certname, theirs] of again) {
      said.set(certname, theirs);
      const our = ours.get(certname);
      if (isEqual(theirs, our)) continue;
      const { outcome, result } = await this.#plane.compileAside(certname);
      const what = isEqual(outcome, theirs) && !queued.has(certname) ? 'missed' : 'wrong';
      if (what === 'missed') missed += 1;
      const fresh = result.status === 'compiled' ? String(result.canonical) : result.error.message;
      const stored = our && 'id' in our ? String(await this.#plane.readCatalog(our.id)) : (our?.error ?? 'nothing');
      const detail = `${describe(our)} stands, ${describe(theirs)} is right; ${firstDifference(stored, fresh)}`;
      this.findings.push({ mutation, certname, what, detail });
      this.tell(`${what.toUpperCase()} ${certname} after ${mutation}\n  ${detail}`);
      await this.#plane.queue([certname]);
    }
    await this.#plane.compileQueued();
    return missed;
  }

  /** Two that take about the same time; those that failed last time are alone, since a group ends with one that fails. */
  #groups(): Machine[][] {
    const machines = [...this.#world.machines.values()];
    const failing = machines.filter((each) => 'error' in (this.#before.get(each.certname) ?? {}));
    const others = machines.filter((each) => !failing.includes(each));
    const heavy = others.filter((each) => /^(cloud|web)/.test(each.certname));
    return [heavy, others.filter((each) => !heavy.includes(each)), ...failing.map((each) => [each])];
  }

  /** The node as production knows it, said by us and not by the database. */
  #request({ certname, facts, extensions, enc }: Machine): CompileRequest {
    const { stable, volatile } = splitFacts(Buffer.from(JSON.stringify(facts)));
    return {
      certname,
      environment: 'production',
      codeDirectory: '',
      facts: stable,
      volatileFacts: volatile,
      trustedExtensions: JSON.parse(extensionsText(extensions)),
      enc,
      serverFacts: SERVER_FACTS,
    };
  }
}

function isSame(before: World, after: World): boolean {
  const { files, machines } = changesOf(before, after);
  return files.length === 0 && machines.length === 0;
}

function isEqual(one: Outcome | undefined, other: Outcome | undefined): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

function describe(outcome: Outcome | undefined): string {
  if (!outcome) return 'no result';
  return 'id' in outcome ? `catalog ${outcome.id.slice(0, 12)}` : `'${outcome.error}'`;
}

function firstDifference(stored: string, fresh: string): string {
  const parsed = [stored, fresh].map((text) => {
    try {
      return JSON.parse(text) as Record<string, unknown>;
    } catch {
      return undefined;
    }
  });
  const [old, now] = parsed;
  if (!old || !now) return `stored ${stored.slice(0, 200)}, fresh ${fresh.slice(0, 200)}`;
  for (const key of Object.keys(now)) {
    const lists = [old[key], now[key]].map((value) => (Array.isArray(value) ? value : [value]));
    for (const [index, item] of lists[1]!.entries())
      if (JSON.stringify(lists[0]![index]) !== JSON.stringify(item))
        return `${key}: stored ${short(lists[0]![index])}, fresh ${short(item)}`;
    if (lists[0]!.length !== lists[1]!.length)
      return `${key}: stored has ${lists[0]!.length}, fresh ${lists[1]!.length}`;
  }
  return 'no difference in what is compiled now';
}

function short(value: unknown): string {
  return (JSON.stringify(value) ?? 'nothing').slice(0, 400);
}

export interface Totals extends Omit<Tally, 'remark'> {
  /** Of the queued ones, the share that changed. */
  precision: number;
}

export function totals(tallies: Iterable<[string, Tally]>, counts: (kind: string, tally: Tally) => boolean): Totals {
  const sum = { mutations: 0, pairs: 0, changed: 0, queued: 0, missed: 0, unneeded: 0 };
  for (const [kind, tally] of tallies)
    if (counts(kind, tally)) for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += tally[key];
  return { ...sum, precision: sum.queued === 0 ? 1 : (sum.queued - sum.unneeded) / sum.queued };
}

export function table(tallies: Map<string, Tally>): string {
  const names = ['mutations', 'pairs', 'changed', 'queued', 'missed', 'unneeded'] as const;
  const line = (name: string, cells: (string | number)[]): string =>
    `${name.padEnd(66)}${cells.map((cell) => String(cell).padStart(10)).join('')}`;
  const sums: [string, Totals][] = [
    ['all but comments and white space', totals(tallies, (_, tally) => !tally.remark)],
    ['all', totals(tallies, () => true)],
  ];
  return [
    line('', [...names]),
    ...[...tallies]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([kind, tally]) =>
        line(
          kind,
          names.map((name) => tally[name]),
        ),
      ),
    ...sums.map(([name, sum]) =>
      line(
        `${name}: ${(100 * sum.precision).toFixed(1)} % of the queued changed`,
        names.map((each) => sum[each]),
      ),
    ),
  ].join('\n');
}
