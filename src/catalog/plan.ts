/**
 * A plan: what a code version would change on the nodes of an environment, nodes with the identical change together. Pure.
 *
 * Two changes are identical when all that is told of them is, text by text; nothing of a node's own (its name in a file, say)
 * is taken out. Where a resource is declared is no change, so it is not told. Nodes come one after another; a change is kept
 * once, as JSON, until all changes together are too large: then groups go on, with numbers instead of details.
 */
import { createHash } from 'node:crypto';
import type { Catalog } from '../model/catalog.ts';
import { PLAN_CHANGES_BYTES_MAX } from '../model/limits.ts';
import { Containment, RELATIONS } from './containment.ts';
import { type CatalogDiff, type Contents, diffCatalogs, type ListChange, type ResourceChange } from './diff.ts';
import { written } from './exact.ts';
import { type Refresh, refreshedBy } from './refresh.ts';

/** What a node would notice of a release. */
export interface Change {
  /** It runs no catalog yet: all of it is added. */
  is_new: boolean;
  counts: { added: number; removed: number; changed: number };
  resources: Omit<ResourceChange, 'position' | 'position_only'>[];
  refreshed: Refresh[];
  order_changed: boolean;
  edges_changed: boolean;
  /** Only where they are asked for. */
  edges?: ListChange;
  tags?: ListChange;
  classes?: ListChange;
  other: string[];
}

/** Undefined where a node would notice nothing. */
export function changeOf(
  released: Catalog | undefined,
  candidate: Catalog,
  contents: Contents,
  options: { edges: boolean },
): Change | undefined {
  const diff = diffCatalogs(released, candidate, contents);
  if (diff.identical || diff.position_only) return undefined;
  const resources = diff.resources.filter((each) => !each.position_only);
  const isSilent = resources.length === 0 && !diff.edges && !diff.tags && !diff.classes;
  if (isSilent && !diff.order_changed && diff.other.length === 0) return undefined;
  const added = new Set(resources.filter((each) => each.change === 'added').map((each) => each.resource));
  return {
    is_new: released === undefined,
    counts: { added: diff.counts.added, removed: diff.counts.removed, changed: diff.counts.changed },
    resources: resources.map(({ position: _, position_only: __, ...each }) => each),
    // What is new is applied anyway.
    refreshed: refreshedBy(candidate, applied(candidate, diff)).filter((each) => !added.has(each.resource)),
    order_changed: diff.order_changed,
    edges_changed: diff.edges !== undefined,
    ...(options.edges && diff.edges && { edges: diff.edges }),
    ...(diff.tags && { tags: diff.tags }),
    ...(diff.classes && { classes: diff.classes }),
    other: diff.other,
  };
}

const METAPARAMETERS = new Set<string>([
  'alias',
  'audit',
  'loglevel',
  'noop',
  'schedule',
  'stage',
  'tag',
  ...RELATIONS,
]);

/** Resources that a run would do something to: new ones, and those whose own state is another. */
function applied(candidate: Catalog, diff: CatalogDiff): string[] {
  const containment = new Containment(candidate);
  return diff.resources
    .filter(({ change, contents, parameters }) => {
      if (change === 'removed') return false;
      return change === 'added' || contents.length > 0 || parameters.some((each) => !METAPARAMETERS.has(each.name));
    })
    .map((each) => each.resource)
    .filter((name) => !containment.isContainer(name));
}

export interface CompileFailure {
  message: string;
  file: string | null;
  line: number | null;
}

export interface Group {
  certnames: string[];
  is_new: boolean;
  /** The change in a line: "File[/etc/ntp.conf] content, Service[ntp] refreshed because of it". */
  headline: string;
  counts: Change['counts'];
  /** The change as JSON; null where the changes of the plan are too large together. */
  change: string | null;
}

export interface FailureGroup extends CompileFailure {
  certnames: string[];
}

export interface Summary {
  total: number;
  changed: number;
  /** Of the changed those that run no catalog yet. */
  new: number;
  /** Compiled anew, with nothing that the node would notice. */
  unchanged: number;
  /** Not compiled anew, since nothing that their catalogs were made from has changed. */
  unaffected: number;
  failed: number;
  not_compiled: number;
}

export class Plan {
  readonly #groups = new Map<string, Group>();
  readonly #failures = new Map<string, FailureGroup>();
  readonly #notCompiled: string[] = [];
  readonly #bytesMax: number;
  #bytes = 0;
  #unchanged = 0;
  #unaffected = 0;

  constructor(bytesMax = PLAN_CHANGES_BYTES_MAX) {
    this.#bytesMax = bytesMax;
  }

  change(certname: string, change: Change): void {
    const text = written(change);
    const key = createHash('sha256').update(text).digest('base64');
    const known = this.#groups.get(key);
    if (known) {
      known.certnames.push(certname);
      return;
    }
    const fits = this.#bytes + text.length <= this.#bytesMax;
    if (fits) this.#bytes += text.length;
    const { is_new, counts } = change;
    const headline = headlineOf(change);
    this.#groups.set(key, { certnames: [certname], is_new, headline, counts, change: fits ? text : null });
  }

