/**
 * Work that must not be lost is a job row of graphile-worker, written in the same transaction as the state that makes it
 * necessary. A job says which thing to look at, never what to do with it: its handler reads the whole state anew and is
 * safe to run twice. Jobs with the same key are one job.
 */
import { sql } from 'kysely';
import type { Queries } from './database.ts';

/** Lower runs sooner. */
export const PRIORITY = { interactive: 0, release: 10, facts: 20, background: 30 } as const;

export interface JobOptions {
  /** Jobs with the same key coalesce; one that already runs is followed by one more. */
  key: string;
  priority: number;
  /** How often a job whose handler throws is tried in all; waits grow exponentially. */
  attemptsMax?: number;
}

/** Payload of each job, by its name. */
export interface Jobs {
  deploy: { deploy: string };
  compile: { certname: string; environment: string; code_version: string; trigger: string };
  collect: Record<string, never>;
  housekeeping: Record<string, never>;
}

export type JobHandlers = {
  [Name in keyof Jobs]?: (
    payload: Jobs[Name],
    context: { signal: AbortSignal; attempt: number; lastAttempt: boolean },
  ) => Promise<void>;
};

export async function enqueue<Name extends keyof Jobs>(
  db: Queries,
  name: Name,
  payload: Jobs[Name],
  options: JobOptions,
): Promise<void> {
  await sql`
    select graphile_worker.add_job(
      ${name}::text, payload => ${JSON.stringify(payload)}::json, job_key => ${options.key}::text,
      priority => ${options.priority}::int, max_attempts => ${options.attemptsMax ?? 5}::int)
  `.execute(db);
}
