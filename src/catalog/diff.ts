/**
 * Two catalogs of a node compared: what a release would change. Pure: the texts of stored content are handed in.
 *
 * Values are compared as JSON, digit for digit (`exact.ts`); a secret is compared and never told. What differs only in the
 * file or line that declared it is told apart, since moving code is no change to a node. Every difference between two
 * catalogs is told somewhere: equal catalogs, and only they, give an empty difference.
 */
import { isUtf8 } from 'node:buffer';
import { formatPatch, OMIT_HEADERS, structuredPatch } from 'diff';
import type { Catalog, CatalogEdge, CatalogResource, ParameterValue } from '../model/catalog.ts';
import type { ContentHash } from '../model/ids.ts';
import { DIFF_TEXT_BYTES_MAX, DIFF_TIME_MAX_MS } from '../model/limits.ts';
import { isSame, written } from './exact.ts';
import { contentHash, type FileContent, fileContents, own, sourceMetadata } from './file-content.ts';
import { holdsSecret, isSensitive, redactedValue } from './secrets.ts';

export interface ListChange {
  added: string[];
  removed: string[];
  /** The same members in another order. */
  reordered: boolean;
}

export interface ParameterChange {
  name: string;
  change: 'added' | 'removed' | 'changed';
  /** The value is or holds a secret: what can be told of `from` and `to` is told without it, a whole secret not at all. */
  sensitive: boolean;
  from?: unknown;
  to?: unknown;
  /** A unified diff, where both are texts of more than one line. */
  diff?: string;
}

/** One side of a file's content. */
export type ContentSide =
  | { kind: 'text' | 'binary'; size: number; hash: string }
  /** Too large to look at, or not kept any more. */
  | { kind: 'stored'; size?: number; hash: string }
  | { kind: 'link'; target: string }
  | { kind: 'directory' }
  | { kind: 'value'; value: unknown }
  | { kind: 'sensitive' };

export interface ContentChange {
  /** On the node; for a source of another type than File its `puppet:///` URI. */
  path: string;
  change: 'added' | 'removed' | 'changed';
  from?: ContentSide;
  to?: ContentSide;
  /** A unified diff, where there is a text on each side that has content at all. */
  diff?: string;
}

export interface ResourceChange {
  /** `Type[title]`. */
  resource: string;
  change: 'added' | 'removed' | 'changed';
  /** Nothing but the place in the manifests differs. */
  position_only: boolean;
  position?: { from?: Position; to?: Position };
  parameters: ParameterChange[];
  contents: ContentChange[];
  tags?: ListChange;
  /** Other members that differ: `exported`, `kind`, `sensitive_parameters`, `metadata`. */
  other: string[];
}

export interface Position {
  file?: string;
  line?: number;
}

export interface CatalogDiff {
  /** Nothing differs. */
  identical: boolean;
  /** There are differences, all of them in places in the manifests. */
  position_only: boolean;
  counts: { added: number; removed: number; changed: number; position_only: number };
  /** In the order of the newer catalog; what was removed stands last. */
  resources: ResourceChange[];
  edges?: ListChange;
  tags?: ListChange;
  classes?: ListChange;
  /** Resources that both have are in another order, which is the order they are applied in. */
  order_changed: boolean;
  /** Other members at the top that differ, such as `environment`. */
  other: string[];
}

/** Content that was looked up: its bytes, or only its size where it is too large; undefined where it is not kept. */
export type Contents = ReadonlyMap<ContentHash, { size: number; bytes?: Buffer } | undefined>;

const EMPTY: Catalog = { name: '', environment: '', catalog_format: 2, resources: [], edges: [] };

/** The stored contents whose texts `diffCatalogs` can show: those of files that differ. */
export function differingContents(from: Catalog | undefined, to: Catalog): ContentHash[] {
  const hashes = new Set<ContentHash>();
  for (const [, older, newer] of pairs(from ?? EMPTY, to)) {
    for (const [, a, b] of filePairs(from ?? EMPTY, to, older, newer)) {
      if (isSameContent(a, b)) continue;
      for (const side of [a, b]) if (side?.kind === 'stored') hashes.add(side.hash);
    }
  }
  return [...hashes];
}