  unchanged(): void {
    this.#unchanged++;
  }

  unaffected(): void {
    this.#unaffected++;
  }

  notCompiled(certname: string): void {
    this.#notCompiled.push(certname);
  }

  fail(certname: string, { message, file, line }: CompileFailure): void {
    // Puppet ends its sentences with the node's name: the one error would be as many as there are nodes.
    const key = written([withoutNode(message, certname, ''), file, line]);
    const known = this.#failures.get(key);
    if (known) known.certnames.push(certname);
    else this.#failures.set(key, { message: withoutNode(message, certname, '$1'), file, line, certnames: [certname] });
  }

  /** Largest first. */
  groups(): Group[] {
    return [...this.#groups.values()].sort(bySize);
  }

  failures(): FailureGroup[] {
    return [...this.#failures.values()].sort(bySize);
  }

  notCompiledNodes(): readonly string[] {
    return this.#notCompiled;
  }

  summary(): Summary {
    const count = (groups: Iterable<{ certnames: string[] }>): number =>
      [...groups].reduce((sum, { certnames }) => sum + certnames.length, 0);
    const changed = count(this.#groups.values());
    const failed = count(this.#failures.values());
    return {
      total: changed + failed + this.#unchanged + this.#unaffected + this.#notCompiled.length,
      changed,
      new: count([...this.#groups.values()].filter((group) => group.is_new)),
      unchanged: this.#unchanged,
      unaffected: this.#unaffected,
      failed,
      not_compiled: this.#notCompiled.length,
    };
  }
}

function bySize(a: { certnames: string[] }, b: { certnames: string[] }): number {
  return b.certnames.length - a.certnames.length || (a.certnames[0]! < b.certnames[0]! ? -1 : 1);
}

/** Takes out " on node NAME", and puts `other` in the place of " for NAME". */
function withoutNode(message: string, certname: string, other: string): string {
  const name = certname.replaceAll('.', '\\.');
  return message
    .replace(new RegExp(` on node ${name}(?![\\w.-])`, 'g'), '')
    .replace(new RegExp(`( for ${name})(?![\\w-]|\\.\\w)`, 'g'), other);
}

/** How many changed and how many refreshed resources a headline names. */
const HEADLINE_CHANGED_MAX = 3;
const HEADLINE_REFRESHED_MAX = 2;

/** A change in one line: what a node applies, what that refreshes, and then the classes and defined types around it. */
export function headlineOf(change: Change): string {
  if (change.is_new) return `new node: ${plural(change.counts.added, 'resource')}`;
  const told = change.resources.filter((each) => !isTagsOnly(each));
  // Only defined types have `::` in their names.
  const isOuter = (name: string): boolean => /^(Class|Stage|Node)\[|^[^[]*::/.test(name);
  const inner = told.filter((each) => !isOuter(each.resource)).map((each) => each.resource);
  const last = inner[HEADLINE_CHANGED_MAX - 1] ?? inner.at(-1);
  const changed = told
    .toSorted((a, b) => Number(isOuter(a.resource)) - Number(isOuter(b.resource)))
    .map(resourceInWords);
  const refreshed = change.refreshed.map(
    ({ resource, because }) => `${resource} refreshed because of ${because === last ? 'it' : because}`,
  );
  const onlyTags = change.resources.length - told.length;
  const parts = [
    ...changed.splice(0, Math.min(inner.length, HEADLINE_CHANGED_MAX)),
    ...refreshed.splice(0, HEADLINE_REFRESHED_MAX),
  ];
  parts.push(...changed.splice(0, Math.max(0, HEADLINE_CHANGED_MAX - parts.length)));
  const left = changed.length + refreshed.length;
  if (left > 0) parts.push(`and ${left} more`);
  if (onlyTags > 0) parts.push(`tags of ${plural(onlyTags, 'resource')}`);
  if (parts.length > 0) return parts.join(', ');
  if (change.order_changed) return 'resources in another order';
  if (change.edges_changed) return 'edges';
  if (change.classes) return 'classes';
  return change.other.length > 0 ? change.other.join(', ') : 'tags';
}

function isTagsOnly(each: Change['resources'][number]): boolean {
  return (
    each.change === 'changed' &&
    each.tags !== undefined &&
    each.contents.length + each.parameters.length + each.other.length === 0
  );
}

function resourceInWords({ resource, change, contents, parameters, other }: Change['resources'][number]): string {
  if (change !== 'changed') return `${resource} ${change}`;
  const aspects = [...(contents.length > 0 ? ['content'] : []), ...parameters.map((each) => each.name), ...other];
  const shown = aspects.slice(0, 3);
  return `${resource} ${shown.join(' and ')}${aspects.length > 3 ? ` and ${aspects.length - 3} more` : ''}`;
}

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}
