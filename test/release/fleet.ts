/** A fleet in the database: environments, code versions, nodes with facts, and compiles that end as a test wants. */
import { createHash, randomUUID } from 'node:crypto';
import { CompiledQuery } from 'kysely';
import { catalogKeys } from '../../src/catalog/seal.ts';
import { catalogStore } from '../../src/catalog/store.ts';
import { servedCatalog } from '../../src/model/catalog.ts';
import type { CatalogHash, Certname, CodeVersionHash, EnvironmentName } from '../../src/model/ids.ts';
import type { Transaction } from '../../src/postgres/database.ts';
import { afterCompile, type CompileQueue } from '../../src/release/pointers.ts';
import type { FreshDatabase } from '../postgres/fresh.ts';

const keys = await catalogKeys({ text: Buffer.alloc(32, 1).toString('base64'), file: '', make: false });
/** These catalogs name no content, so there is nothing to guard. */
export const catalogs = catalogStore({ keys, guardContent: async () => {} });

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

export function fleet({ db, pool }: FreshDatabase) {
  /** What the compile room was asked to queue, in order. */
  const queued: string[] = [];
  const queue: CompileQueue = {
    queueCompiles: async (_tx, certname, trigger) => void queued.push(`${certname}: ${trigger}`),
    queueEnvironmentCompiles: async (_tx, environment, _codeVersion, trigger) =>
      void queued.push(`${environment}: ${trigger}`),
  };

  return {
    queue,
    queued,
    async environment(name: string, policies: { code?: string; facts?: string; run?: string } = {}): Promise<void> {
      await pool.query(
        `insert into environment (name, code_policy, facts_policy, run_policy) values ($1, $2, $3, $4)
         on conflict (name) do update set code_policy = $2, facts_policy = $3, run_policy = $4`,
        [name, policies.code ?? 'held', policies.facts ?? 'auto', policies.run ?? 'do'],
      );
    },
    /** A deployed code version, the newest of its environment. */
    async code(environment: string, label: string): Promise<CodeVersionHash> {
      const id = sha256(`code ${label}`);
      await pool.query(
        `insert into code_version (id, plugins, file_count, byte_count) values ($1, $2, 1, 1) on conflict do nothing`,
        [id, sha256(`plugins ${label}`)],
      );
      await pool.query(
        `insert into deploy (environment, repo, ref, commit, code_version, state, requested_by, finished_at)
         values ($1, 'repo', 'main', $2, $3, 'done', 'operator alice', now())`,
        [environment, sha256(`commit ${label}`).slice(0, 40), id],
      );
      await pool.query('update environment set code_version = $2 where name = $1', [environment, id]);
      return id as CodeVersionHash;
    },
    async node(certname: string, environment = 'production'): Promise<Certname> {
      await pool.query(`insert into fact_document (hash, document) values ($1, '{}') on conflict do nothing`, [
        sha256('facts 1'),
      ]);
      await pool.query(
        `insert into node (certname, environment, requested_environment, facts, facts_at) values ($1, $2, $2, $3, now())
         on conflict (certname) do update set environment = $2`,
        [certname, environment, sha256('facts 1')],
      );
      return certname as Certname;
    },
    async facts(certname: string, label: string): Promise<void> {
      await pool.query(`insert into fact_document (hash, document) values ($1, '{}') on conflict do nothing`, [
        sha256(`facts ${label}`),
      ]);
      await pool.query('update node set facts = $2 where certname = $1', [certname, sha256(`facts ${label}`)]);
    },
    /** A compile that ends with a catalog of this text, or with an error where the text is null; in one transaction, as the compile room does. */
    async compile(
      certname: string,
      codeVersion: CodeVersionHash,
      text: string | null,
      environment = 'production',
    ): Promise<{ catalog: CatalogHash | null; cause: string | undefined }> {
      const made = text === null ? undefined : catalogOf(certname, environment, text);
      return db.transaction().execute(async (tx) => {
        if (made) await catalogs.storeCatalog(tx, { ...made, contents: [] });
        const compile = randomUUID();
        await rawQuery(
          tx,
          `insert into compile (id, certname, environment, code_version, trigger, facts, catalog, error, started_at)
           select $1, $2, $3, $4, 'test', facts, $5, $6, now() from node where certname = $2`,
          [
            compile,
            certname,
            environment,
            codeVersion,
            made?.id ?? null,
            made ? null : '{"message":"Syntax error","file":"site.pp","line":3}',
          ],
        );
        await rawQuery(
          tx,
          `insert into compiled (certname, environment, code_version, compile, catalog, facts)
           select certname, $2, $3, $4, $5, facts from node where certname = $1
           on conflict (certname, environment, code_version) do update set compile = $4, catalog = $5, facts = excluded.facts`,
          [certname, environment, codeVersion, compile, made?.id ?? null],
        );
        const cause = await afterCompile(tx, {
          certname: certname as Certname,
          environment,
          codeVersion,
          catalog: made?.id ?? null,
        });
        return { catalog: made?.id ?? null, cause };
      });
    },
    async pointer(certname: string) {
      const { rows } = await pool.query(
        'select released_catalog as catalog, released_code_version as code_version, pinned from node where certname = $1',
        [certname],
      );
      return rows[0] as { catalog: string | null; code_version: string | null; pinned: boolean };
    },
    async moves(certname: string) {
      const { rows } = await pool.query('select * from pointer_move where certname = $1 order by id', [certname]);
      return rows as {
        cause: string;
        previous_catalog: string | null;
        previous_code_version: string | null;
        catalog: string;
        code_version: string;
        release: string | null;
      }[];
    },
  };
}

async function rawQuery(tx: Transaction, query: string, values: unknown[]): Promise<void> {
  await tx.executeQuery(CompiledQuery.raw(query, values));
}

export function catalogOf(certname: string, environment: string, text: string) {
  const canonical = {
    catalog_format: 2,
    classes: ['main'],
    edges: [],
    environment,
    name: certname,
    resources: [{ kind: 'compilable_type', parameters: { message: text }, tags: [], title: 'hello', type: 'Notify' }],
    tags: [],
  };
  const { id, document } = servedCatalog(Buffer.from(JSON.stringify(canonical)));
  return { id, document, certname: certname as Certname, environment: environment as EnvironmentName };
}