/** What differs. `from` undefined: the node had no catalog, and all is added. */
export function diffCatalogs(from: Catalog | undefined, to: Catalog, contents: Contents = new Map()): CatalogDiff {
  const texts = new Texts(contents);
  const older = from ?? EMPTY;
  const resources = pairs(older, to).flatMap(([resource, a, b]) => {
    const change = diffResource(texts, older, to, resource, a, b);
    return change ? [change] : [];
  });
  const count = (change: ResourceChange['change']) =>
    resources.filter((each) => each.change === change && !each.position_only).length;
  const positionOnly = resources.filter((each) => each.position_only).length;
  const edges = diffLists(older.edges.map(edgeText), to.edges.map(edgeText));
  const tags = diffLists(older.tags, to.tags);
  const classes = diffLists(older.classes, to.classes);
  const orderChanged = isOrderChanged(older, to);
  const other = from ? otherMembers(older, to) : [];
  const isElsewhere = Boolean(edges || tags || classes || orderChanged || other.length > 0);
  return {
    identical: resources.length === 0 && !isElsewhere,
    position_only: positionOnly > 0 && positionOnly === resources.length && !isElsewhere,
    counts: {
      added: count('added'),
      removed: count('removed'),
      changed: count('changed'),
      position_only: positionOnly,
    },
    resources,
    ...(edges && { edges }),
    ...(tags && { tags }),
    ...(classes && { classes }),
    order_changed: orderChanged,
    other,
  };
}

export function reference(resource: CatalogResource): string {
  return `${resource.type}[${resource.title}]`;
}

/** Every resource of either catalog with both its sides. */
function pairs(
  from: Catalog,
  to: Catalog,
): [resource: string, from: CatalogResource | undefined, to: CatalogResource | undefined][] {
  const older = new Map(from.resources.map((resource) => [reference(resource), resource]));
  const both = to.resources.map((resource) => {
    const name = reference(resource);
    const before = older.get(name);
    older.delete(name);
    return [name, before, resource] as [string, CatalogResource | undefined, CatalogResource | undefined];
  });
  for (const [name, resource] of older) both.push([name, resource, undefined]);
  return both;
}

function diffResource(
  texts: Texts,
  fromCatalog: Catalog,
  toCatalog: Catalog,
  resource: string,
  from: CatalogResource | undefined,
  to: CatalogResource | undefined,
): ResourceChange | undefined {
  const contents = filePairs(fromCatalog, toCatalog, from, to).flatMap(([path, a, b]) => {
    const change = isSameContent(a, b) ? undefined : texts.diffContents(path, a, b);
    return change ? [change] : [];
  });
  const parameters = diffParameters(texts, from, to);
  const tags = from && to ? diffLists(from.tags, to.tags) : undefined;
  const other = from && to ? otherResourceMembers(fromCatalog, toCatalog, from, to, contents) : [];
  const isMoved = from?.file !== to?.file || from?.line !== to?.line;
  const isChanged = contents.length + parameters.length + other.length > 0 || tags !== undefined;
  if (from && to && !isChanged && !isMoved) return undefined;
  return {
    resource,
    change: !from ? 'added' : !to ? 'removed' : 'changed',
    position_only: Boolean(from && to && !isChanged),
    ...(isMoved && { position: { ...(from && { from: position(from) }), ...(to && { to: position(to) }) } }),
    parameters,
    contents,
    ...(tags && { tags }),
    other,
  };
}

function position({ file, line }: CatalogResource): Position {
  return { ...(file !== undefined && { file }), ...(line !== undefined && { line }) };
}

