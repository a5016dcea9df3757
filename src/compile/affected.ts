/**
 * The job `affected`: a code version was deployed to an environment, or is to be tried in it. Each node whose compile under an
 * earlier code version read nothing that differs in this one has the same catalog: its row is carried over. The others are queued. Look-ups
 * in the index of inputs decide it, not a look at each read set; values are compared for nothing but data files and metadata.
 *
 *   tree of the earlier version ─┐
 *   tree of this version ────────┴▶ changed inputs ─▶ parts ─▶ read sets ─▶ nodes
 */
import type { Logger } from 'pino';
import type { Certname, CodeVersionHash, ContentHash } from '../model/ids.ts';
import {
  type ChangedOptions,
  type Code,
  changedKeys,
  type Difference,
  difference,
  globExpression,
  metadataDiffers,
  moduleInputs,
} from '../model/inputs.ts';
import { AFFECTED_BATCH_MAX, BASES_COMPARED_MAX } from '../model/limits.ts';
import { readTree } from '../model/tree.ts';
import type { Database, Transaction } from '../postgres/database.ts';
import { notify } from '../postgres/listen.ts';
import type { JobHandlers, Jobs } from '../postgres/queue.ts';
import { dataKeys, dataKind } from './data-files.ts';
import { isOutsideChanged } from './outside.ts';
import { queueNodeCompiles } from './queue.ts';
import * as store from './read-set-store.ts';
import { skippedRows } from './recompile-store.ts';
import { sampleSkipped } from './sample.ts';
import { isWantedVersion } from './store.ts';

export interface AffectedDeps {
  db: Database;
  logger: Logger;
  /** The Ruby that reads data files. */
  ruby: string;
  content: { read(hash: ContentHash): Promise<Buffer> };
  base(): Promise<string>;
  /** Told as soon as compiles under a code version may come, so that they find it warm. A hint. */
  expectCompiles?(environment: string, codeVersion: CodeVersionHash): void;
  /** Told in the transaction that carries nodes over: what the policies make of it. */
  afterCarryOver(tx: Transaction, environment: string, codeVersion: CodeVersionHash): Promise<unknown>;
  /** A line for the log of the deploy that caused it. */
  tell?(db: Database, deploy: string, line: string): Promise<unknown>;
}

export function affectedJobs(deps: AffectedDeps): JobHandlers {
  return { affected: (payload, context) => findAffected(deps, payload, context.signal) };
}

/** Which nodes need a compile and which do not. */
interface Decision {
  /** By the code version of the compile that holds. */
  carried: Map<CodeVersionHash, Certname[]>;
  /** By why. */
  queued: Map<string, Certname[]>;
}

function batches(certnames: Certname[]): Certname[][] {
  const count = Math.ceil(certnames.length / AFFECTED_BATCH_MAX);
  return Array.from({ length: count }, (_, at) =>
    certnames.slice(at * AFFECTED_BATCH_MAX, (at + 1) * AFFECTED_BATCH_MAX),
  );
}

async function findAffected(deps: AffectedDeps, payload: Jobs['affected'], signal: AbortSignal): Promise<void> {
  const { environment } = payload;
  const codeVersion = payload.code_version as CodeVersionHash;
  if (!(await isWantedVersion(deps.db, environment, codeVersion))) return;
  const startedAt = performance.now();
  const bases = await store.bases(deps.db, environment, codeVersion);
  const expect = () => deps.expectCompiles?.(environment, codeVersion);
  const decision = await decide(deps, codeVersion, bases, expect, signal);
  const took = performance.now() - startedAt;

  let carried = 0;
  for (const [from, certnames] of decision.carried) {
    for (const batch of batches(certnames)) {
      await deps.db.transaction().execute(async (tx) => {
        const moved = new Set(await store.carryOver(tx, environment, from, codeVersion, batch));
        carried += moved.size;
        const left = batch.filter((certname) => !moved.has(certname));
        await queueNodeCompiles(tx, environment, codeVersion, left, payload.trigger);
        await sampleSkipped(tx, await skippedRows(tx, environment, codeVersion, [...moved]));
      });
    }
  }
  let affected = 0;
  for (const [reason, certnames] of decision.queued) {
    affected += certnames.length;
    for (const batch of batches(certnames)) {
      await deps.db
        .transaction()
        .execute((tx) => queueNodeCompiles(tx, environment, codeVersion, batch, `${payload.trigger}: ${reason}`));
    }
  }
  await deps.db.transaction().execute(async (tx) => {
    await deps.afterCarryOver(tx, environment, codeVersion);
    await notify(tx, 'callboard_progress', { kind: 'affected', id: codeVersion });
  });
  const sentence = `${affected} of ${bases.length} nodes are affected and queued; ${carried} read nothing that changed`;
  if (payload.deploy) await deps.tell?.(deps.db, payload.deploy, `${sentence}\n`);
  deps.logger.info(
    {
      environment,
      code_version: codeVersion,
      affected,
      carried,
      milliseconds: Math.round(took),
    },
    'affected nodes found',
  );
}

async function decide(
  deps: AffectedDeps,
  codeVersion: CodeVersionHash,
  bases: store.Basis[],
  expect: () => void,
  signal: AbortSignal,
): Promise<Decision> {
  const decision: Decision = { carried: new Map(), queued: new Map() };
  const current = await deps.base();
  const after = await readCode(deps, codeVersion);
  const versions = Map.groupBy(bases, (basis) => basis.code_version);
  const compared = [...versions.keys()]
    .filter((version) => version !== null)
    .sort((a, b) => versions.get(b)!.length - versions.get(a)!.length)
    .slice(0, BASES_COMPARED_MAX);
  const outside = new Map<string, boolean>();
  for (const [version, nodes] of versions) {
    const changed =
      version !== null && compared.includes(version)
        ? await affectedReadSets(deps, await readCode(deps, version), after, signal, expect)
        : undefined;
    for (const node of nodes) {
      const reason = await whyAffected(node, current, changed, outside);
      if (reason !== undefined) add(decision.queued, reason, node.certname);
      else add(decision.carried, version!, node.certname);
    }
  }
  return decision;
}

