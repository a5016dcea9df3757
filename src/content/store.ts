/** SQL of the content room: who may read what, and what the collector forgets and keeps. */
import { sql } from 'kysely';
import type { Certname, CodeVersionHash, ContentHash } from '../model/ids.ts';
import { COLLECT_DEPLOYS_KEPT, COLLECT_MOVES_KEPT, CONTENT_MOVES_READABLE_MAX } from '../model/limits.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';

/**
 * Whether a catalog that was ever released to the node, or the plugin tree of a code version it runs or is about to run,
 * names the content. A node that has no row yet syncs plugins before its first facts: it may read every environment's.
 * Goes from the node's few holders to the content (each one probe of the primary key), since one file may have a
 * reference in every catalog of the fleet.
 */
export async function selectMayRead(db: Queries, certname: Certname, content: ContentHash): Promise<boolean> {
  const found = await row(
    sql<{ allowed: boolean }>`
      with own as (
        select environment, requested_environment, released_catalog, released_code_version
        from node where certname = ${certname}
      ), move as (
        select catalog, code_version from pointer_move where certname = ${certname}
        order by id desc limit ${CONTENT_MOVES_READABLE_MAX}
      ), code as (
        select released_code_version as id from own
        union select code_version from move
        union select unnest(array[e.code_version, e.released_code_version]) from environment e
          where e.name in (select environment from own union select requested_environment from own)
             or not exists (select from own)
      ), holder as (
        select released_catalog as id from own
        union select catalog from move
        union select v.plugins from code_version v join code on code.id = v.id
      )
      select exists (
        select from holder join content_reference r on r.holder = holder.id and r.content = ${content}
      ) as allowed`,
    db,
  );
  return found!.allowed;
}

/** Compiles that ended before `since` and are not the last of their node under a code version. How many went. */
export async function forgetCompiles(db: Queries, since: Date, max: number): Promise<number> {
  const gone = await rows(
    sql`
      delete from compile where id in (
        select id from compile c
        where finished_at < ${since} and not exists (select from compiled where compiled.compile = c.id)
        order by finished_at limit ${max})
      returning 1`,
    db,
  );
  return gone.length;
}

/** What compiles read of which the last was forgotten. Parts that no other read set has go with them. */
export async function forgetReadSets(tx: Transaction, max: number): Promise<number> {
  const gone = await rows<{ id: number; parts: number[] }>(
    sql`
      with dead as materialized (
        select id from read_set s
        where not exists (select from compile where read_set = s.id) and not exists (select from compiled where read_set = s.id)
        limit ${max}
      ), unlinked as (
        delete from read_set_part where read_set in (select id from dead) returning part
      )
      select dead.id, array(select distinct part from unlinked) as parts from dead
    `,
    tx,
  );
  if (gone.length === 0) return 0;
  await sql`delete from read_set where id = any(${gone.map(({ id }) => id)}::bigint[])`.execute(tx);
  await sql`
    with dead as materialized (
      select id from unnest(${gone[0]!.parts}::bigint[]) as id
      where not exists (select from read_set_part where part = id)
    ), unindexed as (
      delete from read_input where part in (select id from dead)
    )
    select count(*) from dead
  `.execute(tx);
  await sql`
    delete from read_part where id = any(${gone[0]!.parts}::bigint[])
      and not exists (select from read_set_part where part = read_part.id)
      and not exists (select from read_input where part = read_part.id)
  `.execute(tx);
  return gone.length;
}

/** Audits older than this, and what is known of data files, which is found out again where it is needed. */
export async function forgetAudits(db: Queries, since: Date): Promise<void> {
  await sql`delete from skip_audit where at < ${since}`.execute(db);
  await sql`delete from data_file`.execute(db);
}

/** One page of a forgetting that goes through a table by its key; `last` is null after the last page. */
export interface ForgottenPage {
  forgotten: number;
  last: string | null;
}

