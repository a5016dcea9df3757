/**
 * Why a catalog is as it is: what its compile read, where its data came from, and which of that differs from what was read
 * for another catalog of the node. It only looks; what is not known any more, or never was, is null.
 */
import { CallboardError } from '../model/errors.ts';
import type { Certname, CodeVersionHash, ContentHash } from '../model/ids.ts';
import { type Difference, difference, metadataDiffers, moduleInputs } from '../model/inputs.ts';
import { DATA_FILE_BYTES_MAX, PAGE_ROWS_MAX } from '../model/limits.ts';
import { readTree, type TreeEntry } from '../model/tree.ts';
import {
  at,
  type ChangedInput,
  changedDataPaths,
  changedFacts,
  changedFiles,
  changedInputs,
  type DataKeys,
  dataInput,
  isNear,
} from './changed-inputs.ts';
import { Containment, RELATIONS } from './containment.ts';
import { parseExactly } from './exact.ts';
import { dataKeys, type KeyOrigin, keyOrigins } from './hiera.ts';
import { changeOf } from './plan.ts';
import { type CatalogReading, readPair, readParsed } from './reading.ts';
import { redactedResource } from './secrets.ts';
import type { Side } from './sides.ts';
import {
  type CompileOrigin,
  codeByPrefix,
  compileInputs,
  compileOf,
  factDocument,
  type NodeCatalogs,
} from './store.ts';

/** A code version's entries by their paths. */
type Tree = ReadonlyMap<string, TreeEntry>;

/** What a catalog was made from. */
export async function explainCatalog(deps: CatalogReading, certname: Certname, node: NodeCatalogs, side: Side) {
  const compile = await compileOf(deps.db, certname, side.catalog, side.code_version);
  const codeVersion = side.code_version ?? compile?.code_version;
  const [code] = codeVersion ? await codeByPrefix(deps.db, node.environment, codeVersion) : [];
  return {
    catalog: side.catalog,
    is_released: side.catalog === node.released_catalog,
    code: code ?? (codeVersion ? { code_version: codeVersion } : null),
    compile: compile
      ? {
          id: compile.id,
          code_version: compile.code_version,
          trigger: compile.trigger,
          facts: compile.facts,
          enc_hash: compile.enc_hash,
          finished_at: compile.finished_at,
        }
      : null,
    reads: compile?.traced && codeVersion ? await readsOf(deps, compile, codeVersion) : null,
  };
}

/** What a compile read, with the values of facts and the origins of data. */
async function readsOf(deps: CatalogReading, compile: CompileOrigin, codeVersion: CodeVersionHash) {
  const inputs = await compileInputs(deps.db, compile.id);
  const facts = await factsOf(deps, compile.facts);
  const tree = await treeOf(deps, codeVersion);
  return {
    files: inputs.flatMap((input) => (input.startsWith('file ') ? [input.slice('file '.length)] : [])),
    data: tree ? await originsOf(deps, inputs, tree) : null,
    facts: (compile.data ?? []).map(([root, ...path]) => {
      const value = root === 'facts' ? at(facts, path) : undefined;
      return { path: [root, ...path].join('.'), ...(value !== undefined && { value }) };
    }),
    // Files and data are told above.
    others: inputs.filter((input) => !/^(file|data|option) /.test(input)),
    outside: compile.outside ?? {},
    volatile: compile.volatile ?? [],
  };
}

async function factsOf(deps: CatalogReading, hash: string | null): Promise<unknown> {
  const text = hash === null ? undefined : await factDocument(deps.db, hash);
  return text === undefined ? undefined : parseExactly(Buffer.from(text));
}

/** Undefined where the code version was collected. */
async function treeOf(deps: CatalogReading, codeVersion: CodeVersionHash): Promise<Tree | undefined> {
  try {
    const entries = readTree(await deps.content.read(codeVersion as string as ContentHash));
    return new Map(entries.map((entry) => [entry.path, entry]));
  } catch (error) {
    if (error instanceof CallboardError) return undefined;
    throw error;
  }
}

/** What differs between two code versions, as far as both are still there. */
async function differenceOf(deps: CatalogReading, from: Tree | undefined, to: Tree | undefined): Promise<Difference> {
  if (!from || !to) return difference({ entries: [], modulepath: [] }, { entries: [], modulepath: [] });
  const code = async (tree: Tree) => {
    const about = await textOf(deps, tree, '.callboard/environment.json');
    const { modulepath } = JSON.parse(about ?? '{"modulepath": []}') as { modulepath: string[] };
    return { entries: [...tree.values()], modulepath };
  };
  const found = difference(await code(from), await code(to));
  for (const { path, module } of found.metadata) {
    const [old, fresh] = [await textOf(deps, from, path), await textOf(deps, to, path)];
    if (!metadataDiffers(old ?? '', fresh ?? '')) continue;
    for (const input of moduleInputs(module)) found.inputs.set(input, { path, change: 'changed' });
  }
  return found;
}

/** A file of a code version as text; undefined where it is not there, or too large. */
async function textOf(deps: CatalogReading, tree: Tree, path: string): Promise<string | undefined> {
  const entry = tree.get(path);
  if (entry?.kind !== 'file' || entry.size > DATA_FILE_BYTES_MAX) return undefined;
  try {
    return (await deps.content.read(entry.hash)).toString('utf8');
  } catch (error) {
    if (error instanceof CallboardError) return undefined;
    throw error;
  }
}

