/** The statements about read sets: what compiles read, and which nodes a changed input concerns. */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import type { Certname, CodeVersionHash } from '../model/ids.ts';
import { type DataKeys, parts } from '../model/inputs.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';
import type { DataPath } from './data.ts';

/** Inputs and data paths, each sorted and once. */
export interface ReadSet {
  inputs: string[];
  data: DataPath[];
}

/** Stores a read set, unless an equal one is there; its id. */
export async function storeReadSet(tx: Transaction, readSet: ReadSet): Promise<number> {
  const hash = digest(JSON.stringify([readSet.inputs, readSet.data]));
  const known = await readSetByHash(tx, hash);
  if (known !== undefined) return known;

  const made = parts(readSet.inputs).map((inputs) => ({ hash: digest(JSON.stringify(inputs)), inputs }));
  // In the order of their hashes, so that rivals wait for one another in turn.
  made.sort((a, b) => (a.hash < b.hash ? -1 : 1));
  const known_parts = new Map(
    (
      await partsByHash(
        tx,
        made.map((part) => part.hash),
      )
    ).map((part) => [part.hash, part.id]),
  );
  const ids: number[] = [];
  for (const part of made) ids.push(known_parts.get(part.hash) ?? (await insertPart(tx, part.hash, part.inputs)));
  const inserted = await row<{ id: number }>(
    sql`
      with made as (
        insert into read_set (hash, data) values (${hash}, ${JSON.stringify(readSet.data)}::json)
        on conflict (hash) do nothing
        returning id
      ), linked as (
        insert into read_set_part (part, read_set) select part, made.id from made, unnest(${ids}::bigint[]) as part
      )
      select id from made
    `,
    tx,
  );
  return inserted?.id ?? (await readSetByHash(tx, hash))!;
}

async function readSetByHash(db: Queries, hash: string): Promise<number | undefined> {
  return (await row<{ id: number }>(sql`select id from read_set where hash = ${hash}`, db))?.id;
}

function partsByHash(db: Queries, hashes: string[]): Promise<{ id: number; hash: string }[]> {
  return rows(
    sql<{ id: number; hash: string }>`select id, hash from read_part where hash = any(${hashes}::text[])`,
    db,
  );
}

async function insertPart(tx: Transaction, hash: string, inputs: string[]): Promise<number> {
  const inserted = await row<{ id: number }>(
    sql`
      with made as (
        insert into read_part (hash, inputs) values (${hash}, ${inputs}::text[])
        on conflict (hash) do nothing
        returning id
      ), indexed as (
        insert into read_input (input, part) select input, made.id from made, unnest(${inputs}::text[]) as input
      )
      select id from made
    `,
    tx,
  );
  if (inserted) return inserted.id;
  return (await row<{ id: number }>(sql`select id from read_part where hash = ${hash}`, tx))!.id;
}

/** The patterns that any compile globbed. */
export async function globInputs(db: Queries): Promise<string[]> {
  const found = await rows<{ input: string }>(
    sql`select distinct input from read_input where starts_with(input, 'glob ')`,
    db,
  );
  return found.map(({ input }) => input);
}

/** Whether any compile read keys of a data file, for each path. */
export async function pathsWithKeys(db: Queries, paths: string[]): Promise<string[]> {
  const found = await rows<{ path: string }>(
    sql`
      select path from unnest(${paths}::text[]) as path
      where exists (select from read_input where input >= 'data ' || path || chr(9) and input < 'data ' || path || chr(10))
    `,
    db,
  );
  return found.map(({ path }) => path);
}

/** Inputs of which at least one begins with one of the prefixes. */
export async function inputsByPrefix(db: Queries, prefixes: string[]): Promise<string[]> {
  const found = await rows<{ input: string }>(
    sql`
      select distinct read_input.input from unnest(${prefixes}::text[]) as prefix
      join read_input on starts_with(read_input.input, prefix)
    `,
    db,
  );
  return found.map(({ input }) => input);
}

/** Read sets that hold at least one of the inputs. */
export async function readSetsOf(db: Queries, inputs: string[]): Promise<number[]> {
  const found = await rows<{ read_set: number }>(
    sql`
      select distinct read_set_part.read_set
      from unnest(${inputs}::text[]) as changed
      join read_input on read_input.input = changed
      join read_set_part on read_set_part.part = read_input.part
    `,
    db,
  );
  return found.map(({ read_set }) => read_set);
}

/** A node that is not compiled under a code version yet, with its nearest other compile that holds for it as it is now. */
export interface Basis {
  certname: Certname;
  /** Null: there is none. */
  code_version: CodeVersionHash | null;
  compile: string | null;
  catalog: string | null;
  read_set: number | null;
  volatile: boolean;
  base: string | null;
  outside: Record<string, string | null> | null;
}

/**
 * The nodes of an environment that have facts, and no row under `codeVersion` that holds for them; each with its compile under
 * the code version that was deployed last, if what it read of the node is as it was.
 */
