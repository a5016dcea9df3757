/**
 * What is known of nodes and runs, read for people: lists by key, one thing in detail. Nothing here writes. Status is derived
 * from rows that other rooms own (pointers, compiles, environments); this room only joins them.
 */
import { type RawBuilder, sql } from 'kysely';
import { CallboardError } from '../model/errors.ts';
import { mergeFacts } from '../model/facts.ts';
import type { Certname, EnvironmentName, RunId } from '../model/ids.ts';
import type { EventKind } from '../model/report.ts';
import { type Queries, row, rows } from '../postgres/database.ts';
import type { RunSummary } from './run.ts';
import { timeText } from './store.ts';

/** A page of a list, and the key to ask for the next one with; null at the end. */
export interface Page<Item> {
  items: Item[];
  next: string | null;
}

export interface Run {
  id: string;
  certname: string;
  catalog: string | null;
  code_version: string | null;
  noop: boolean;
  request: string | null;
  /** running, unchanged, changed or failed. */
  status: string;
  started_at: string;
  finished_at: string | null;
  events: number;
  summary: RunSummary | null;
}

export interface Node {
  certname: string;
  environment: string;
  pinned: boolean;
  /** The last run's: running, unchanged, changed or failed; null for a node that never ran. */
  status: string | null;
  last_run: string | null;
  last_run_at: string | null;
  facts_at: string | null;
  released_catalog: string | null;
  released_code_version: string | null;
  released_at: string | null;
  candidate_catalog: string | null;
  candidate_code_version: string | null;
  /** Whether there is a candidate, and it is another catalog than the released one. */
  candidate_differs: boolean;
  /** Whether the last compile under the environment's newest code version failed. */
  compile_failed: boolean;
}

export interface Compile {
  id: string;
  environment: string;
  code_version: string;
  trigger: string;
  catalog: string | null;
  error: unknown;
  warnings: unknown;
  finished_at: string;
}

export interface NodeDetail extends Node {
  requested_environment: string;
  trusted_extensions: Record<string, string>;
  facts: string | null;
  created_at: string;
  /** But for trials'. */
  last_compile: Compile | null;
  run: Run | null;
}

const NODE = sql`
  node.certname, node.environment, node.pinned, node.run_status as status,
  run.id as last_run, ${timeText('run.started_at')} as last_run_at, ${timeText('node.facts_at')} as facts_at,
  node.released_catalog, node.released_code_version, ${timeText('node.released_at')} as released_at,
  compiled.catalog as candidate_catalog, environment.code_version as candidate_code_version,
  coalesce(compiled.catalog <> coalesce(node.released_catalog, ''), false) as candidate_differs,
  compiled.compile is not null and compiled.catalog is null as compile_failed
`;
const NODE_TABLES = sql`
  node
  left join environment on environment.name = node.environment
  left join compiled on compiled.certname = node.certname and compiled.environment = node.environment
    and compiled.code_version = environment.code_version
  left join run on run.id = node.last_run
`;
const RUN = sql`
  run.id, run.certname, run.catalog, run.code_version, run.noop, run.request, coalesce(run.status, 'running') as status,
  ${timeText('run.started_at')} as started_at, ${timeText('run.finished_at')} as finished_at, run.event_count as events,
  run.summary
`;

/** Nodes by certname. `status` is a run status, `running`, or `never`. */
export async function listNodes(
  db: Queries,
  page: { environment?: EnvironmentName; status?: string; after?: string; limit: number },
): Promise<Page<Node>> {
  const conditions = [sql`true`];
  if (page.environment !== undefined) conditions.push(sql`node.environment = ${page.environment}`);
  if (page.status === 'never') conditions.push(sql`node.run_status is null`);
  else if (page.status !== undefined) conditions.push(sql`node.run_status = ${page.status}`);
  if (page.after !== undefined) conditions.push(sql`node.certname > ${page.after}`);
  const found = await rows<Node>(
    sql`select ${NODE} from ${NODE_TABLES} where ${all(conditions)} order by node.certname limit ${page.limit + 1}`,
    db,
  );
  return paged(found, page.limit, (node) => node.certname);
}

/** Throws NODE_NOT_FOUND. */
export async function readNode(db: Queries, certname: Certname): Promise<NodeDetail> {
  const found = await row<Omit<NodeDetail, 'last_compile' | 'run'>>(
    sql`
      select ${NODE}, node.requested_environment, node.trusted_extensions, node.facts, ${timeText('node.created_at')} as created_at
      from ${NODE_TABLES} where node.certname = ${certname}
    `,
    db,
  );
  if (!found) throw new CallboardError('NODE_NOT_FOUND', { certname });
  const lastCompile = await row<Compile>(
    sql`
      select id, environment, code_version, trigger, catalog, error, warnings, ${timeText('finished_at')} as finished_at
      from compile
      where certname = ${certname} and not exists (
        select from trial where trial.environment = compile.environment and trial.code_version = compile.code_version
      )
      order by compile.finished_at desc limit 1
    `,
    db,
  );
  const run = found.last_run === null ? undefined : await findRun(db, found.last_run as RunId);
  return { ...found, last_compile: lastCompile ?? null, run: run ?? null };
}

/** The node's whole facts as JSON text, number by number as they were submitted. Throws NODE_NOT_FOUND, FACTS_NOT_FOUND. */
export async function readFacts(db: Queries, certname: Certname): Promise<{ hash: string; text: string }> {
  const found = await row<{ hash: string | null; document: string; volatile_facts: string | null }>(
    sql`
      select node.facts as hash, fact_document.document, node.volatile_facts
      from node left join fact_document on fact_document.hash = node.facts where node.certname = ${certname}
    `,
    db,
  );
  if (!found) throw new CallboardError('NODE_NOT_FOUND', { certname });
  if (found.hash === null) throw new CallboardError('FACTS_NOT_FOUND', { certname });
  return { hash: found.hash, text: mergeFacts(found.document, found.volatile_facts ?? '{}') };
}