/**
 * Pointer moves older than `since`, but for each node's latest and its latest by a decision (not by facts): a rollback may
 * have to find what was before the last release after any number of changed facts. A page of nodes after `after`.
 */
export async function forgetMoves(db: Queries, after: string, since: Date, max: number): Promise<ForgottenPage> {
  const page = await row(
    sql<ForgottenPage>`
      with page as (
        select certname from node where certname > ${after} order by certname limit ${max}
      ), bound as (
        select certname,
          (select id from pointer_move m where m.certname = page.certname
            order by id desc offset ${COLLECT_MOVES_KEPT - 1} limit 1) as any_cause,
          (select id from pointer_move m where m.certname = page.certname and m.cause <> 'facts'
            order by id desc offset ${COLLECT_MOVES_KEPT - 1} limit 1) as decision
        from page
      ), gone as (
        delete from pointer_move m using bound
        where m.certname = bound.certname and m.moved_at < ${since} and m.id < bound.any_cause
          and (m.cause = 'facts' or m.id < bound.decision)
        returning 1
      )
      select (select count(*) from gone)::int as forgotten, (select max(certname) from page) as last`,
    db,
  );
  return page!;
}

/** The moves whose catalogs and code versions are kept, of all nodes or of one. */
function keptMoves(certname?: ReturnType<typeof sql>) {
  if (!certname) {
    return sql`
      select * from (
        select m.*, row_number() over (partition by certname order by id desc) as nth,
          row_number() over (partition by certname, cause = 'facts' order by id desc) as nth_of_its_kind
        from pointer_move m) ranked
      where nth <= ${COLLECT_MOVES_KEPT} or (cause <> 'facts' and nth_of_its_kind <= ${COLLECT_MOVES_KEPT})`;
  }
  return sql`
    (select * from pointer_move where certname = ${certname} order by id desc limit ${COLLECT_MOVES_KEPT})
    union all
    (select * from pointer_move where certname = ${certname} and cause <> 'facts'
      order by id desc limit ${COLLECT_MOVES_KEPT})`;
}

export interface DeadCodeVersion {
  id: CodeVersionHash;
  /** The newest pointer move when this was found. */
  lastMove: number;
}

/**
 * Code versions that no environment has as its newest or released one, no node as its released one, none of the latest
 * deploys of an environment made, and no trial or kept pointer move names.
 */
export async function selectDeadCodeVersions(db: Queries, createdBefore: Date): Promise<DeadCodeVersion[]> {
  return rows(
    sql<DeadCodeVersion>`
      with kept_move as (${keptMoves()}), live as (
        select code_version as id from environment
        union select released_code_version from environment
        union select released_code_version from node
        union select code_version from (${latestDeploys}) latest
        union select code_version from trial
        union select code_version from kept_move
        union select previous_code_version from kept_move
      )
      select id, (select coalesce(max(id), 0) from pointer_move) as "lastMove" from code_version
      where created_at < ${createdBefore} and not exists (select from live where live.id = code_version.id)
      order by created_at`,
    db,
  );
}

const latestDeploys = sql`
  select code_version from (
    select code_version, row_number() over (partition by environment order by created_at desc) as nth
    from deploy where state = 'done' and not trial) done
  where nth <= ${COLLECT_DEPLOYS_KEPT}`;

/** Whether it is dead still, as seen by a transaction that keeps storers out; looks only at what can have changed since. */
export async function isCodeVersionDead(tx: Transaction, id: CodeVersionHash, lastMove: number): Promise<boolean> {
  const found = await row(
    sql<{ live: boolean }>`
      select exists (select from environment where code_version = ${id} or released_code_version = ${id})
        or exists (select from node where released_code_version = ${id})
        or exists (select from (${latestDeploys}) latest where code_version = ${id})
        or exists (select from trial where code_version = ${id})
        or exists (select from pointer_move
          where pointer_move.id > ${lastMove} and (code_version = ${id} or previous_code_version = ${id})) as live`,
    tx,
  );
  return !found!.live;
}

