import { expect, test } from 'vitest';
import { CallboardError } from '../../src/model/errors.ts';
import type { Certname, CodeVersionHash } from '../../src/model/ids.ts';
import { pin, release, rollback, unpin } from '../../src/release/pointers.ts';
import { freshDatabase } from '../postgres/fresh.ts';
import { fleet } from './fleet.ts';

const database = await freshDatabase();
const { db, pool } = database;
const made = fleet(database);

/** A generator with a seed (mulberry32), so that a failure can be had again: CALLBOARD_SEED. */
const seed = Number(process.env.CALLBOARD_SEED ?? Math.floor(Math.random() * 2 ** 31));
let state = seed;
function random(below: number): number {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
}
const oneOf = <Item>(items: readonly Item[]): Item => items[random(items.length)]!;

/** Refusals that are right answers; anything else, a deadlock above all, is a failure. */
const EXPECTED = ['NOTHING_TO_RELEASE', 'CATALOG_NOT_FOUND', 'BUSY'];

/** Some 3 s here, alone. */
const SLOW = { timeout: 120_000 };

async function inWorkers(count: number, operations: (() => Promise<unknown>)[]): Promise<unknown[]> {
  const failures: unknown[] = [];
  let next = 0;
  const worker = async () => {
    while (next < operations.length) {
      try {
        await operations[next++]!();
      } catch (error) {
        if (!(error instanceof CallboardError && EXPECTED.includes(error.code))) failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: count }, worker));
  return failures;
}

test(
  'whatever moves pointers at once, each stays on a catalog of its own, and its moves are one chain',
  SLOW,
  async () => {
    const environments = ['production', 'staging'];
    const versions: Record<string, CodeVersionHash[]> = {};
    for (const environment of environments) {
      await made.environment(environment, { code: environment === 'staging' ? 'auto' : 'held' });
      versions[environment] = [];
      for (const label of ['1', '2', '3'])
        versions[environment].push(await made.code(environment, `${environment} ${label}`));
    }
    const nodes = Array.from({ length: 8 }, (_, index) => `n${index}.example`);
    const catalogs: Record<string, string[]> = {};
    for (const node of nodes) {
      await made.node(node, oneOf(environments));
      catalogs[node] = [];
    }
    const requestedBy = 'test';
    const some = () => (random(3) === 0 ? ('all' as const) : nodes.filter(() => random(2) === 0).concat(oneOf(nodes)));
    const operation = (): (() => Promise<unknown>) => {
      const environment = oneOf(environments);
      const node = oneOf(nodes) as Certname;
      const version = oneOf(versions[environment]!);
      const text = random(6) === 0 ? null : `text ${random(4)}`;
      const named = some();
      switch (random(8)) {
        case 0:
          return () => release(db, made.queue, { environment, codeVersion: version, nodes: named, requestedBy });
        case 1:
          return () => rollback(db, made.queue, { environment, nodes: named, requestedBy });
        case 2:
          return () => pin(db, { certname: node, catalog: oneOf(catalogs[node]!) ?? 'ffff', requestedBy });
        case 3:
          return () => unpin(db, made.queue, { certname: node, requestedBy });
        case 4:
          return () => (random(3) === 0 ? made.node(node, environment) : made.facts(node, String(random(3))));
        default:
          return async () => {
            const { catalog } = await made.compile(node, version, text, environment);
            if (catalog) catalogs[node]!.push(catalog);
          };
      }
    };
    const failures = await inWorkers(
      8,
      Array.from({ length: 240 }, () => operation()),
    );
    expect(failures, `CALLBOARD_SEED=${seed}`).toEqual([]);

    let moveCount = 0;
    for (const node of nodes) {
      const moves = await made.moves(node);
      moveCount += moves.length;
      const pointer = await made.pointer(node);
      let [catalog, codeVersion] = [null, null] as (string | null)[];
      let isPinned = false;
      for (const move of moves) {
        const where = `CALLBOARD_SEED=${seed} ${node} ${move.cause}`;
        expect([move.previous_catalog, move.previous_code_version], where).toEqual([catalog, codeVersion]);
        if (isPinned) expect(['pin', 'unpin'], where).toContain(move.cause);
        if (move.cause === 'pin') isPinned = true;
        else isPinned = false;
        [catalog, codeVersion] = [move.catalog, move.code_version];
        expect((move.release === null) === ['facts', 'code', 'join'].includes(move.cause), where).toBe(true);
      }
      expect(pointer, `CALLBOARD_SEED=${seed} ${node}`).toMatchObject({ catalog, code_version: codeVersion });
    }
    expect(moveCount).toBeGreaterThan(15);
    const { rows: foreign } = await pool.query(`
    select m.* from pointer_move m join catalog c on c.id = m.catalog
    where c.certname <> m.certname or not exists (
      select from compile k
      where (k.certname, k.environment, k.code_version, k.catalog) = (m.certname, c.environment, m.code_version, m.catalog)
    )
  `);
    expect(
      foreign,
      'each was compiled for the node, in its environment, under the code version it is told with',
    ).toEqual([]);
  },
);

test('a release and a compile that end at the same moment leave no node behind', SLOW, async () => {
  await made.environment('race');
  const old = await made.code('race', 'race 1');
  const nodes = Array.from({ length: 6 }, (_, index) => `race${index}.example`);
  for (const node of nodes) {
    await made.node(node, 'race');
    await made.compile(node, old, 'old', 'race');
  }
  await release(db, made.queue, { environment: 'race', codeVersion: old, nodes: 'all', requestedBy: 'test' });
  for (let round = 0; round < 8; round++) {
    const version = await made.code('race', `race version ${round}`);
    const newcomer = `newcomer${round}.example`;
    await made.node(newcomer, 'race');
    for (const node of nodes) await made.compile(node, version, `first ${round}`, 'race');
    // New facts make other catalogs under the same code while it is released; a new node compiles for the first time.
    const operations = [...nodes, newcomer].map((node) => () => made.compile(node, version, `second ${round}`, 'race'));
    operations.splice(
      random(operations.length + 1),
      0,
      () =>
        release(db, made.queue, {
          environment: 'race',
          codeVersion: version,
          nodes: 'all',
          requestedBy: 'test',
        }) as never,
    );
    expect(await inWorkers(operations.length, operations), `CALLBOARD_SEED=${seed}`).toEqual([]);
    const { rows: behind } = await pool.query(
      `select n.certname, n.released_catalog, k.catalog from node n
         join compiled k on (k.certname, k.environment, k.code_version) = (n.certname, n.environment, $1)
       where n.environment = 'race' and (n.released_catalog, n.released_code_version) is distinct from (k.catalog, $1)`,
      [version],
    );
    expect(behind, `CALLBOARD_SEED=${seed} round ${round}`).toEqual([]);
    nodes.push(newcomer);
    if (nodes.length > 8) {
      await pool.query("update node set environment = 'retired' where certname = $1", [nodes.shift()]);
    }
  }
});
