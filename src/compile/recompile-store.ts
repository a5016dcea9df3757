/** The statements about compiles that nobody's change asks for. */
import { sql } from 'kysely';
import { type Queries, row, rows, type Transaction } from '../postgres/database.ts';
import type { Jobs } from '../postgres/queue.ts';
import type { Skipped } from './sample.ts';
import { wantedCompiles } from './store.ts';

export interface DueRow {
  certname: string;
  environment: string;
  code_version: string;
}

/** Rows of `compiled` that somebody wants, each with its compile. */
const WANTED = sql`
  compiled
  join compile on compile.id = compiled.compile
  join (${wantedCompiles()}) as wanted on (wanted.certname, wanted.environment, wanted.code_version)
    = (compiled.certname, compiled.environment, compiled.code_version)
`;

/** Volatile catalogs that somebody wants and whose last compile is older than their environment's interval. */
export function volatileDue(db: Queries): Promise<DueRow[]> {
  return rows(
    sql<DueRow>`
      select compiled.certname, compiled.environment, compiled.code_version
      from ${WANTED}
      join environment on environment.name = compiled.environment
      where compiled.volatile and compile.finished_at < now() - environment.recompile_minutes * interval '1 minute'
      order by compile.finished_at
      limit 10000
    `,
    db,
  );
}

/** Wanted catalogs that were compiled on another base than this. */
export function rowsOfOtherBase(db: Queries, base: string): Promise<DueRow[]> {
  return rows(
    sql<DueRow>`
      select compiled.certname, compiled.environment, compiled.code_version
      from ${WANTED}
      where compile.base is distinct from ${base}
      order by compile.finished_at
      limit 10000
    `,
    db,
  );
}

/** What any wanted catalog read outside of its code, as JSON texts. */
export async function outsideThings(db: Queries): Promise<string[]> {
  const found = await rows<{ outside: string }>(
    sql`
      select distinct compile.outside::text as outside
      from ${WANTED}
      where compile.outside is not null
    `,
    db,
  );
  return found.map(({ outside }) => outside);
}

export function rowsWithOutside(db: Queries, outside: string): Promise<DueRow[]> {
  return rows(
    sql<DueRow>`
      select compiled.certname, compiled.environment, compiled.code_version
      from ${WANTED}
      where compile.outside::text = ${outside}
    `,
    db,
  );
}

export function skippedRows(
  db: Queries,
  environment: string,
  codeVersion: string,
  certnames: string[],
): Promise<Skipped[]> {
  return rows(
    sql<Skipped>`
      select compiled.certname, compiled.environment, compiled.code_version, compiled.catalog, environment.audit_share as share
      from compiled join environment on environment.name = compiled.environment
      where compiled.environment = ${environment} and compiled.code_version = ${codeVersion}
        and compiled.certname = any(${certnames}::text[])
    `,
    db,
  );
}

/** What an audit compares: undefined where another catalog stands there by now. */
export interface Standing {
  compile: string;
  facts: string;
  extensions: string;
  enc: string | null;
}

export function standing(db: Queries, audited: Jobs['audit']): Promise<Standing | undefined> {
  return row(
    sql<Standing>`
      select compiled.compile, node.facts, node.trusted_extensions::text as extensions,
        case when compiled.enc_hash is not null then enc_answer.answer end as enc
      from compiled
      join node using (certname)
      left join enc_answer using (certname)
      where compiled.certname = ${audited.certname} and compiled.environment = ${audited.environment}
        and compiled.code_version = ${audited.code_version} and compiled.catalog = ${audited.expected}
        and compiled.facts = node.facts and compiled.enc_hash is not distinct from
          case when compiled.enc_hash is not null then enc_answer.hash end
    `,
    db,
  );
}

export async function insertAudit(tx: Transaction, audited: Jobs['audit'], found: string | null): Promise<void> {
  await sql`
    insert into skip_audit (certname, environment, code_version, expected, found)
    values (${audited.certname}, ${audited.environment}, ${audited.code_version}, ${audited.expected}, ${found})
  `.execute(tx);
}
