/** Compares the book of what was acknowledged with what is there in the end. Each difference is a finding, as a sentence. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type pg from 'pg';
import { catalogKeys, openSealed, unzipped } from '../../src/catalog/seal.ts';
import { openDiskContent } from '../../src/content/disk.ts';
import { catalogContents, checkedCatalogId } from '../../src/model/catalog.ts';
import type { CatalogHash } from '../../src/model/ids.ts';
import type { Book } from './load.ts';
import { ENVIRONMENT, type Stage } from './stage.ts';

export async function audit(stage: Stage, database: pg.Client, book: Book): Promise<string[]> {
  return [
    ...(await auditFacts(database, book)),
    ...(await auditCompiles(database, book)),
    ...(await auditReleases(database, book)),
    ...(await auditEvents(database, book)),
    ...(await auditCatalogs(stage, database, book)),
  ];
}

async function auditFacts(database: pg.Client, book: Book): Promise<string[]> {
  const findings: string[] = [];
  for (const [certname, hashes] of book.facts) {
    const { rows } = await database.query('select facts from fact_history where certname = $1 order by at', [certname]);
    const history = new Set(rows.map((row) => row.facts));
    for (const hash of hashes) if (!history.has(hash)) findings.push(`facts ${hash} of ${certname} are lost`);
    const { rows: nodes } = await database.query('select facts from node where certname = $1', [certname]);
    if (nodes[0]?.facts !== hashes.at(-1))
      findings.push(`${certname} has the facts ${nodes[0]?.facts}, not the last acknowledged`);
  }
  const { rows } = await database.query(
    `select count(*)::int as broken from fact_document where hash <> encode(sha256(convert_to(document, 'UTF8')), 'hex')`,
  );
  if (rows[0].broken > 0) findings.push(`${rows[0].broken} facts documents are not what their hash says`);
  return findings;
}

/** Each node is compiled from its last facts under the newest code, and every compile that was ever shown is still there. */
async function auditCompiles(database: pg.Client, book: Book): Promise<string[]> {
  const { rows: stale } = await database.query(
    `select node.certname, node.facts, compile.facts as compiled_facts, compiled.catalog
     from node join environment on environment.name = node.environment
     left join compiled on compiled.certname = node.certname and compiled.environment = node.environment
       and compiled.code_version = environment.code_version
     left join compile on compile.id = compiled.compile
     where node.environment = $1
       and (compiled.catalog is null or compile.facts is distinct from node.facts)`,
    [ENVIRONMENT],
  );
  const findings = stale.map(
    (row) =>
      `${row.certname} with the facts ${row.facts} has the candidate ${row.catalog} of the facts ${row.compiled_facts}`,
  );
  const { rows: known } = await database.query('select id from compile where id = any($1)', [[...book.compiles]]);
  const there = new Set(known.map((row) => row.id));
  for (const id of book.compiles) if (!there.has(id)) findings.push(`compile ${id} is lost`);
  return findings;
}

async function auditReleases(database: pg.Client, book: Book): Promise<string[]> {
  const findings: string[] = [];
  const { rows: releases } = await database.query('select id from release');
  const there = new Set(releases.map((row) => row.id));
  for (const id of book.releases) if (!there.has(id)) findings.push(`release ${id} is lost`);
  const { rows: deploys } = await database.query('select id, state from deploy');
  const states = new Map(deploys.map((row) => [row.id, row.state]));
  for (const id of book.deploys) {
    if (!['done', 'superseded'].includes(states.get(id))) findings.push(`deploy ${id} is ${states.get(id) ?? 'lost'}`);
  }
  // A pointer is where its last move took it.
  const { rows: strayed } = await database.query(
    `select certname, released_catalog from node
     join lateral (
       select catalog, code_version from pointer_move where pointer_move.certname = node.certname order by id desc limit 1
     ) as last on true
     where last.catalog <> released_catalog or last.code_version <> released_code_version`,
  );
  for (const row of strayed) findings.push(`the pointer of ${row.certname} is not where its last move took it`);
  return findings;
}

async function auditEvents(database: pg.Client, book: Book): Promise<string[]> {
  const findings: string[] = [];
  for (const [id, run] of book.runs) {
    const { rows } = await database.query(
      'select sequence, kind, data from run_event where run = $1 order by sequence',
      [id],
    );
    for (let sequence = 1; sequence <= run.acknowledged; sequence += 1) {
      const sent = JSON.parse(run.lines[sequence - 1]!);
      const stored = rows[sequence - 1];
      const isSame = stored?.sequence === sequence && stored.kind === sent.kind;
      if (!isSame || JSON.stringify(stored.data) !== JSON.stringify(sent.data)) {
        findings.push(`event ${sequence} of run ${id} is lost or another`);
      }
    }
    if (rows.length > run.lines.length) findings.push(`run ${id} has ${rows.length} events of ${run.lines.length}`);
  }
  // Of every run, the real node's too: no gap, no end without its status.
  const { rows: broken } = await database.query(
    `select run.id, run.certname, run.last_sequence, count(run_event.run)::int as stored, max(run_event.sequence) as highest
     from run left join run_event on run_event.run = run.id and run_event.day = run.day
     group by run.id
     having count(run_event.run) <> coalesce(max(run_event.sequence), 0) or max(run_event.sequence) <> run.last_sequence`,
  );
  for (const row of broken)
    findings.push(`run ${row.id} of ${row.certname} has ${row.stored} events up to ${row.highest}`);
  return findings;
}

/** Every stored catalog can be opened, is what its id says, and has all its content, undamaged. */
async function auditCatalogs(stage: Stage, database: pg.Client, book: Book): Promise<string[]> {
  const findings: string[] = [];
  const keys = await catalogKeys({ file: join(stage.state, 'catalog.key'), make: false });
  const content = await openDiskContent({ directory: join(stage.state, 'content') });
  const { rows } = await database.query<{ id: CatalogHash; document: Buffer }>('select id, document from catalog');
  const there = new Set<string>(rows.map((row) => row.id));
  for (const id of book.catalogs) if (!there.has(id)) findings.push(`catalog ${id} was served and is lost`);
  const contents = new Set<string>();
  for (const { id, document } of rows) {
    try {
      const opened = await unzipped(openSealed(keys, id, document));
      if (checkedCatalogId(opened) !== id) throw new Error('has another id inside');
      for (const hash of catalogContents(opened)) contents.add(hash);
    } catch (error) {
      findings.push(`catalog ${id}: ${(error as Error).message}`);
    }
  }
  for (const hash of contents) {
    try {
      await content.read(hash as never);
    } catch (error) {
      findings.push(`content ${hash} that a catalog names: ${(error as Error).message}`);
    }
  }
  return findings;
}

/** What the real node's files say, against the code and facts of the catalog that is released to it. */
export async function managedState(stage: Stage): Promise<string> {
  return readFile(join(stage.managed, 'state'), 'utf8').catch(() => '');
}
