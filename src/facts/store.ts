/** The facts room's statements. Rows of `node` are locked in the order of their certnames wherever there are several. */
import { sql } from 'kysely';
import type { SplitFacts } from '../model/facts.ts';
import type { Certname } from '../model/ids.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';
import type { Renewal } from './renewals.ts';

/** What a node's row said before a submission; undefined for a node never seen. */
export interface Before {
  facts: string | null;
  requested_environment: string;
  extensions: string;
}

/**
 * Stores a whole submission: the document, the node's row, and a line of history when the hash is another than before. All in
 * one statement: its parts see the node's row as it was before, locked, so two submissions of one node follow one another.
 *
 * A node's `environment` is the ENC's to say; it follows what the node asks for only when the node asks for another one.
 */
export async function storeFacts(
  tx: Transaction,
  certname: Certname,
  facts: SplitFacts,
  environment: string,
  extensions: string,
): Promise<Before | undefined> {
  const found = await row<{ [Name in keyof Before]: Before[Name] | null }>(
    sql`
      with previous as materialized (
        select facts, requested_environment, trusted_extensions::text as extensions
        from node where certname = ${certname} for no key update
      ), document as (
        insert into fact_document (hash, document) values (${facts.hash}, ${facts.stable}) on conflict (hash) do nothing
      ), stored as (
        insert into node (certname, environment, requested_environment, trusted_extensions, facts, volatile_facts, facts_at)
        select ${certname}, ${environment}, ${environment}, ${extensions}::json, ${facts.hash}, ${facts.volatile}, now()
        from (values (1)) as one left join previous on true
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
        select ${certname}, clock_timestamp(), ${facts.hash}
        where (select facts from previous) is distinct from ${facts.hash}
      )
      select facts, requested_environment, extensions from (values (1)) as one left join previous on true
    `,
    tx,
  );
  return found?.requested_environment == null ? undefined : (found as Before);
}

/** Renews those nodes of which nothing changed, whose facts, environment and extensions are the stored ones; gives their names. */
export async function renewUnchanged(db: Queries, batch: Renewal[]): Promise<Certname[]> {
  const renewed = await rows<{ certname: Certname }>(
    sql`
      update node set facts_at = now()
      from (
        select node.certname
        from node join ${submitted(batch)} using (certname)
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

/** Renews nodes whose facts are the stored ones, but which ask for another environment or show another certificate. */
export async function renewMoved(
  tx: Transaction,
  batch: Renewal[],
): Promise<{ certname: Certname; environment_changed: boolean; extensions_changed: boolean }[]> {
  return rows(
    sql`
      update node set
        facts_at = now(),
        environment = case when moved.environment_changed then moved.environment else node.environment end,
        requested_environment = moved.environment,
        trusted_extensions = moved.extensions::json
      from (
        select node.certname, submitted.environment, submitted.extensions,
          node.requested_environment <> submitted.environment as environment_changed,
          node.trusted_extensions::text <> submitted.extensions as extensions_changed
        from node join ${submitted(batch)} using (certname)
        where node.facts = submitted.facts
        order by node.certname
        for no key update of node
      ) as moved
      where node.certname = moved.certname
      returning node.certname, moved.environment_changed, moved.extensions_changed
    `,
    tx,
  );
}

function submitted(batch: Renewal[]) {
  return sql`unnest(
    ${batch.map((one) => one.certname)}::text[], ${batch.map((one) => one.facts)}::text[],
    ${batch.map((one) => one.environment)}::text[], ${batch.map((one) => one.extensions)}::text[]
  ) as submitted (certname, facts, environment, extensions)`;
}