export function bases(db: Queries, environment: string, codeVersion: CodeVersionHash): Promise<Basis[]> {
  return rows(
    sql<Basis>`
      with holding as materialized (
        select k.certname, k.code_version, k.compile, k.catalog, k.read_set, k.volatile
        from compiled k
        join node n on n.certname = k.certname
        left join enc_answer a on a.certname = k.certname
        join environment e on e.name = k.environment
        where k.environment = ${environment} and n.environment = k.environment
          and k.facts = n.facts and k.extensions = n.trusted_extensions::text
          and (e.enc_command is null and k.enc_hash is null or k.enc_hash = a.hash)
      ), deployed as (
        select code_version, max(finished_at) as at from deploy
        where environment = ${environment} and state = 'done' group by code_version
      )
      select n.certname, near.code_version, near.compile, near.catalog, near.read_set, coalesce(near.volatile, true) as volatile,
        c.base, c.outside
      from node n
      left join lateral (
        select h.* from holding h left join deployed d on d.code_version = h.code_version
        where h.certname = n.certname order by d.at desc nulls last limit 1
      ) near on true
      left join compile c on c.id = near.compile
      where n.environment = ${environment} and n.facts is not null
        and not exists (select from holding h where h.certname = n.certname and h.code_version = ${codeVersion})
      order by n.certname
    `,
    db,
  );
}

/** Says of nodes that their rows under `from` hold under `to` as well. How many did. */
export async function carryOver(
  tx: Transaction,
  environment: string,
  from: CodeVersionHash,
  to: CodeVersionHash,
  certnames: string[],
): Promise<string[]> {
  const carried = await rows<{ certname: string }>(
    sql`
      insert into compiled
        (certname, environment, code_version, compile, catalog, facts, extensions, enc_hash, read_set, data_digest, volatile)
      select certname, environment, ${to}, compile, catalog, facts, extensions, enc_hash, read_set, data_digest, volatile
      from compiled
      where environment = ${environment} and code_version = ${from} and certname = any(${certnames}::text[])
      order by certname
      on conflict (certname, environment, code_version) do update set
        compile = excluded.compile, catalog = excluded.catalog, facts = excluded.facts, extensions = excluded.extensions,
        enc_hash = excluded.enc_hash, read_set = excluded.read_set, data_digest = excluded.data_digest,
        volatile = excluded.volatile
      -- A compile that ended meanwhile knows better.
      where (select started_at from compile where id = compiled.compile) <= (select started_at from compile where id = excluded.compile)
      returning certname
    `,
    tx,
  );
  return carried.map(({ certname }) => certname);
}

/** A catalog that somebody wants, with what its compile read of the node. */
export interface WantedRow {
  certname: string;
  environment: string;
  code_version: CodeVersionHash;
  /** Null: not known. */
  data: DataPath[] | null;
  data_digest: string | null;
  volatile: boolean;
  catalog: string | null;
  /** The environment's share of skipped compiles that are compiled all the same. */
  share: number;
}

/** Says of rows that they hold for the node's facts and extensions as these are now. */
export async function holdForNow(
  tx: Transaction,
  held: Pick<WantedRow, 'certname' | 'environment' | 'code_version'>[],
): Promise<void> {
  if (held.length === 0) return;
  await sql`
    update compiled set facts = node.facts, extensions = node.trusted_extensions::text
    from unnest(
      ${held.map((each) => each.certname)}::text[], ${held.map((each) => each.environment)}::text[],
      ${held.map((each) => each.code_version)}::text[]
    ) as held (certname, environment, code_version), node
    where (compiled.certname, compiled.environment, compiled.code_version) = (held.certname, held.environment, held.code_version)
      and node.certname = compiled.certname
  `.execute(tx);
}

/** Keys of data files that were looked at before, by content hash and kind. */
export function knownDataKeys(
  db: Queries,
  files: { hash: string; kind: string }[],
): Promise<{ hash: string; kind: string; keys: DataKeys }[]> {
  return rows(
    sql<{ hash: string; kind: string; keys: DataKeys }>`
      select hash, kind, keys from data_file
      join unnest(${files.map((file) => file.hash)}::text[], ${files.map((file) => file.kind)}::text[]) as wanted (hash, kind)
        using (hash, kind)
    `,
    db,
  );
}

export async function storeDataKeys(
  db: Queries,
  files: { hash: string; kind: string; keys: DataKeys }[],
): Promise<void> {
  if (files.length === 0) return;
  await sql`
    insert into data_file (hash, kind, keys)
    select * from unnest(
      ${files.map((file) => file.hash)}::text[], ${files.map((file) => file.kind)}::text[],
      ${files.map((file) => (file.keys === null ? null : JSON.stringify(file.keys)))}::text[]::json[]
    )
    on conflict do nothing
  `.execute(db);
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
