/**
 * The job `compile`: one node under one code version. It reads everything anew (facts, certificate, ENC), compiles, keeps
 * what the catalog needs, and writes the result with all that follows from it in one transaction. What Puppet says against
 * the code is a result; what is wrong with this machine is thrown, and tried again by the queue.
 */
import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import type { Logger } from 'pino';
import { catalogContents, servedCatalog } from '../model/catalog.ts';
import { CallboardError } from '../model/errors.ts';
import {
  type CatalogHash,
  type Certname,
  type CodeVersionHash,
  type ContentHash,
  type EnvironmentName,
  parseCertname,
  parseCodeVersionHash,
} from '../model/ids.ts';
import type { Database, Transaction } from '../postgres/database.ts';
import { notify } from '../postgres/listen.ts';
import type { JobHandlers, Jobs } from '../postgres/queue.ts';
import { type Classification, classify, type EncAnswer, Misclassified } from './classification.ts';
import { dataDigest, volatilePath } from './data.ts';
import { queueChangedNodes, queueCompiles } from './queue.ts';
import { storeReadSet } from './read-set-store.ts';
import type { CompileRequest, CompileResult, Reads } from './request.ts';
import {
  insertCompile,
  lockNodeData,
  lockResults,
  moveNode,
  type NewCompile,
  type NodeInputs,
  nodeEnvironment,
  readEncCommand,
  readInputs,
  setCompiled,
  storeEncAnswer,
  type VolatileReason,
} from './store.ts';

/** An ENC that fails is asked again by the queue this often, then its failure is the result. */
const ENC_ATTEMPTS_MAX = 3;

export interface CompileJobsDeps {
  db: Database;
  logger: Logger;
  pool: { compile(request: CompileRequest, signal?: AbortSignal): Promise<CompileResult> };
  /** The code version as a directory. */
  codeDirectory(codeVersion: CodeVersionHash): Promise<string>;
  askEnc(command: string, certname: Certname, signal?: AbortSignal): Promise<EncAnswer>;
  content: {
    put(hash: ContentHash, bytes: Readable): Promise<unknown>;
    missing(hashes: Iterable<ContentHash>): Promise<ContentHash[]>;
  };
  storeCatalog(
    tx: Transaction,
    catalog: {
      id: CatalogHash;
      certname: Certname;
      environment: EnvironmentName;
      document: Buffer;
      contents: ContentHash[];
    },
  ): Promise<unknown>;
  afterCompile(
    tx: Transaction,
    result: { certname: Certname; environment: string; codeVersion: CodeVersionHash; catalog: CatalogHash | null },
  ): Promise<unknown>;
  /** What compiles of this process stand on (base.ts). */
  base(): Promise<string>;
  /** `servername`, `serverip`: the same on every compiler. */
  serverFacts: Record<string, string>;
  /** Told of each compile that ended; for metrics. */
  onEnd?: (outcome: 'compiled' | 'failed', seconds: number) => void;
}

type Payload = Jobs['compile'];

export function compileJobs(deps: CompileJobsDeps): JobHandlers {
  return { compile: (payload, context) => compileNode(deps, payload, context.signal, context.attempt) };
}

async function compileNode(
  deps: CompileJobsDeps,
  payload: Payload,
  signal: AbortSignal,
  attempt: number,
): Promise<void> {
  const certname = parseCertname(payload.certname);
  const codeVersion = parseCodeVersionHash(payload.code_version);
  const inputs = await readInputs(deps.db, certname);
  // Jobs for where the node is now, or for the code that followed this one, are queued by whoever moved or followed.
  if (!inputs || inputs.environment !== payload.environment || !inputs.wanted.includes(codeVersion)) return;

  const startedAt = performance.now();
  let result: CompileResult;
  let enc: EncAnswer | null = null;
  try {
    const classification = await classifyNode(deps, certname, inputs, signal);
    if (classification.environment !== inputs.environment) {
      await move(deps.db, certname, inputs.environment, classification);
      return;
    }
    enc = classification.enc;
    if (enc) await storeEncAnswer(deps.db, certname, enc);
    result = await deps.pool.compile(
      await compileRequest(deps, certname, codeVersion, inputs, enc?.answer ?? null),
      signal,
    );
  } catch (error) {
    if (signal.aborted || !isClassifiersFault(error, attempt)) throw error;
    result = {
      status: 'failed',
      error: { message: error.message, file: null, line: null },
      warnings: [],
      cpuMs: null,
      reads: null,
    };
  }
  await store(deps, { certname, codeVersion, payload, inputs, enc, result, base: await deps.base() });

  const seconds = (performance.now() - startedAt) / 1000;
  deps.onEnd?.(result.status, seconds);
  deps.logger.info(
    {
      certname,
      environment: inputs.environment,
      code_version: codeVersion,
      trigger: payload.trigger,
      seconds: Number(seconds.toFixed(3)),
      ...(result.status === 'failed' ? { error: result.error } : {}),
    },
    result.status === 'compiled' ? 'catalog compiled' : 'compile failed',
  );
}

