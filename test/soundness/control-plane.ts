/** The parts of the control plane that decide what is compiled and compile it: real ones, with a real PostgreSQL and real Puppet. */
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type pg from 'pg';
import { pino } from 'pino';
import { catalogStore } from '../../src/catalog/store.ts';
import { affectedJobs } from '../../src/compile/affected.ts';
import { classificationJobs } from '../../src/compile/classification-jobs.ts';
import { wantAsked } from '../../src/compile/classification-store.ts';
import { type CompileJobsDeps, compileJobs, compileRequest } from '../../src/compile/jobs.ts';
import { CompilePool } from '../../src/compile/pool.ts';
import { queueChangedNodes, queueCompiles, queueNodeCompiles } from '../../src/compile/queue.ts';
import { recompileJobs } from '../../src/compile/recompile.ts';
import type { CompileRequest, CompileResult } from '../../src/compile/request.ts';
import { readInputs } from '../../src/compile/store.ts';
import { type DiskContent, openDiskContent } from '../../src/content/disk.ts';
import { guardContent } from '../../src/content/guard.ts';
import { type FactsIntake, factsIntake } from '../../src/facts/submission.ts';
import { servedCatalog } from '../../src/model/catalog.ts';
import { extensionsText, splitFacts } from '../../src/model/facts.ts';
import type { CatalogHash, Certname, CodeVersionHash, ContentHash } from '../../src/model/ids.ts';
import { treeHash, writeTree } from '../../src/model/tree.ts';
import type { Database } from '../../src/postgres/database.ts';
import type { JobHandlers, Jobs } from '../../src/postgres/queue.ts';
import { afterCarryOver, afterCompile } from '../../src/release/pointers.ts';
import { CodeDirectories } from './code-directories.ts';
import type { Outcome } from './oracle.ts';
import { ABOUT, type CodeFile, type Machine, treeOf } from './world.ts';

const COMPILES_AT_ONCE = 2;
export const SERVER_FACTS = { servername: 'callboard', serverip: '192.0.2.1' };

export class ControlPlane {
  readonly compilers = new CompilePool({ ruby: 'ruby', certname: 'callboard', concurrency: 2, interpretersMax: 6 });
  readonly directories: CodeDirectories;
  /** Lines of its log that are errors. */
  readonly errors: Record<string, unknown>[] = [];
  readonly audits: string[] = [];
  readonly #pool: pg.Pool;
  readonly #db: Database;
  readonly #content: DiskContent;
  readonly #catalogs: ReturnType<typeof catalogStore>;
  readonly #intake: FactsIntake;
  readonly #handlers: JobHandlers;
  readonly #enc = new Map<string, string>();
  readonly #stored = new Set<string>();
  readonly #compiling: CompileJobsDeps;
  /** The code that was deployed last. */
  version = '' as CodeVersionHash;

  static async open(at: { pool: pg.Pool; db: Database; directory: string }): Promise<ControlPlane> {
    const content = await openDiskContent({ directory: join(at.directory, 'content'), fsync: false });
    const plane = new ControlPlane(at, content);
    await at.pool.query(
      "insert into environment (name, code_policy, audit_share, enc_command) values ('production', 'auto', 0, '/classifier')",
    );
    await plane.compilers.start();
    return plane;
  }

