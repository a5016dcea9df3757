/** The statements of asking ENCs again. A node's row of `enc_answer` is due when somebody wants it asked, or by the clock. */
import { sql } from 'kysely';
import type { Certname } from '../model/ids.ts';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';

export interface NodeDue {
  certname: Certname;
  /** Where it is now. */
  environment: string;
  /** The database's clock: what somebody wants from here on is not answered by what is asked now. */
  now: Date;
}

/** Nodes whose ENC is to be asked: those that somebody wants asked first, then those not asked about for the longest time. */
export function nodesDue(db: Queries, limit: number): Promise<NodeDue[]> {
  return rows(
    sql<NodeDue>`
      select node.certname, node.environment, date_trunc('milliseconds', clock_timestamp()) as now
      from node
      join environment on environment.name = node.environment and environment.enc_command is not null
      left join enc_answer on enc_answer.certname = node.certname
      where node.facts is not null
        and (
          enc_answer.wanted_at > enc_answer.asked_at
          or environment.enc_interval_minutes > 0
            and coalesce(enc_answer.asked_at, node.created_at)
              <= now() - make_interval(mins => environment.enc_interval_minutes)
        )
      order by coalesce(enc_answer.wanted_at > enc_answer.asked_at, false) desc,
        coalesce(enc_answer.asked_at, node.created_at), node.certname
      limit ${limit}
    `,
    db,
  );
}

/** Makes nodes that have an ENC and facts due now; which they are. `certnames` null: all of the environment, or of every one. */
export function wantAsked(
  tx: Transaction,
  which: { certnames: readonly Certname[] | null; environment: string | null },
): Promise<{ certname: Certname }[]> {
  const certnames = which.certnames as Certname[] | null;
  return rows(
    sql<{ certname: Certname }>`
      insert into enc_answer (certname, asked_at, wanted_at)
      select node.certname, '-infinity', clock_timestamp()
      from node join environment on environment.name = node.environment
      where environment.enc_command is not null and node.facts is not null
        and (${certnames}::text[] is null or node.certname = any(${certnames}::text[]))
        and (${which.environment}::text is null or node.environment = ${which.environment})
      order by node.certname
      on conflict (certname) do update set wanted_at = excluded.wanted_at
      returning certname
    `,
    tx,
  );
}

/** They were asked about at `at`, and there is nothing to store: the answer is what it was, or none came. */
export async function markAsked(db: Queries, certnames: readonly Certname[], at: Date): Promise<void> {
  await sql`
    insert into enc_answer (certname, asked_at)
    select certname, ${at} from unnest(${certnames as Certname[]}::text[]) as certname order by certname
    on conflict (certname) do update set asked_at = greatest(enc_answer.asked_at, excluded.asked_at)
  `.execute(db);
}

/**
 * Whether an answer is the one that is stored, and the one that each of the node's wanted catalogs was compiled with: a compile
 * under one code version may have noticed a change that the others were compiled without.
 */
export async function isAnswerInUse(db: Queries, certname: Certname, hash: string): Promise<boolean> {
  const found = await row(
    sql<{ in_use: boolean }>`
      select exists (select from enc_answer where certname = ${certname} and hash = ${hash})
        and not exists (
          select from node
          join environment on environment.name = node.environment
          join compiled on compiled.certname = node.certname and compiled.environment = node.environment
            and compiled.code_version in
              (environment.code_version, environment.released_code_version, node.released_code_version)
          join compile on compile.id = compiled.compile
          where node.certname = ${certname} and compile.enc_hash is distinct from ${hash}
        ) as in_use
    `,
    db,
  );
  return found!.in_use;
}

/** Holds the node until the transaction ends. False: it is not where it was seen any more. */
export async function lockNode(tx: Transaction, certname: Certname, environment: string): Promise<boolean> {
  const held = await row(
    sql`select from node where certname = ${certname} and environment = ${environment} for no key update`,
    tx,
  );
  return held !== undefined;
}