/** Runs, the last started first. The key of a page is its last run's start and id. */
export async function listRuns(
  db: Queries,
  page: { certname?: Certname; status?: string; after?: string; limit: number },
): Promise<Page<Run>> {
  const conditions = [sql`true`];
  if (page.certname !== undefined) conditions.push(sql`run.certname = ${page.certname}`);
  if (page.status === 'running') conditions.push(sql`run.state = 'running'`);
  else if (page.status !== undefined) conditions.push(sql`run.status = ${page.status}`);
  if (page.after !== undefined) {
    const [, startedAt, id] = RUN_KEY.exec(page.after) ?? [];
    if (startedAt === undefined)
      throw new CallboardError('REQUEST_INVALID', { reason: `'${page.after}' is no page key` });
    conditions.push(sql`(run.started_at, run.id) < (${startedAt}::timestamptz, ${id}::uuid)`);
  }
  const found = await rows<Run>(
    sql`
      select ${RUN} from run where ${all(conditions)}
      order by run.started_at desc, run.id desc limit ${page.limit + 1}
    `,
    db,
  );
  return paged(found, page.limit, (run) => `${run.started_at}_${run.id}`);
}

const RUN_KEY = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;

/** Throws RUN_NOT_FOUND. */
export async function readRun(db: Queries, id: RunId): Promise<Run> {
  const found = await findRun(db, id);
  if (!found) throw new CallboardError('RUN_NOT_FOUND', { id });
  return found;
}

function findRun(db: Queries, id: RunId): Promise<Run | undefined> {
  return row<Run>(sql`select ${RUN} from run where id = ${id}`, db);
}

/** A stored event. `data` is JSON text as the node wrote it. */
export interface StoredEvent {
  sequence: number;
  at: string;
  received_at: string;
  kind: EventKind;
  data: string;
}

/** Events of a run in order, `from` and `to` included; with `receivedSince`, only those that came later. */
export function readEvents(
  db: Queries,
  range: { run: string; day: string; from: number; to: number; kind?: EventKind; receivedSince?: Date; limit: number },
): Promise<StoredEvent[]> {
  const conditions = [
    sql`day = ${range.day}::date and run = ${range.run} and sequence between ${range.from} and ${range.to}`,
  ];
  if (range.kind !== undefined) conditions.push(sql`kind = ${range.kind}`);
  if (range.receivedSince !== undefined) conditions.push(sql`received_at > ${range.receivedSince}`);
  return rows(
    sql<StoredEvent>`
      select sequence, ${timeText('at')} as at, ${timeText('received_at')} as received_at, kind, data::text as data
      from run_event where ${all(conditions)} order by sequence limit ${range.limit}
    `,
    db,
  );
}

/** The partition that holds a run's events. Throws RUN_NOT_FOUND. */
export async function dayOf(db: Queries, id: RunId): Promise<string> {
  const found = await row<{ day: string }>(sql`select day from run where id = ${id}`, db);
  if (!found) throw new CallboardError('RUN_NOT_FOUND', { id });
  return found.day;
}

/** Runs that had events since a time, for watchers who may have missed some. */
export function runsSince(
  db: Queries,
  since: Date,
  limit: number,
): Promise<{ id: string; certname: string; day: string }[]> {
  return rows(
    sql<{ id: string; certname: string; day: string }>`
      select id, certname, day from run
      where started_at > ${since}::timestamptz - interval '1 day' and (state = 'running' or finished_at > ${since})
      order by started_at desc limit ${limit}
    `,
    db,
  );
}

export function readCompiles(db: Queries, ids: string[]) {
  return rows<Compile & { certname: string }>(
    sql`
      select id, certname, environment, code_version, trigger, catalog, error, warnings, ${timeText('finished_at')} as finished_at
      from compile where id = any(${ids}::uuid[]) order by compile.finished_at
    `,
    db,
  );
}

export function readDeploys(db: Queries, ids: string[]) {
  return rows<object>(
    sql`
      select id, environment, repo, ref, commit, code_version, state, error, requested_by, ${timeText('created_at')} as created_at,
        ${timeText('finished_at')} as finished_at
      from deploy where id = any(${ids}::uuid[]) order by deploy.created_at
    `,
    db,
  );
}

export function readReleases(db: Queries, ids: string[]) {
  return rows<object>(
    sql`
      select id, kind, environment, code_version, requested_by, ${timeText('created_at')} as created_at,
        (select count(*)::int from pointer_move where pointer_move.release = release.id) as moved
      from release where id = any(${ids}::uuid[]) order by release.created_at
    `,
    db,
  );
}

/** An event as JSON text, in one line whatever white space its data has. */
export function eventText(event: StoredEvent, run?: { certname: string; run: string }): string {
  const data = /[\r\n]/.test(event.data) ? event.data.replaceAll(/[\r\n]/g, ' ') : event.data;
  const whose = run ? `"certname":${JSON.stringify(run.certname)},"run":"${run.run}",` : '';
  return `{${whose}"sequence":${event.sequence},"at":"${event.at}","received_at":"${event.received_at}","kind":"${event.kind}","data":${data}}`;
}

function all(conditions: RawBuilder<unknown>[]): RawBuilder<unknown> {
  return sql.join(conditions, sql` and `);
}

/** One row more than the page was read to know whether there is another. */
function paged<Item>(found: Item[], limit: number, key: (item: Item) => string): Page<Item> {
  const items = found.slice(0, limit);
  return { items, next: found.length > limit ? key(items.at(-1)!) : null };
}