/** What is asked of the pool. `enc`: what the ENC printed. */
export async function compileRequest(
  deps: Pick<CompileJobsDeps, 'codeDirectory' | 'serverFacts'>,
  certname: Certname,
  codeVersion: CodeVersionHash,
  inputs: NodeInputs,
  enc: string | null,
): Promise<CompileRequest> {
  return {
    certname,
    environment: inputs.environment,
    codeDirectory: await deps.codeDirectory(codeVersion),
    facts: inputs.facts,
    volatileFacts: inputs.volatile_facts,
    trustedExtensions: inputs.trusted_extensions,
    enc,
    serverFacts: deps.serverFacts,
  };
}

function classifyNode(
  deps: CompileJobsDeps,
  certname: Certname,
  inputs: NodeInputs,
  signal: AbortSignal,
): Promise<Classification> {
  return classify(
    {
      encCommand: async (environment) => (await readEncCommand(deps.db, environment))?.enc_command,
      askEnc: (command, name) => deps.askEnc(command, name, signal),
    },
    certname,
    inputs.environment,
  );
}

/** Its compiles are queued where it is then; this one is not wanted any more. */
async function move(db: Database, certname: Certname, from: string, to: Classification): Promise<void> {
  await db.transaction().execute(async (tx) => {
    if (to.enc) await storeEncAnswer(tx, certname, to.enc);
    if (await moveNode(tx, certname, from, to.environment))
      await queueCompiles(tx, certname, `the ENC put it into ${to.environment}`);
  });
}

function isClassifiersFault(error: unknown, attempt: number): error is Error {
  if (error instanceof Misclassified) return true;
  const refused = error instanceof CallboardError && error.code !== 'WORKER_FAILED' && error.code.startsWith('ENC_');
  return refused && attempt >= ENC_ATTEMPTS_MAX;
}

async function store(
  deps: CompileJobsDeps,
  done: {
    certname: Certname;
    codeVersion: CodeVersionHash;
    payload: Payload;
    inputs: NodeInputs;
    enc: EncAnswer | null;
    result: CompileResult;
    base: string;
  },
): Promise<void> {
  const { certname, codeVersion, inputs, result } = done;
  const environment = inputs.environment as EnvironmentName;
  const served = result.status === 'compiled' ? servedCatalog(result.canonical) : null;
  const compile: NewCompile = {
    certname,
    environment,
    codeVersion,
    trigger: done.payload.trigger,
    facts: inputs.facts_hash,
    encHash: done.enc?.hash ?? null,
    extensions: inputs.extensions,
    base: done.base,
    read: null,
    volatile: [],
    catalog: served?.id ?? null,
    error: result.status === 'failed' ? result.error : null,
    warnings: [...result.warnings, ...(result.reads?.lints ?? []).map((lint) => ({ level: 'lint', ...lint }))],
    startedAt: inputs.read_at,
    cpuMs: result.cpuMs,
  };
  if (result.status === 'compiled') await keepContents(deps, result.contents);
  const { reads } = result;
  const data = { facts: inputs.facts, volatileFacts: inputs.volatile_facts, extensions: inputs.extensions };
  if (reads) compile.volatile = volatileReasons(reads, data.volatileFacts);
  await deps.db.transaction().execute(async (tx) => {
    if (reads) {
      const readSet = await storeReadSet(tx, { inputs: reads.inputs, data: reads.data });
      compile.read = { readSet, dataDigest: dataDigest(reads.data, data), outside: reads.outside };
    }
    await lockResults(tx, certname);
    // It was moved meanwhile, and compiles were queued for where it is.
    if ((await nodeEnvironment(tx, certname)) !== environment) return;
    if (served) {
      await deps.storeCatalog(tx, {
        id: served.id,
        certname,
        environment,
        document: served.document,
        contents: catalogContents(served.document),
      });
    }
    const id = await insertCompile(tx, compile);
    if (await setCompiled(tx, id, compile))
      await deps.afterCompile(tx, { certname, environment, codeVersion, catalog: compile.catalog });
    await catchUp(tx, inputs, compile);
    await notify(tx, 'callboard_progress', { kind: 'compile', id });
  });
}

/** What changed about the node while its compile ran: it concerns the compile, or the compile holds for that as well. */
async function catchUp(tx: Transaction, inputs: NodeInputs, compile: NewCompile): Promise<void> {
  const now = await lockNodeData(tx, compile.certname);
  if (now && (now.facts !== inputs.facts_hash || now.extensions !== inputs.extensions))
    await queueChangedNodes(tx, [compile.certname], 'facts changed while it was compiled');
}

/** What cannot be looked at again, and values that change by themselves. */
function volatileReasons(reads: Reads, volatileFacts: string | null): VolatileReason[] {
  const path = volatilePath(reads.data, volatileFacts);
  const own = path && { reason: `reads ${path.join('.')}, where values change by themselves`, file: null, line: null };
  return own ? [...reads.volatile, own] : reads.volatile;
}

/** Files of mounts are not part of any code version: they are put as they are now, checked against what was compiled. */
async function keepContents(deps: CompileJobsDeps, contents: { hash: string; path?: string }[]): Promise<void> {
  const foreign = new Map(contents.flatMap(({ hash, path }) => (path ? [[hash as ContentHash, path] as const] : [])));
  for (const hash of await deps.content.missing(foreign.keys()))
    await deps.content.put(hash, createReadStream(foreign.get(hash)!));
}
