import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { CatalogHash, CodeVersionHash } from '../../src/model/ids.ts';
import { catalogCache } from '../../src/release/catalog-cache.ts';
import { pointerCache, type ReleasedPointer } from '../../src/release/pointer-cache.ts';

const pointer = (catalog: string, expiresAtMs?: number): ReleasedPointer => ({
  catalog: catalog as CatalogHash,
  codeVersion: 'v' as CodeVersionHash,
  plugins: 'p',
  runMode: 'do',
  etag: `"${catalog}"`,
  headers: {},
  request: expiresAtMs === undefined ? undefined : { id: 'r', mode: 'do', expiresAtMs },
});

/** A database whose statements answer when the test says so, with what was true when they were sent. */
function heldDatabase() {
  const state = new Map<string, ReleasedPointer>();
  const underWay: { certnames: string[]; answer(): Promise<void>; fail(): void }[] = [];
  const read = (certnames: string[]) => {
    const found = new Map(certnames.flatMap((name) => (state.has(name) ? [[name, state.get(name)!] as const] : [])));
    const { promise, resolve, reject } = Promise.withResolvers<Map<string, ReleasedPointer>>();
    underWay.push({
      certnames,
      async answer() {
        resolve(found);
        await settled();
      },
      fail: () => reject(new Error('the database is away')),
    });
    return promise;
  };
  return { state, underWay, read };
}

