/** What the node decides, without a clock, a disk or a process. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FACTS_WHOLE_MAX_MS, SHRUNK_RUN_BYTES_MAX } from '../../src/model/limits.ts';
import { parseDuration } from '../../src/run/duration.ts';
import { wholeDue } from '../../src/run/facts.ts';
import { runIdAt } from '../../src/run/run-id.ts';
import { backoffMs, firstAt, nextAt } from '../../src/run/schedule.ts';
import { planBound, type SpooledSize, shrinkRun } from '../../src/run/spool-bound.ts';
import { sentEvents } from '../../src/run/sse.ts';
import { both, isNoop, parseRunRequest } from '../../src/run/wanted.ts';

const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

test('an interval is never lengthened, and shortened by a fifth at most', () => {
  fc.assert(
    fc.property(fc.nat(), fc.integer({ min: 1000, max: 86_400_000 }), random, (last, interval, chance) => {
      const wait = nextAt(last, interval, chance) - last;
      expect(wait).toBeLessThanOrEqual(interval);
      expect(wait).toBeGreaterThanOrEqual(Math.floor(interval * 0.8));
    }),
  );
});

test('a fleet that starts in one moment is spread over the splay', () => {
  const starts = Array.from({ length: 100 }, (_, index) => firstAt(0, 10_000, index / 100));
  expect(new Set(starts).size).toBe(100);
  expect(Math.max(...starts)).toBeLessThan(10_000);
  expect(firstAt(5, 0, 0.99)).toBe(5);
});

test('waits between tries double, have a random half, and end at their bound', () => {
  expect(backoffMs(1, 1000, 60_000, 0)).toBe(500);
  expect(backoffMs(3, 1000, 60_000, 0)).toBe(2000);
  expect(backoffMs(3, 1000, 60_000, 0.999)).toBeGreaterThan(3900);
  expect(backoffMs(10_000, 1000, 60_000, 0.999)).toBeLessThanOrEqual(60_000);
});

test('durations are read as people write them, and nothing else is', () => {
  expect(['90s', '30m', '2h', '1d', '250ms', '45'].map((text) => parseDuration('--x', text))).toEqual([
    90_000, 1_800_000, 7_200_000, 86_400_000, 250, 45_000,
  ]);
  for (const wrong of ['', '-1s', '1.5h', 'm', '1 h', '1w']) {
    expect(() => parseDuration('--x', wrong)).toThrow(`--x: '${wrong}'`);
  }
});

test("the node's own --noop wins over everything, then the request, then the served mode", () => {
  const request = (mode: 'do' | 'noop' | 'policy') => ({ id: 'x', mode });
  expect(isNoop(true, 'do', request('do'))).toBe(true);
  expect(isNoop(false, 'noop', request('do'))).toBe(false);
  expect(isNoop(false, 'do', request('noop'))).toBe(true);
  expect(isNoop(false, 'noop', request('policy'))).toBe(true);
  expect(isNoop(false, 'do', request('policy'))).toBe(false);
  expect(isNoop(false, 'noop', null)).toBe(true);
  expect(isNoop(false, 'do', null)).toBe(false);
});

test('two wishes for a run become one, under the weightier cause', () => {
  const schedule = { trigger: 'schedule', request: null } as const;
  const catalog = { trigger: 'catalog', request: null } as const;
  const request = { trigger: 'request', request: { id: 'x', mode: 'do' } } as const;
  expect(both(null, schedule)).toBe(schedule);
  expect(both(catalog, schedule)).toBe(catalog);
  expect(both(catalog, request)).toBe(request);
  expect(both(request, catalog)).toBe(request);
});

test('a run request is read from its header, or not at all', () => {
  const id = '0190a000-0000-7000-8000-000000000000';
  expect(parseRunRequest(`${id};mode=noop`)).toEqual({ id, mode: 'noop' });
  expect(parseRunRequest(`${id}; mode=policy`)).toEqual({ id, mode: 'policy' });
  for (const wrong of [undefined, '', id, `${id};mode=now`, `x;mode=do`]) expect(parseRunRequest(wrong)).toBeNull();
});

test('run ids are UUIDs that sort by time', () => {
  const zero = Buffer.alloc(10);
  const full = Buffer.alloc(10, 0xff);
  expect(runIdAt(1, full) < runIdAt(2, zero)).toBe(true);
  expect(runIdAt(Date.UTC(2026, 10, 24), zero)).toMatch(
    /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
  );
});

test('facts are sent whole when they changed, when none were sent yet, and once a day', () => {
  expect(wholeDue(null, 'a', 0)).toBe(true);
  expect(wholeDue({ hash: 'b', whole_at: 0 }, 'a', 1)).toBe(true);
  expect(wholeDue({ hash: 'a', whole_at: 0 }, 'a', FACTS_WHOLE_MAX_MS)).toBe(false);
  expect(wholeDue({ hash: 'a', whole_at: 0 }, 'a', FACTS_WHOLE_MAX_MS + 1)).toBe(true);
});

test('an event stream reads the same wherever it is cut', async () => {
  const text =
    ': hello\n\nevent: catalog\ndata: {"a":1}\ndata: b\n\r\nevent: run\r\ndata:c\r\n\r\n: beat\n\ndata: é\n\n';
  const expected = [
    { event: 'catalog', data: '{"a":1}\nb' },
    { event: 'run', data: 'c' },
    { event: 'message', data: 'é' },
  ];
  const bytes = Buffer.from(text);
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const chunks = async function* () {
      for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
    };
    const seen = [];
    for await (const event of sentEvents(chunks())) seen.push(event);
    expect(seen, `chunks of ${size}`).toEqual(expected);
  }
});

test('an event stream whose line has no end is given up', async () => {
  const endless = async function* () {
    for (;;) yield Buffer.alloc(10_000, 'x');
  };
  await expect(sentEvents(endless()).next()).rejects.toThrow('no end');
});

const MB = 1024 * 1024;

test('a full spool shrinks its oldest complete runs first, and drops the oldest only when that is not enough', () => {
  const run = (id: string, mb: number, more: Partial<SpooledSize> = {}): SpooledSize => ({
    id,
    bytes: mb * MB,
    complete: true,
    sent: false,
    ...more,
  });
  expect(planBound([run('a', 4), run('b', 4)], 10 * MB)).toEqual({ shrink: [], drop: [] });
  expect(planBound([run('a', 4), run('b', 4), run('c', 4)], 10 * MB)).toEqual({ shrink: ['a'], drop: [] });
  // What may be with the control plane already cannot be numbered anew.
  expect(planBound([run('a', 4, { sent: true }), run('b', 4), run('c', 4)], 10 * MB)).toEqual({
    shrink: ['b'],
    drop: [],
  });
  // The run under way is left alone, whatever its size.
  expect(planBound([run('a', 4), run('b', 40, { complete: false })], 10 * MB)).toEqual({ shrink: [], drop: ['a'] });
  expect(planBound([run('a', 8, { sent: true }), run('b', 8, { sent: true })], 10 * MB)).toEqual({
    shrink: [],
    drop: ['a'],
  });
});

test('whatever is in the spool, what the plan leaves fits, unless it is the run under way', () => {
  const sizes = fc.array(fc.record({ bytes: fc.nat(MB), complete: fc.boolean(), sent: fc.boolean() }), {
    maxLength: 30,
  });
  fc.assert(
    fc.property(sizes, fc.nat(8 * MB), (list, max) => {
      const runs = list.map((run, index) => ({ id: String(index), ...run }));
      const plan = planBound(runs, max);
      const left = runs
        .filter(({ id }) => !plan.drop.includes(id))
        .reduce((sum, run) => sum + (plan.shrink.includes(run.id) ? SHRUNK_RUN_BYTES_MAX : run.bytes), 0);
      const untouchable = runs.filter((run) => !run.complete).reduce((sum, run) => sum + run.bytes, 0);
      expect(left).toBeLessThanOrEqual(Math.max(max, untouchable));
      for (const id of [...plan.drop, ...plan.shrink]) expect(runs[Number(id)]!.complete).toBe(true);
      for (const id of plan.shrink) expect(runs[Number(id)]!.sent).toBe(false);
    }),
  );
});

test('a shrunk run keeps its start, its end, its changes and failures, is numbered anew, and says what is missing', () => {
  const line = (sequence: number, kind: string, data: object): string =>
    JSON.stringify({ sequence, at: '2026-11-24T10:00:00.000Z', kind, data });
  const lines = [
    line(1, 'start', { catalog: 'c' }),
    ...Array.from({ length: 500 }, (_, index) =>
      line(index + 2, 'resource', { resource: `File[${index}]`, changed: false }),
    ),
    line(502, 'resource', { resource: 'File[changed]', changed: true }),
    line(503, 'resource', { resource: 'File[failed]', changed: false, failed: true }),
    line(504, 'log', { level: 'notice', message: 'said' }),
    line(505, 'log', { level: 'err', message: 'wrong' }),
    line(506, 'resource', { resource: 'File[huge]', changed: true, x: 'x'.repeat(SHRUNK_RUN_BYTES_MAX) }),
    line(507, 'end', { status: 'failed', events_dropped: 3 }),
  ];
  const shrunk = shrinkRun(lines).map((text) => JSON.parse(text));
  expect(shrunk.map((event) => event.sequence)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(shrunk.map((event) => event.data.resource ?? event.data.level ?? event.kind)).toEqual([
    'start',
    'File[changed]',
    'File[failed]',
    'err',
    'warning',
    'end',
  ]);
  expect(shrunk[4].data.message).toContain('505 events');
  expect(shrunk[5].data).toEqual({ status: 'failed', events_dropped: 505 });
  expect(shrinkRun(lines).join('\n').length).toBeLessThanOrEqual(SHRUNK_RUN_BYTES_MAX);
});
