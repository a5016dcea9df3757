import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { parseEvent } from '../../src/model/report.ts';

const parse = (text: string) => parseEvent(Buffer.from(text), 7);
const event = (fields: string) => `{"sequence":1,"at":"2026-11-24T10:00:00Z","kind":"log","data":{},${fields}}`;

test('the lines that a real run gives are taken, their data untouched', () => {
  const lines = readFileSync(new URL('../fixtures/report/failed-run-puppet-7.ndjson', import.meta.url), 'utf8').split(
    '\n',
  );
  for (const [index, line] of lines.slice(0, -1).entries()) {
    const { sequence, data } = parse(line);
    expect(sequence).toBe(index + 1);
    expect(line).toContain(`"data":${data.text}}`);
  }
});

test.each([
  ['2026-11-24T10:00:00Z', '2026-11-24T10:00:00.000000Z'],
  ['2026-11-24T10:00:00.123456789+00:00', '2026-11-24T10:00:00.123456Z'],
  ['2026-11-24T01:30:00.5+02:00', '2026-11-23T23:30:00.500000Z'],
])('the time %s is %s', (written, meant) => {
  expect(parse(`{"sequence":1,"at":"${written}","kind":"log","data":{}}`).at).toBe(meant);
});

test.each([
  ['{', 'it ends where a key should stand at byte 1'],
  ['[]', 'its sequence is not an integer from 1'],
  ['{"sequence":0}', 'its sequence is not an integer from 1'],
  ['{"sequence":1.5}', 'its sequence is not an integer from 1'],
  ['{"sequence":"1"}', 'its sequence is not an integer from 1'],
  ['{"sequence":1,"at":"yesterday"}', "its 'at' is not an ISO 8601 time with an offset"],
  ['{"sequence":1,"at":"2026-02-30T10:00:00Z"}', "its 'at' is not an ISO 8601 time with an offset"],
  ['{"sequence":1,"at":"2026-02-20T10:00:00"}', "its 'at' is not an ISO 8601 time with an offset"],
  ['{"sequence":1,"at":"2026-02-20T10:00:60Z"}', "its 'at' is not an ISO 8601 time with an offset"],
  ['{"sequence":1,"at":"9999-12-31T23:59:59-23:59"}', "its 'at' is not an ISO 8601 time with an offset"],
  ['{"sequence":1,"at":"2026-02-20T10:00:00Z","kind":"warning"}', 'its kind is none of start, resource, log, end'],
  ['{"sequence":1,"at":"2026-02-20T10:00:00Z","kind":"log","data":"x"}', 'its data is not an object'],
  [event('"kind":"log"'), 'the key "kind" stands twice in one object at byte 65'],
])('%s is refused: %s', (line, reason) => {
  expect(() => parse(line)).toThrow(expect.objectContaining({ code: 'EVENT_INVALID', detail: { line: 7, reason } }));
});

test('a sequence beyond what a run may have is refused with its own code', () => {
  expect(parse('{"sequence":500000,"at":"2026-02-20T10:00:00Z","kind":"log","data":{}}').sequence).toBe(500_000);
  expect(() => parse('{"sequence":500001}')).toThrow(expect.objectContaining({ code: 'EVENTS_TOO_MANY' }));
});