/** Lets everything that waits for nothing but its turn have it. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

function setUp(isListening = () => true) {
  const database = heldDatabase();
  let time = 0;
  const cache = pointerCache({ read: database.read, isListening, now: () => time });
  return { ...database, cache, pass: (ms: number) => (time += ms) };
}

test('what was read once is remembered until it is forgotten', async () => {
  const { cache, state, underWay } = setUp();
  state.set('a', pointer('one'));
  const asked = cache.get('a');
  await settled();
  await underWay[0]!.answer();
  expect((await asked)?.catalog).toBe('one');
  expect(cache.remembered('a')?.catalog).toBe('one');
  cache.forget('a');
  expect(cache.remembered('a')).toBeUndefined();
});

test('a read that a move overtook is answered with and not kept', async () => {
  const { cache, state, underWay } = setUp();
  state.set('a', pointer('old'));
  const early = cache.get('a');
  await settled();
  // The move commits and its notification comes while the statement is under way.
  state.set('a', pointer('new'));
  cache.forget('a');
  const late = cache.get('a');
  await underWay[0]!.answer();
  expect((await early)?.catalog).toBe('old');
  expect(cache.remembered('a'), 'the old one is not kept').toBeUndefined();
  await underWay[1]!.answer();
  expect((await late)?.catalog, 'who asked after the move has the new one').toBe('new');
  expect(cache.remembered('a')?.catalog).toBe('new');
});

test('the same for a notification to a whole environment, and for a gap', async () => {
  const { cache, state, underWay } = setUp();
  state.set('a', pointer('old'));
  void cache.get('a');
  await settled();
  state.set('a', pointer('new'));
  cache.forget();
  await underWay[0]!.answer();
  expect(cache.remembered('a')).toBeUndefined();
});

test('an overtaken read does not end the newer one of the same node', async () => {
  const { cache, state, underWay } = setUp();
  state.set('a', pointer('one'));
  void cache.get('a');
  await settled();
  state.set('a', pointer('two'));
  cache.forget('a');
  const second = cache.get('a');
  await underWay[0]!.answer();
  // Now the second is under way; another move overtakes it too.
  state.set('a', pointer('three'));
  cache.forget('a');
  await underWay[1]!.answer();
  expect((await second)?.catalog).toBe('two');
  expect(cache.remembered('a')).toBeUndefined();
});

test('while nobody listens nothing is kept and nothing remembered is used', async () => {
  let isListening = true;
  const { cache, state, underWay } = setUp(() => isListening);
  state.set('a', pointer('one'));
  void cache.get('a');
  await settled();
  await underWay[0]!.answer();
  isListening = false;
  expect(cache.remembered('a')).toBeUndefined();
  void cache.get('a');
  await settled();
  // It is back before the answer comes, but the statement was sent when nobody listened.
  isListening = true;
  cache.forget();
  state.set('a', pointer('two'));
  await underWay[1]!.answer();
  expect(cache.remembered('a')).toBeUndefined();
  const lost = cache.get('a');
  await settled();
  isListening = false;
  await underWay[2]!.answer();
  expect((await lost)?.catalog).toBe('two');
  isListening = true;
  expect(cache.remembered('a'), 'the connection was lost under way').toBeUndefined();
});

test('those who ask while a statement is under way share the next one', async () => {
  const { cache, state, underWay } = setUp();
  for (let index = 0; index < 1200; index++) state.set(`n${index}`, pointer(`c${index}`));
  const asked = [...state.keys()].flatMap((name) => [cache.get(name), cache.get(name)]);
  await settled();
  const batches: number[] = [];
  while (underWay.length > 0) {
    const batch = underWay.shift()!;
    batches.push(batch.certnames.length);
    await batch.answer();
  }
  expect(batches).toEqual([500, 500, 200]);
  expect((await Promise.all(asked)).map((each) => each?.catalog)).toEqual(
    [...state.keys()].flatMap((name) => [`c${name.slice(1)}`, `c${name.slice(1)}`]),
  );
});

test('a failed statement fails those who asked, and the next one is asked anew', async () => {
  const { cache, state, underWay } = setUp();
  state.set('a', pointer('one'));
  const asked = cache.get('a');
  await settled();
  underWay[0]!.fail();
  await expect(asked).rejects.toThrow('the database is away');
  const again = cache.get('a');
  await settled();
  await underWay[1]!.answer();
  expect((await again)?.catalog).toBe('one');
});

test('a node without a pointer is asked for every time', async () => {
  const { cache, underWay } = setUp();
  for (let index = 0; index < 3; index++) {
    const asked = cache.get('new');
    await settled();
    await underWay[index]!.answer();
    expect(await asked).toBeUndefined();
  }
  expect(cache.size).toBe(0);
});

test('what is remembered is read anew after a while, and when its run request expires', async () => {
  const { cache, state, underWay, pass } = setUp();
  state.set('a', pointer('one'));
  state.set('b', pointer('two', 1000));
  void cache.get('a');
  void cache.get('b');
  await settled();
  await underWay[0]!.answer();
  pass(999);
  expect(cache.remembered('b')).toBeDefined();
  pass(1);
  expect(cache.remembered('b')).toBeUndefined();
  expect(cache.remembered('a')).toBeDefined();
  pass(5 * 60_000);
  expect(cache.remembered('a')).toBeUndefined();
});

test('in whatever order reads, moves, notifications and losses come, nothing older than the last notification is remembered', async () => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ what: fc.constant('ask' as const), node: fc.constantFrom('a', 'b') }) },
    { weight: 3, arbitrary: fc.record({ what: fc.constant('move' as const), node: fc.constantFrom('a', 'b') }) },
    { weight: 3, arbitrary: fc.record({ what: fc.constant('hear' as const), node: fc.constant('') }) },
    { weight: 3, arbitrary: fc.record({ what: fc.constant('answer' as const), node: fc.constant('') }) },
    {
      weight: 1,
      arbitrary: fc.record({ what: fc.constantFrom('lose' as const, 'regain' as const), node: fc.constant('') }),
    },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      let isListening = true;
      const { cache, state, underWay } = setUp(() => isListening);
      let version = 0;
      // Notifications that were sent and not heard yet, and for each node the newest version that was heard of.
      let sent: { node: string; version: number }[] = [];
      const heard = new Map<string, number>();
      for (const { what, node } of steps) {
        if (what === 'ask') void cache.get(node);
        if (what === 'move') {
          state.set(node, pointer(String(++version)));
          if (isListening) sent.push({ node, version });
        }
        if (what === 'hear' && sent.length > 0) {
          const { node: moved, version: now } = sent.shift()!;
          cache.forget(moved);
          heard.set(moved, now);
        }
        if (what === 'answer' && underWay.length > 0) await underWay.shift()!.answer();
        if (what === 'lose') {
          isListening = false;
          sent = [];
        }
        if (what === 'regain' && !isListening) {
          isListening = true;
          cache.forget();
          for (const [moved, { catalog }] of state) heard.set(moved, Number(catalog));
        }
        await settled();
        for (const name of ['a', 'b']) {
          const kept = cache.remembered(name);
          if (kept) expect(Number(kept.catalog)).toBeGreaterThanOrEqual(heard.get(name) ?? 0);
        }
      }
    }),
    { numRuns: 500 },
  );
});

test('catalogs are kept up to a number of bytes, the least recently used go first, and one read serves many', async () => {
  const reads: string[] = [];
  const cache = catalogCache(async (id) => {
    reads.push(id);
    if (id === ('broken' as CatalogHash)) throw new Error('broken');
    return Buffer.alloc(id.length * 10, id);
  }, 60);
  const get = (id: string) => cache.get(id as CatalogHash);
  const [one, two] = await Promise.all([get('aa'), get('aa')]);
  expect(one).toBe(two);
  await get('bb');
  await get('cc');
  await get('aa');
  expect([reads, cache.bytes]).toEqual([['aa', 'bb', 'cc'], 60]);
  await get('dd');
  expect(cache.bytes).toBe(60);
  await get('aa');
  await get('bb');
  expect(reads).toEqual(['aa', 'bb', 'cc', 'dd', 'bb']);
  expect(await get('larger than all')).toHaveLength(150);
  expect(cache.bytes).toBe(60);
  await expect(get('broken')).rejects.toThrow('broken');
  await expect(get('broken')).rejects.toThrow('broken');
});
