/**
 * Code that hangs, dies, floods or lies, each beside a well-behaved compile of the same code version in the same
 * interpreter: the good one must come out right every time, and the bad one must be told of in a sentence.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { message, openPool, request } from './compiling.ts';
import { eventually, gone, isAlive } from './processes.ts';

const printed: { certname: string; output: string }[] = [];
const retried: string[] = [];
const pool = openPool({
  concurrency: 6,
  timeMaxMs: 60_000,
  memoryMaxBytes: 400 * 1024 * 1024,
  note: (text, detail) => {
    if (text === 'a compile printed') printed.push(detail as never);
    if (text === 'a compile is tried again') retried.push(String(detail.certname));
  },
});
let good: string;

beforeAll(async () => {
  await pool.start();
  const result = await pool.compile(request('good.example.net'));
  expect(message(result)).toBe('well done');
  good = String(result.status === 'compiled' && result.canonical);
}, 300_000);
afterAll(() => pool.close());

/** The bad compile's result; the good one that ran beside it has been checked. */
async function beside(name: string, timeMaxMs = 60_000) {
  const [bad, fine] = await Promise.all([
    pool.compile(request(`${name}.example.net`), undefined, { timeMaxMs }),
    pool.compile(request('good.example.net')),
  ]);
  expect(fine.status === 'compiled' && String(fine.canonical)).toBe(good);
  return bad;
}

async function failure(name: string, timeMaxMs?: number) {
  const bad = await beside(name, timeMaxMs);
  if (bad.status === 'compiled') throw new Error(`${name} compiled: ${bad.canonical}`);
  return bad.error;
}

describe.concurrent('what a module does is a result, with its file and line', { timeout: 180_000 }, () => {
  const place = (name: string) => ({ file: `modules/${name}/lib/puppet/functions/${name}/go.rb`, line: 5 });

  test('exit', async () => {
    const error = await failure('exits');
    expect(error).toEqual({
      message: 'Code of a module called exit (status 3) during the compile',
      ...place('exits'),
    });
  });
  test('a library that is not there', async () => {
    const error = await failure('misses');
    expect(error.message).toContain('a_library_that_is_not_here');
    expect(error).toMatchObject(place('misses'));
  });
  test('recursion without end', async () => {
    const error = await failure('recurses');
    expect(error.message).toContain('stack level too deep');
    expect(error).toMatchObject({ file: 'modules/recurses/lib/puppet/functions/recurses/go.rb' });
  });
  test('an exception: in Puppet’s words, at the place in the manifest', async () => {
    const error = await failure('raises');
    expect(error.message).toContain('the reason');
    expect(error.message).toContain('(file: manifests/site.pp, line: 3');
    expect(error.message).toContain('on node raises.example.net');
    expect(error).toMatchObject({ file: 'manifests/site.pp', line: 3 });
  });
  test('an interrupt', async () => {
    expect((await failure('interrupts')).message).toContain('enough');
  });
  test('none of them was tried again', () => {
    for (const name of ['exits', 'misses', 'recurses', 'raises', 'interrupts'])
      expect(retried).not.toContain(`${name}.example.net`);
  });
});

describe.concurrent('what a process does is trouble: tried once more, then told', { timeout: 300_000 }, () => {
  test('hanging in Ruby', async () => {
    expect((await failure('hang', 3_000)).message).toBe('The compile took longer than 3 s and was ended');
  });
  test('sleeping for ever', async () => {
    expect((await failure('sleeps', 3_000)).message).toBe('The compile took longer than 3 s and was ended');
  });
  test('taking memory without end', async () => {
    expect((await failure('bloats')).message).toMatch(/memory/);
  });
  test('exit!', async () => {
    expect((await failure('vanishes')).message).toBe(
      "The compile's process ended with exit status 4 before it gave a result",
    );
  });
  test('kill -9 of itself', async () => {
    expect((await failure('kills')).message).toBe("The compile's process ended by signal 9 before it gave a result");
  });
  test.each(['floods', 'floodserr'])('%s: printing without end', async (name) => {
    expect((await failure(name)).message).toBe('The compile printed without end and was ended');
  });
  test('what is no JSON', async () => {
    expect((await failure('liesgarbage')).message).toContain('did not keep to the protocol');
  });
  test("another node's catalog", async () => {
    expect((await failure('liesother')).message).toContain('the catalog is for "good.example.net"');
  });
  test('a catalog that names content it does not declare', async () => {
    expect((await failure('liescontent')).message).toContain('which was not declared');
  });
  test('a header without end', async () => {
    expect((await failure('liesendless')).message).toContain('sent too much');
  });
  test('hanging up', async () => {
    expect((await failure('liesshut')).message).toMatch(/hung up|by signal 9/);
  });
});

describe('what stays inside', { timeout: 180_000 }, () => {
  test('print as much as you like: it is told beside the catalog and not in it', async () => {
    expect(message(await beside('prints'))).toBe('printed');
    const told = await eventually(async () => printed.find((one) => one.certname === 'prints.example.net'));
    expect(told.output).toBe('said on standard output\nsaid on standard error\n');
  });
  test('globals, methods of core classes and the environment of one compile are not seen by the next', async () => {
    for (let round = 0; round < 3; round += 1) {
      expect(message(await beside('leaks'))).toBe('nil');
      expect(message(await beside('looks'))).toBe('[nil, false, nil]');
    }
  });
  test('a stranger without a token is turned away', async () => {
    expect(message(await beside('lieselsewhere'))).toMatch(/^turned away: (""|nil)$/);
  });
  test('what a compile started ends with it', async () => {
    const pid = Number(/left (\d+)/.exec(message(await beside('leaves')))?.[1]);
    await gone([pid]);
    expect(await isAlive(pid)).toBe(false);
  });
  test('a secret is in no error and in no warning', async () => {
    const bad = await beside('secrets');
    expect(JSON.stringify(bad)).not.toContain('the-crown-jewels');
    expect(bad).toMatchObject({ status: 'failed' });
    expect(JSON.stringify(bad)).toContain('cannot use [redacted]');
    expect(JSON.stringify(bad.warnings)).toContain('found [redacted]');
  });
  test('a compile that nobody waits for any more is ended, and gives its place to the next', async () => {
    const impatience = AbortSignal.timeout(700);
    await expect(pool.compile(request('sleeps.example.net'), impatience)).rejects.toMatchObject({
      name: 'TimeoutError',
    });
    await eventually(async () => (pool.state.running === 0 ? true : undefined));
    expect(message(await beside('good'))).toBe('well done');
  });
});