function diffParameters(
  texts: Texts,
  from: CatalogResource | undefined,
  to: CatalogResource | undefined,
): ParameterChange[] {
  const names = new Set([...Object.keys(from?.parameters ?? {}), ...Object.keys(to?.parameters ?? {})]);
  return [...names].sort().flatMap((name) => {
    // A file's content is told among its contents, wherever it comes from.
    if (name === 'content' && (from ?? to)!.type === 'File') return [];
    const [a, b] = [own(from?.parameters, name), own(to?.parameters, name)];
    const isSecret = [from, to].some((side) => side && isSensitive(side, name));
    if (isSame(a, b)) return [];
    const sides = isSecret
      ? {}
      : { ...(a !== undefined && { from: redactedValue(a) }), ...(b !== undefined && { to: redactedValue(b) }) };
    const diff = isSecret ? undefined : texts.diffValues(a, b);
    return [
      {
        name,
        change: a === undefined ? 'added' : b === undefined ? 'removed' : 'changed',
        sensitive: isSecret || holdsSecret(a) || holdsSecret(b),
        ...sides,
        ...(diff !== undefined && { diff }),
      },
    ];
  });
}

/** Every content of a resource with both its sides. */
function filePairs(
  fromCatalog: Catalog,
  toCatalog: Catalog,
  from: CatalogResource | undefined,
  to: CatalogResource | undefined,
): [path: string, from: FileContent | undefined, to: FileContent | undefined][] {
  const older: Map<string, FileContent> = from ? fileContents(fromCatalog, from) : new Map();
  const newer: Map<string, FileContent> = to ? fileContents(toCatalog, to) : new Map();
  return [...new Set([...older.keys(), ...newer.keys()])]
    .sort()
    .map((path) => [path, older.get(path), newer.get(path)]);
}

/** The same bytes are the same content, whether inline or stored. */
function isSameContent(a: FileContent | undefined, b: FileContent | undefined): boolean {
  const hash = contentHash(a);
  if (hash !== undefined) return hash === contentHash(b);
  return isSame(a, b);
}

function otherResourceMembers(
  fromCatalog: Catalog,
  toCatalog: Catalog,
  from: CatalogResource,
  to: CatalogResource,
  contents: ContentChange[],
): string[] {
  const told = new Set(['type', 'title', 'file', 'line', 'tags', 'parameters']);
  const names = new Set([...Object.keys(from), ...Object.keys(to)]);
  const members = [...names].filter((name) => !told.has(name) && !isSame(member(from, name), member(to, name)));
  // The same bytes inline on one side and from a source on the other.
  if (from.type === 'File' && contents.length === 0) {
    const sides = [from, to].map((side) => own(side.parameters, 'content'));
    if (!isSame(sides[0], sides[1]) && !members.includes('content')) members.push('content');
  }
  if (contents.length === 0 && !isSame(metadataOf(fromCatalog, from), metadataOf(toCatalog, to)))
    members.push('metadata');
  return members.sort();
}

function metadataOf(catalog: Catalog, resource: CatalogResource): unknown {
  if (resource.type !== 'File') return sourceMetadata(catalog, resource);
  const { title } = resource;
  return [own(catalog.metadata, title) ?? null, own(catalog.recursive_metadata, title) ?? null];
}

function member(value: object, name: string): unknown {
  return Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined;
}

/** Members at the top that differ and are told nowhere else. Those made from the id always differ, and say nothing. */
function otherMembers(from: Catalog, to: Catalog): string[] {
  const told = ['resources', 'edges', 'tags', 'classes', 'metadata', 'recursive_metadata'];
  const made = ['version', 'catalog_uuid', 'code_id'];
  const names = new Set([...Object.keys(from), ...Object.keys(to)]);
  return [...names]
    .filter((name) => ![...told, ...made].includes(name) && !isSame(member(from, name), member(to, name)))
    .sort();
}