function add<Key, Value>(map: Map<Key, Value[]>, key: Key, value: Value): void {
  const values = map.get(key);
  if (values) values.push(value);
  else map.set(key, [value]);
}

/** Undefined where the node's compile holds. */
async function whyAffected(
  node: store.Basis,
  base: string,
  changed: Affected | undefined,
  outside: Map<string, boolean>,
): Promise<string | undefined> {
  if (node.code_version === null || changed === undefined) return 'not compiled before';
  if (node.base !== base) return 'another Puppet or other settings';
  if (node.volatile || node.read_set === null) return 'volatile';
  if (changed.everything) return 'the modulepath or a linked directory changed';
  if (changed.readSets.has(node.read_set)) return changed.sentence;
  if (node.outside) {
    const key = JSON.stringify(node.outside);
    if (!outside.has(key)) outside.set(key, await isOutsideChanged(node.outside));
    if (outside.get(key)) return 'something outside the code changed';
  }
  return undefined;
}

interface Affected {
  everything: boolean;
  readSets: Set<number>;
  /** What changed, in short. */
  sentence: string;
}

/** The read sets that the difference of two code versions concerns. */
export async function affectedReadSets(
  deps: Pick<AffectedDeps, 'db' | 'ruby' | 'content'>,
  before: Code,
  after: Code,
  signal: AbortSignal,
  expect: () => void = () => {},
): Promise<Affected> {
  const found = difference(before, after);
  const sentence = summary(found);
  if (found.everything) return { everything: true, readSets: new Set(), sentence };
  const { inputs, options } = await changedInputs(deps, found, signal, expect);
  const readSets = new Set(await store.readSetsOf(deps.db, inputs));
  for (const changed of options) {
    const askers = new Set(await store.readSetsOf(deps.db, changed.options));
    for (const reader of await store.readSetsOf(deps.db, [changed.input])) if (askers.has(reader)) readSets.add(reader);
  }
  return { everything: false, readSets, sentence };
}

/** All inputs that differ, those included that bytes or the index must be asked for. */
async function changedInputs(
  deps: Pick<AffectedDeps, 'db' | 'ruby' | 'content'>,
  found: Difference,
  signal: AbortSignal,
  expect: () => void,
): Promise<{ inputs: string[]; options: ChangedOptions[] }> {
  const inputs = new Set(found.inputs.keys());
  for (const { before, after, module } of found.metadata) {
    const [old, fresh] = await Promise.all([deps.content.read(before!), deps.content.read(after!)]);
    if (!metadataDiffers(old.toString('utf8'), fresh.toString('utf8'))) continue;
    for (const input of moduleInputs(module)) inputs.add(input);
  }
  if (found.names.length > 0) {
    for (const input of await store.globInputs(deps.db)) {
      const expression = globExpression(input.slice('glob '.length));
      if (found.names.some((name) => expression.test(name))) inputs.add(input);
    }
  }
  const withKeys = new Set(
    await store.pathsWithKeys(
      deps.db,
      found.files.map((file) => file.path),
    ),
  );
  const files = found.files.filter(
    ({ path, before, after }) => withKeys.has(path) && (before === undefined || before !== after),
  );
  if (files.length > 0) expect(); // To tell which keys of them changed takes as long as to get ready for compiles.
  const keys = await dataKeys(
    deps,
    files.flatMap(({ path, before, after }) =>
      [before, after].filter((hash) => hash !== undefined).map((hash) => ({ hash, kind: dataKind(path) })),
    ),
    signal,
  );
  const prefixes: string[] = [];
  const options: ChangedOptions[] = [];
  for (const { path, before, after } of files) {
    const keysOf = (hash: ContentHash | undefined) =>
      hash === undefined ? null : keys.get(`${dataKind(path)} ${hash}`)!;
    const changed = changedKeys(path, keysOf(before), keysOf(after));
    if ('prefix' in changed) {
      prefixes.push(changed.prefix);
      continue;
    }
    for (const input of changed.inputs) inputs.add(input);
    if (changed.options.options.length > 0) options.push(changed.options);
  }
  for (const input of await store.inputsByPrefix(deps.db, prefixes)) inputs.add(input);
  return { inputs: [...inputs], options };
}

/** A code version's tree and modulepath. */
export async function readCode(
  deps: { content: { read(hash: ContentHash): Promise<Buffer> } },
  codeVersion: CodeVersionHash,
): Promise<Code> {
  const entries = readTree(await deps.content.read(codeVersion as string as ContentHash));
  const about = entries.find((entry) => entry.kind === 'file' && entry.path === '.callboard/environment.json');
  if (about?.kind !== 'file') throw new Error(`code version ${codeVersion} has no .callboard/environment.json`);
  const { modulepath } = JSON.parse((await deps.content.read(about.hash)).toString('utf8'));
  return { entries, modulepath };
}

function summary(found: Difference): string {
  const paths = found.files.map((file) => file.path).sort();
  if (paths.length === 0) return 'no file changed';
  return `${paths[0]}${paths.length > 1 ? ` and ${paths.length - 1} more` : ''} changed`;
}