export async function forgetCompiled(tx: Transaction, codeVersion: CodeVersionHash, max: number): Promise<number> {
  const gone = await rows(
    sql`
      delete from compiled where ctid = any(array(
        select ctid from compiled where code_version = ${codeVersion} limit ${max}))
      returning 1`,
    tx,
  );
  return gone.length;
}

/** The row, and its plugin tree's references unless another code version has the same plugins. Deploys only lose its name. */
export async function forgetCodeVersion(tx: Transaction, id: CodeVersionHash): Promise<void> {
  await sql`update deploy set code_version = null where code_version = ${id}`.execute(tx);
  await sql`
    with gone as (delete from code_version where id = ${id} returning plugins)
    delete from content_reference using gone
    where holder = gone.plugins
      and not exists (select from code_version other where other.plugins = gone.plugins and other.id <> ${id})`.execute(
    tx,
  );
}

export async function selectCodeVersions(db: Queries): Promise<CodeVersionHash[]> {
  return (await rows(sql<{ id: CodeVersionHash }>`select id from code_version`, db)).map(({ id }) => id);
}

/**
 * Catalogs that are neither released to a node, nor the last compile under a code version that is kept, nor named by a kept
 * move of their node; with their references. A page after `after` in the order of ids.
 */
export async function forgetCatalogs(
  tx: Transaction,
  after: string,
  createdBefore: Date,
  max: number,
): Promise<ForgottenPage> {
  const page = await row(
    sql<ForgottenPage>`
      with page as (
        select id, certname, created_at from catalog where id > ${after} order by id limit ${max}
      ), gone as (
        select id from page
        where created_at < ${createdBefore}
          and not exists (select from node where released_catalog = page.id)
          and not exists (select from compiled where compiled.catalog = page.id)
          and not exists (select from (${keptMoves(sql`page.certname`)}) kept
            where page.id in (kept.catalog, kept.previous_catalog))
      ), unreferenced as (
        delete from content_reference using gone where holder = gone.id
      ), forgotten as (
        delete from catalog using gone where catalog.id = gone.id returning 1
      )
      select (select count(*) from forgotten)::int as forgotten, (select max(id) from page) as last`,
    tx,
  );
  return page!;
}

/**
 * Entries of the facts' history older than `since` but the latest of each node, and documents that nothing names then. A page
 * of documents after `after`. A submission that meets a document just forgotten fails on its foreign key and comes again.
 */
export async function forgetFacts(
  db: Queries,
  after: string,
  since: Date,
  createdBefore: Date,
  max: number,
): Promise<ForgottenPage> {
  await sql`
    delete from fact_history where (certname, at) in (
      select certname, at from fact_history h
      where at < ${since}
        and exists (select from fact_history later where later.certname = h.certname and later.at > h.at)
      order by at limit ${max})`.execute(db);
  const page = await row(
    sql<ForgottenPage>`
      with page as (
        select hash, created_at from fact_document where hash > ${after} order by hash limit ${max}
      ), gone as (
        delete from fact_document d using page
        where d.hash = page.hash and page.created_at < ${createdBefore}
          and not exists (select from node where facts = page.hash)
          and not exists (select from fact_history where facts = page.hash)
          and not exists (select from compile where facts = page.hash)
        returning 1
      )
      select (select count(*) from gone)::int as forgotten, (select max(hash) from page) as last`,
    db,
  );
  return page!;
}

/** Those of `contents` that a catalog or a plugin tree names. */
export async function selectReferenced(db: Queries, contents: ContentHash[]): Promise<ContentHash[]> {
  const found = await rows(
    sql<{ content: ContentHash }>`
      select content from unnest(${contents}::text[]) as listed (content)
      where exists (select from content_reference r where r.content = listed.content)`,
    db,
  );
  return found.map(({ content }) => content);
}