function isOrderChanged(from: Catalog, to: Catalog): boolean {
  const newer = new Set(to.resources.map(reference));
  const older = new Set(from.resources.map(reference));
  const before = from.resources.map(reference).filter((name) => newer.has(name));
  const after = to.resources.map(reference).filter((name) => older.has(name));
  return before.some((name, index) => name !== after[index]);
}

function edgeText(edge: CatalogEdge): string {
  const { source, target, ...more } = edge;
  const rest = Object.keys(more).length > 0 ? ` ${written(more)}` : '';
  return `${source} -> ${target}${rest}`;
}

function diffLists(from: readonly string[] = [], to: readonly string[] = []): ListChange | undefined {
  if (isSame(from, to)) return undefined;
  const added = without(to, from);
  const removed = without(from, to);
  return { added, removed, reordered: added.length + removed.length === 0 };
}

/** Members of one list that the other has not, each as many times as it stands there more often. */
function without(list: readonly string[], other: readonly string[]): string[] {
  const times = new Map<string, number>();
  for (const each of other) times.set(each, (times.get(each) ?? 0) + 1);
  return list.filter((each) => {
    const left = times.get(each) ?? 0;
    times.set(each, left - 1);
    return left <= 0;
  });
}

/** Text diffs within a budget of time for a whole catalog: beyond it, sizes and hashes have to do. */
class Texts {
  readonly #contents: Contents;
  readonly #endsAt = performance.now() + DIFF_TIME_MAX_MS;

  constructor(contents: Contents) {
    this.#contents = contents;
  }

  diffContents(path: string, from: FileContent | undefined, to: FileContent | undefined): ContentChange {
    const sides = { ...(from && { from: this.#side(from) }), ...(to && { to: this.#side(to) }) };
    const isText = [sides.from, sides.to].every((side) => !side || side.kind === 'text');
    const diff = isText ? this.#unified(this.#text(from), this.#text(to)) : undefined;
    const change = !from ? 'added' : !to ? 'removed' : 'changed';
    return { path, change, ...sides, ...(diff !== undefined && { diff }) };
  }

  /** For parameters that are texts of several lines on at least one side. */
  diffValues(from: ParameterValue | undefined, to: ParameterValue | undefined): string | undefined {
    if (typeof from !== 'string' || typeof to !== 'string' || !(from.includes('\n') || to.includes('\n')))
      return undefined;
    return this.#unified(from, to);
  }

  #side(content: FileContent): ContentSide {
    if (content.kind === 'secret') return { kind: 'sensitive' };
    if (content.kind === 'link') return { kind: 'link', target: content.target };
    if (content.kind === 'directory') return { kind: 'directory' };
    if (content.kind === 'value') return { kind: 'value', value: redactedValue(content.value) };
    const hash = contentHash(content)!;
    const found =
      content.kind === 'inline' ? { size: content.bytes.length, bytes: content.bytes } : this.#contents.get(hash);
    if (!found) return { kind: 'stored', hash };
    if (!found.bytes || found.size > DIFF_TEXT_BYTES_MAX) return { kind: 'stored', size: found.size, hash };
    return { kind: isText(found.bytes) ? 'text' : 'binary', size: found.size, hash };
  }

  #text(content: FileContent | undefined): string {
    if (content?.kind === 'inline') return content.bytes.toString('utf8');
    if (content?.kind === 'stored') return this.#contents.get(content.hash)!.bytes!.toString('utf8');
    return '';
  }

  #unified(from: string, to: string): string | undefined {
    const timeout = this.#endsAt - performance.now();
    if (timeout <= 0 || from.length > DIFF_TEXT_BYTES_MAX || to.length > DIFF_TEXT_BYTES_MAX) return undefined;
    const patch = structuredPatch('', '', from, to, undefined, undefined, { context: 3, timeout });
    return patch && formatPatch(patch, OMIT_HEADERS);
  }
}

function isText(bytes: Buffer): boolean {
  return !bytes.includes(0) && isUtf8(bytes);
}
