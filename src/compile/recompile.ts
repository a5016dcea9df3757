/**
 * Compiles that no change of code or facts asks for. The job `recompile` looks once a minute: volatile catalogs whose interval is
 * over are queued, those that read something outside of their code which is another now, and those of another Puppet or other
 * settings (base.ts). The job `audit` compiles a
 * skipped catalog all the same and compares: a difference means that a read set missed something, and that nobody may trust the
 * skips until it is found. It is told loudly, counted, kept, and the node compiled.
 */
import type { Logger } from 'pino';
import { servedCatalog } from '../model/catalog.ts';
import { parseCertname, parseCodeVersionHash } from '../model/ids.ts';
import type { Database } from '../postgres/database.ts';
import type { JobHandlers, Jobs } from '../postgres/queue.ts';
import { type CompileJobsDeps, compileRequest } from './jobs.ts';
import { isOutsideChanged } from './outside.ts';
import { queueNodeCompiles } from './queue.ts';
import * as store from './recompile-store.ts';
import { readInputs } from './store.ts';

export interface RecompileDeps extends Pick<CompileJobsDeps, 'pool' | 'codeDirectory' | 'serverFacts'> {
  db: Database;
  logger: Logger;
  base(): Promise<string>;
  /** Told of each audit; for metrics. */
  onAudit?(outcome: 'same' | 'different'): void;
}

export function recompileJobs(deps: RecompileDeps): JobHandlers {
  return {
    recompile: () => recompileDue(deps),
    audit: (payload, context) => audit(deps, payload, context.signal),
  };
}

async function recompileDue(deps: RecompileDeps): Promise<void> {
  const due = await store.volatileDue(deps.db);
  for (const [place, rows] of Map.groupBy(due, placeOf))
    await queue(deps.db, place, rows, 'volatile: its time has come');

  const others = await store.rowsOfOtherBase(deps.db, await deps.base());
  for (const [place, rows] of Map.groupBy(others, placeOf))
    await queue(deps.db, place, rows, 'another Puppet or other settings');

  for (const outside of await store.outsideThings(deps.db)) {
    if (!(await isOutsideChanged(JSON.parse(outside)))) continue;
    const rows = await store.rowsWithOutside(deps.db, outside);
    for (const [place, changed] of Map.groupBy(rows, placeOf))
      await queue(deps.db, place, changed, 'something outside the code changed');
  }
}

const placeOf = (row: store.DueRow): string => `${row.environment} ${row.code_version}`;

function queue(db: Database, place: string, rows: store.DueRow[], trigger: string): Promise<void> {
  const [environment, codeVersion] = place.split(' ') as [string, string];
  const certnames = rows.map((row) => parseCertname(row.certname));
  return db
    .transaction()
    .execute((tx) => queueNodeCompiles(tx, environment, parseCodeVersionHash(codeVersion), certnames, trigger));
}

async function audit(deps: RecompileDeps, payload: Jobs['audit'], signal: AbortSignal): Promise<void> {
  const certname = parseCertname(payload.certname);
  const codeVersion = parseCodeVersionHash(payload.code_version);
  const stands = (): Promise<store.Standing | undefined> => store.standing(deps.db, payload);
  const [inputs, before] = [await readInputs(deps.db, certname), await stands()];
  if (!inputs || !before || inputs.environment !== payload.environment) return;

  const request = await compileRequest(deps, certname, codeVersion, inputs, before.enc);
  const result = await deps.pool.compile({ ...request, apart: true }, signal);
  const found = result.status === 'compiled' ? servedCatalog(result.canonical).id : null;
  const after = await stands();
  // What was compiled is no longer what the skip was about.
  if (JSON.stringify(after) !== JSON.stringify(before)) return;
  const same = found === payload.expected;
  deps.onAudit?.(same ? 'same' : 'different');
  await deps.db.transaction().execute(async (tx) => {
    await store.insertAudit(tx, payload, found);
    if (!same)
      await queueNodeCompiles(
        tx,
        payload.environment,
        codeVersion,
        [certname],
        'an audit: its skipped compile differs',
      );
  });
  if (!same)
    deps.logger.error(
      { certname, environment: payload.environment, code_version: codeVersion, expected: payload.expected, found },
      'an unsound skip: a compile that was skipped gives another catalog',
    );
}
