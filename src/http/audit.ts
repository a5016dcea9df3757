/**
 * Who asked for a change, and what became of it. A change that an operator asked for is in the log before its answer leaves,
 * refused ones included. Rows are only ever added.
 */
import { sql } from 'kysely';
import { Type } from 'typebox';
import { PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX } from '../model/limits.ts';
import { type Database, type Queries, rows } from '../postgres/database.ts';
import type { Routes } from './app.ts';

export interface AuditEntry {
  operator: string;
  /** Method and route, or the command that was run on the server's machine. */
  action: string;
  /** The path without its query. */
  target: string;
  address: string;
  /** The HTTP status of the answer. */
  status: number;
}

/** Writes one entry. */
export type Audit = (entry: AuditEntry) => Promise<void>;

export async function insertAudit(db: Queries, entry: AuditEntry): Promise<void> {
  await sql`
    insert into audit (operator, action, target, address, status)
    values (${entry.operator}, ${entry.action}, ${entry.target}, ${entry.address}, ${entry.status})
  `.execute(db);
}

type AuditRow = AuditEntry & { id: number; at: Date };

/** Entries older than `before` (an id), newest first. */
export async function selectAudit(
  db: Queries,
  { before, limit, operator }: { before: number | undefined; limit: number; operator: string | undefined },
): Promise<AuditRow[]> {
  return rows(
    sql<AuditRow>`
      select id, at, operator, action, target, address, status from audit
      where (${before ?? null}::bigint is null or id < ${before ?? null})
        and (${operator ?? null}::text is null or operator = ${operator ?? null})
      order by id desc limit ${limit}
    `,
    db,
  );
}

export function auditRoutes({ db }: { db: Database }): Routes {
  return (app) => {
    app.get(
      '/api/v1/audit',
      {
        config: { access: 'admin' },
        schema: {
          summary: 'What operators asked for, newest first',
          querystring: Type.Object(
            {
              limit: Type.Integer({ minimum: 1, maximum: PAGE_ROWS_MAX, default: PAGE_ROWS_DEFAULT }),
              before: Type.Optional(Type.Integer({ minimum: 1, description: 'The `next` of the page before' })),
              operator: Type.Optional(Type.String()),
            },
            { additionalProperties: false },
          ),
          response: {
            200: Type.Object({
              entries: Type.Array(
                Type.Object({
                  id: Type.Integer(),
                  at: Type.String({ format: 'date-time' }),
                  operator: Type.String(),
                  action: Type.String(),
                  target: Type.String(),
                  address: Type.String(),
                  status: Type.Integer(),
                }),
              ),
              next: Type.Union([Type.Integer(), Type.Null()], { description: 'Where the next page begins' }),
            }),
          },
        },
      },
      async (request) => {
        const { before, limit, operator } = request.query;
        const found = await selectAudit(db, { before, limit, operator });
        return {
          entries: found.map((entry) => ({ ...entry, at: entry.at.toISOString() })),
          next: found.length === limit ? found.at(-1)!.id : null,
        };
      },
    );
  };
}
