/**
 * The facts room's statements, each for a batch of nodes in which none stands twice. Rows of `node` are locked first and in the
 * order of their certnames, documents after that in the order of their hashes, so that batches wait for one another in turn.
 */
import { type RawBuilder, sql } from 'kysely';
import type { Certname } from '../model/ids.ts';
import { type Queries, rows, type Transaction } from '../postgres/database.ts';

/** A node says that its facts still are the ones with this hash. */
export interface Renewal {
  certname: Certname;
  /** The hash of the stable document. */
  facts: string;
  environment: string;
  /** Its certificate's extensions as JSON text, see `extensionsText`. */
  extensions: string;
}

/** A node sends its facts. */
export interface Submission extends Renewal {
  stable: string;
  volatile: string;
}

/** What a submission changed of what compiles start from. */
export interface Change {
  certname: Certname;
  facts_changed: boolean;
  environment_changed: boolean;
  extensions_changed: boolean;
}

/**
 * Stores whole submissions: the document, the node's row, and a line of history when the hash is another than before. All in
 * one statement: its parts see the rows as they were before, locked, so that two submissions of one node follow one another.
 *
 * A node's `environment` is the ENC's to say; it follows what the node asks for only when the node asks for another one.
 */
export function storeSubmissions(tx: Transaction, batch: Submission[]): Promise<Change[]> {
  return rows(
    sql<Change>`
      with submitted as materialized (
        select * from unnest(
          ${batch.map((one) => one.certname)}::text[], ${batch.map((one) => one.facts)}::text[],
          ${batch.map((one) => one.environment)}::text[], ${batch.map((one) => one.extensions)}::text[],
          ${joined(batch.map((one) => one.stable))}, ${joined(batch.map((one) => one.volatile))}
        ) as submitted (certname, facts, environment, extensions, stable, volatile)
      ), previous as materialized (
        select node.certname, node.facts, node.requested_environment, node.trusted_extensions::text as extensions
        from node where certname in (select certname from submitted)
        order by node.certname for no key update
      ), changed as materialized (
        select submitted.*,
          previous.facts is distinct from submitted.facts as facts_changed,
          coalesce(previous.requested_environment <> submitted.environment, false) as environment_changed,
          coalesce(previous.extensions <> submitted.extensions, false) as extensions_changed
        from submitted left join previous using (certname)
      ), document as (
        insert into fact_document (hash, document)
        select distinct on (facts) facts, stable from changed where facts_changed order by facts
        on conflict (hash) do nothing
      ), stored as (
        insert into node (certname, environment, requested_environment, trusted_extensions, facts, volatile_facts, facts_at)
        select certname, environment, environment, extensions::json, facts, volatile, now() from changed order by certname
        on conflict (certname) do update set
          environment = case when node.requested_environment = excluded.requested_environment
                             then node.environment else excluded.environment end,
          requested_environment = excluded.requested_environment,
          trusted_extensions = excluded.trusted_extensions,
          facts = excluded.facts,
          volatile_facts = excluded.volatile_facts,
          facts_at = excluded.facts_at
      ), history as (
        insert into fact_history (certname, at, facts)
        select certname, clock_timestamp(), facts from changed where facts_changed
      )
      select certname, facts_changed, environment_changed, extensions_changed from changed order by certname
    `,
    tx,
  );
}

/** Renews those nodes of which nothing changed, whose facts, environment and extensions are the stored ones; gives their names. */
export async function renewUnchanged(db: Queries, batch: Renewal[]): Promise<Certname[]> {
  const renewed = await rows<{ certname: Certname }>(
    sql`
      update node set facts_at = now()
      from (
        select node.certname
        from node join ${renewals(batch)} using (certname)
        where node.facts = submitted.facts
          and node.requested_environment = submitted.environment
          and node.trusted_extensions::text = submitted.extensions
        order by node.certname
        for no key update of node
      ) as unchanged
      where node.certname = unchanged.certname
      returning node.certname
    `,
    db,
  );
  return renewed.map(({ certname }) => certname);
}

/**
 * Renews nodes whose facts are the stored ones, but which ask for another environment or show another certificate. They come
 * in the order of their certnames, which is the order in which a deploy queues an environment's compiles.
 */
export function renewMoved(tx: Transaction, batch: Renewal[]): Promise<Change[]> {
  return rows(
    sql<Change>`
      with renewed as (
        update node set
          facts_at = now(),
          environment = case when moved.environment_changed then moved.environment else node.environment end,
          requested_environment = moved.environment,
          trusted_extensions = moved.extensions::json
        from (
          select node.certname, submitted.environment, submitted.extensions,
            node.requested_environment <> submitted.environment as environment_changed,
            node.trusted_extensions::text <> submitted.extensions as extensions_changed
          from node join ${renewals(batch)} using (certname)
          where node.facts = submitted.facts
          order by node.certname
          for no key update of node
        ) as moved
        where node.certname = moved.certname
        returning node.certname, false as facts_changed, moved.environment_changed, moved.extensions_changed
      )
      select * from renewed order by certname
    `,
    tx,
  );
}

function renewals(batch: Renewal[]): RawBuilder<unknown> {
  return sql`unnest(
    ${batch.map((one) => one.certname)}::text[], ${batch.map((one) => one.facts)}::text[],
    ${batch.map((one) => one.environment)}::text[], ${batch.map((one) => one.extensions)}::text[]
  ) as submitted (certname, facts, environment, extensions)`;
}

/**
 * JSON documents as one parameter. In an array's text every quote of theirs would be escaped here and unescaped there; the
 * control character U+0001 cannot stand in JSON, so it parts them with no more work than a copy.
 */
function joined(documents: string[]): RawBuilder<unknown> {
  return sql`string_to_array(${documents.join('\u0001')}::text, ${'\u0001'})`;
}