async function originsOf(deps: CatalogReading, inputs: string[], tree: Tree): Promise<KeyOrigin[]> {
  const configs = new Map<string, string>();
  const places = [...tree.keys()].filter((path) => path === 'hiera.yaml' || path.endsWith('/hiera.yaml'));
  for (const path of places.sort((a, b) => a.length - b.length)) {
    const text = await textOf(deps, tree, path);
    if (text !== undefined) configs.set(path.slice(0, -'/hiera.yaml'.length), text);
  }
  const files = new Map<string, DataKeys>();
  for (const input of inputs) {
    const path = dataInput(input)?.path;
    if (path === undefined || files.has(path)) continue;
    const text = await textOf(deps, tree, path);
    files.set(path, text === undefined ? undefined : dataKeys(path, text));
  }
  return keyOrigins(inputs, configs, (path) => files.get(path));
}

/** Where in a catalog a resource comes from. Throws RESOURCE_NOT_FOUND. */
export async function explainResource(
  deps: CatalogReading,
  certname: Certname,
  node: NodeCatalogs,
  side: Side,
  name: string,
) {
  const catalog = await readParsed(deps, side.catalog);
  const containment = new Containment(catalog);
  const [resource, reference] = [containment.resource(name), containment.resolved(name)];
  if (!resource) throw new CallboardError('RESOURCE_NOT_FOUND', { certname, resource: name });
  const { parameters, ...rest } = redactedResource(resource);
  const incoming = [...containment.names()].flatMap((from) =>
    RELATIONS.flatMap((relation) =>
      containment.named(from, relation).includes(reference) ? [{ resource: from, relation }] : [],
    ),
  );
  return {
    reference,
    file: rest.file ?? null,
    line: rest.line ?? null,
    containers: containment.containers(reference),
    relations: RELATIONS.flatMap((relation) =>
      containment.named(reference, relation).map((each) => ({ relation, resource: each })),
    ),
    incoming,
    parameters: parameters ?? {},
    plan: await planned(deps, certname, node, reference, nearTo(containment, reference)),
  };
}

/** The manifests and classes that a resource stands in. */
export function nearTo(containment: Containment, reference: string) {
  const chain = [reference, ...containment.containers(reference)];
  const files = chain.flatMap((each) => containment.resource(each)?.file ?? []);
  const classes = chain.flatMap((each) => /^Class\[(?:::)?(.*)\]$/s.exec(each)?.[1]?.toLowerCase() ?? []);
  return { files, classes };
}

/** What a release of the candidate would do to a resource, and which changed inputs may be why. Null where there is no plan. */
async function planned(
  deps: CatalogReading,
  certname: Certname,
  node: NodeCatalogs,
  reference: string,
  near: ReturnType<typeof nearTo>,
) {
  const { released_catalog: released, candidate } = node;
  if (!released || !candidate) return null;
  const { older, newer, contents } = await readPair(deps, released, candidate);
  const change = changeOf(older, newer, contents, { edges: false });
  const why = await inputsBetween(
    deps,
    certname,
    { catalog: released, code_version: node.released_code_version },
    { catalog: candidate, code_version: node.newest_code_version },
  );
  const inputs = why.inputs.map((each) => ({ ...each, near: isNear(each, near) }));
  return {
    from: { catalog: released, code_version: node.released_code_version },
    to: { catalog: candidate, code_version: node.newest_code_version },
    change: change?.resources.find((each) => each.resource === reference) ?? null,
    refreshed_because: change?.refreshed.find((each) => each.resource === reference)?.because ?? null,
    ...why,
    inputs: [...inputs.filter((each) => each.near), ...inputs.filter((each) => !each.near)].slice(0, PAGE_ROWS_MAX),
  };
}

/**
 * What was read for two catalogs of a node and differs between them. Where it is not known what was read, every path that
 * differs between the two code versions may have been: `traced` is false then.
 */
export async function inputsBetween(
  deps: CatalogReading,
  certname: Certname,
  from: Side,
  to: Side,
): Promise<{ traced: boolean; facts_changed: boolean | null; inputs: ChangedInput[] }> {
  const [before, after] = [
    await compileOf(deps.db, certname, from.catalog, from.code_version),
    await compileOf(deps.db, certname, to.catalog, to.code_version),
  ];
  const traced = Boolean(before?.traced && after?.traced);
  const facts_changed = before && after ? before.facts !== after.facts : null;
  const [older, newer] = [
    from.code_version ? await treeOf(deps, from.code_version) : undefined,
    to.code_version ? await treeOf(deps, to.code_version) : undefined,
  ];
  const found = await differenceOf(deps, older, newer);
  if (!before || !after || !traced) return { traced, facts_changed, inputs: changedFiles(found) };
  const inputs = [
    ...new Set([...(await compileInputs(deps.db, before.id)), ...(await compileInputs(deps.db, after.id))]),
  ];
  const data = new Map<string, { from: DataKeys; to: DataKeys }>();
  for (const path of changedDataPaths(inputs, found)) {
    const [a, b] = [await textOf(deps, older!, path), await textOf(deps, newer!, path)];
    data.set(path, {
      from: a === undefined ? undefined : dataKeys(path, a),
      to: b === undefined ? undefined : dataKeys(path, b),
    });
  }
  const paths = [...(before.data ?? []), ...(after.data ?? [])];
  const distinct = [...new Map(paths.map((path) => [JSON.stringify(path), path])).values()];
  const facts = facts_changed
    ? changedFacts(distinct, await factsOf(deps, before.facts), await factsOf(deps, after.facts))
    : [];
  return { traced, facts_changed, inputs: [...changedInputs(inputs.sort(), found, data), ...facts] };
}
