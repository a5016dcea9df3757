import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseEvent } from '../../src/model/report.ts';
import { advanceRun, contiguous, type RunRow } from '../../src/report/run.ts';

const lines = readFileSync(new URL('../fixtures/report/failed-run-puppet-7.ndjson', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n');
const events = lines.map((line, index) => parseEvent(Buffer.from(line), index + 1));

const NEW: RunRow = {
  certname: 'web1.example',
  day: '2026-11-24',
  catalog: null,
  code_version: null,
  noop: false,
  request: null,
  state: 'running',
  status: null,
  started_at: '2026-11-24T00:00:00.000000Z',
  finished_at: null,
  last_sequence: 0,
  event_count: 0,
  summary: null,
};

test('a whole run of real Puppet: what changed, failed, was skipped, and only pending', () => {
  expect(advanceRun(NEW, events)).toMatchObject({
    catalog: 'c'.repeat(64),
    code_version: 'd'.repeat(64),
    noop: false,
    state: 'finished',
    status: 'failed',
    finished_at: events.at(-1)!.at,
    started_at: events[0]!.at,
    event_count: events.length,
    // Six default schedules and a filebucket are among the resources.
    summary: { resources: 15, changed: 4, failed: 1, skipped: 1, corrective: 0, noop: 1, exit_code: 6 },
  });
});

test('the end is the same however the events are cut and whatever their order', () => {
  const whole = advanceRun(NEW, events);
  fc.assert(
    fc.property(
      fc.shuffledSubarray(events, { minLength: events.length }),
      fc.array(fc.nat({ max: events.length }), { maxLength: 5 }),
      (shuffled, cuts) => {
        let run = NEW;
        let from = 0;
        for (const to of [...cuts.sort((a, b) => a - b), events.length]) {
          run = advanceRun(run, shuffled.slice(from, to));
          from = to;
        }
        expect(run).toEqual(whole);
      },
    ),
  );
});

test('an end without a known status is judged by what was counted', () => {
  const end = (data: string) =>
    parseEvent(Buffer.from(`{"sequence":99,"at":"2026-11-24T10:00:00Z","kind":"end","data":${data}}`), 1);
  const resource = (data: string) =>
    parseEvent(Buffer.from(`{"sequence":2,"at":"2026-11-24T10:00:00Z","kind":"resource","data":${data}}`), 1);
  expect(advanceRun(NEW, [end('{}')]).status).toBe('unchanged');
  expect(advanceRun(NEW, [resource('{"changed":true}'), end('{"status":"?"}')]).status).toBe('changed');
  expect(advanceRun(NEW, [resource('{"corrective_change":true}')]).summary).toMatchObject({
    resources: 1,
    corrective: 1,
  });
  expect(advanceRun(NEW, [resource('{"failed_to_restart":true,"changed":true}'), end('{}')]).status).toBe('failed');
});

test('acknowledged is what has no gap before it', () => {
  expect(contiguous(0, [1, 2, 3])).toBe(3);
  expect(contiguous(0, [2, 3])).toBe(0);
  expect(contiguous(3, [1, 2, 4, 6])).toBe(4);
  expect(contiguous(3, [])).toBe(3);
});