  private constructor(
    { pool, db, directory }: { pool: pg.Pool; db: Database; directory: string },
    content: DiskContent,
  ) {
    this.#pool = pool;
    this.#db = db;
    this.#content = content;
    this.directories = new CodeDirectories(join(directory, 'code'));
    this.#catalogs = catalogStore({
      keys: { sealing: 1, keys: new Map([[1, randomBytes(32)]]) },
      guardContent: (tx, hashes) => guardContent(tx, content, hashes),
    });
    this.#intake = factsIntake(db, { queueCompiles, queueChangedNodes });
    const logger = pino({ level: 'error' }, { write: (line) => this.errors.push(JSON.parse(line)) });
    this.#compiling = {
      db,
      logger,
      pool: this.compilers,
      content,
      serverFacts: SERVER_FACTS,
      codeDirectory: async (version) => this.directories.directory(version),
      base: async () => 'the base',
      askEnc: async (_command, certname) => {
        const answer = this.#enc.get(certname)!;
        return { answer, environment: undefined, hash: createHash('sha256').update(answer).digest('hex') };
      },
      storeCatalog: this.#catalogs.storeCatalog,
      afterCompile,
    };
    this.#handlers = {
      ...compileJobs(this.#compiling),
      ...affectedJobs({ ...this.#compiling, content, ruby: 'ruby', afterCarryOver }),
      ...classificationJobs(this.#compiling),
      ...recompileJobs({ ...this.#compiling, onAudit: (outcome) => void this.audits.push(outcome) }),
    };
  }

  close(): Promise<void> {
    return this.compilers.close();
  }

  /** A new code version, to the point where it is known which nodes it concerns. */
  async deploy(files: ReadonlyMap<string, CodeFile>): Promise<void> {
    const { entries, about } = treeOf(files);
    const manifest = writeTree(entries);
    this.version = treeHash(manifest) as CodeVersionHash;
    const whole = new Map([...files, [ABOUT, about]]);
    await this.directories.lay(this.version, whole);
    await this.#put(this.version, manifest);
    for (const file of whole.values()) if ('bytes' in file) await this.#put(file.hash, file.bytes);
    await this.#pool.query("insert into code_version values ($1, 'plugins', 1, 1, now()) on conflict do nothing", [
      this.version,
    ]);
    await this.#pool.query(
      `insert into deploy (environment, repo, ref, code_version, state, requested_by, finished_at)
       values ('production', 'repo', 'main', $1, 'done', 'test', clock_timestamp())`,
      [this.version],
    );
    await this.#pool.query("update environment set code_version = $1 where name = 'production'", [this.version]);
    await this.run('affected', {
      environment: 'production',
      code_version: this.version,
      trigger: 'deployed',
      deploy: null,
    });
  }

  async #put(hash: string, bytes: Buffer): Promise<void> {
    if (this.#stored.has(hash)) return;
    await this.#content.put(hash as ContentHash, bytes);
    this.#stored.add(hash);
  }

  /** A machine sends its facts and shows its certificate. */
  async submit({ certname, facts, extensions }: Machine): Promise<void> {
    const { hash, stable, volatile } = splitFacts(Buffer.from(JSON.stringify(facts)));
    await this.#intake.submit({
      certname: certname as Certname,
      facts: hash,
      stable,
      volatile,
      environment: 'production',
      extensions: extensionsText(extensions),
    });
  }

  /** The classifier's answers are other ones from now on. */
  classify(machines: Iterable<Machine>): void {
    for (const { certname, enc } of machines) this.#enc.set(certname, enc);
  }

  /** Somebody wants the classifier asked again about machines. */
  async classifyAgain(machines: Machine[]): Promise<void> {
    const certnames = machines.map((machine) => machine.certname as Certname);
    await this.#db.transaction().execute((tx) => wantAsked(tx, { certnames, environment: null }));
    await this.run('classify', {});
  }

  async queue(certnames: string[]): Promise<void> {
    await this.#db
      .transaction()
      .execute((tx) => queueNodeCompiles(tx, 'production', this.version, certnames as Certname[], 'asked for'));
  }

  run<Name extends keyof Jobs>(name: Name, payload: Jobs[Name]): Promise<void> {
    const handler = this.#handlers[name] as NonNullable<JobHandlers[Name]>;
    return handler(payload, { signal: new AbortController().signal, attempt: 1, lastAttempt: false });
  }

  /** Takes the jobs of a name from the queue. */
  async take<Name extends keyof Jobs>(name: Name): Promise<Jobs[Name][]> {
    const { rows } = await this.#pool.query(
      `delete from graphile_worker._private_jobs job using graphile_worker._private_tasks task
       where task.id = job.task_id and task.identifier = $1 returning job.payload`,
      [name],
    );
    return rows.map((row) => row.payload);
  }

  /**
   * Compiles what is queued. Gives the nodes whose catalogs under the newest code were, each with why. Catalogs under older code,
   * which nodes want whose new ones failed, are not looked at here.
   */
  async compileQueued(): Promise<Map<string, string>> {
    const compiled = new Map<string, string>();
    for (;;) {
      const jobs = (await this.take('compile')).filter((job) => job.code_version === this.version);
      if (jobs.length === 0) return compiled;
      const next = jobs.values();
      const work = async (): Promise<void> => {
        for (const job of next) {
          await this.run('compile', job);
          compiled.set(job.certname, job.trigger);
        }
      };
      await Promise.all(Array.from({ length: COMPILES_AT_ONCE }, work));
    }
  }

  /** What stands for each node under the newest code; undefined where nothing does that holds for its facts. */
  async outcomes(): Promise<Map<string, Outcome | undefined>> {
    const { rows } = await this.#pool.query(
      `select node.certname, compiled.catalog, compile.error ->> 'message' as error, compile.id
       from node
       left join compiled on compiled.certname = node.certname and compiled.environment = node.environment
         and compiled.code_version = $1 and compiled.facts = node.facts
         and compiled.extensions = node.trusted_extensions::text
       left join compile on compile.id = compiled.compile`,
      [this.version],
    );
    return new Map(
      rows.map((row) => [
        row.certname,
        row.id === null ? undefined : row.catalog ? { id: row.catalog } : { error: row.error },
      ]),
    );
  }

  /** Why what stands for the node is volatile; empty where it is not. */
  async volatile(certname: string): Promise<string> {
    const { rows } = await this.#pool.query(
      `select compile.volatile from compiled join compile on compile.id = compiled.compile
       where compiled.certname = $1 and compiled.code_version = $2`,
      [certname, this.version],
    );
    return JSON.stringify(rows.map((row) => row.volatile));
  }

  /** Compiles aside, and writes nothing. */
  async compileAside(certname: string): Promise<{ outcome: Outcome; result: CompileResult }> {
    const inputs = (await readInputs(this.#db, certname as Certname))!;
    const enc = this.#enc.get(certname)!;
    const request: CompileRequest = await compileRequest(
      this.#compiling,
      certname as Certname,
      this.version,
      inputs,
      enc,
    );
    const result = await this.compilers.compile(request);
    const outcome =
      result.status === 'compiled' ? { id: servedCatalog(result.canonical).id } : { error: result.error.message };
    return { outcome, result };
  }

  readCatalog(id: string): Promise<Buffer | undefined> {
    return this.#catalogs.readCatalog(this.#db, id as CatalogHash);
  }
}
