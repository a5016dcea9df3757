/** A node that sends one run after another, 50 events of real Puppet a request: see report.ts. */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Next } from '../facts/fleet-client.ts';

export const EVENTS_PER_REQUEST = 50;
const REQUESTS_PER_RUN = 4;

const REAL = readFileSync(new URL('../../test/fixtures/report/failed-run-puppet-7.ndjson', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => line.slice(line.indexOf(',')));
const middle = REAL.slice(1, -1);

/** The events of a run, from and to included, numbered anew. */
function events(from: number, to: number, last: boolean): Buffer {
  const lines: string[] = [];
  for (let sequence = from; sequence <= to; sequence += 1) {
    const rest = sequence === 1 ? REAL[0] : last && sequence === to ? REAL.at(-1) : middle[sequence % middle.length];
    lines.push(`{"sequence":${sequence}${rest}\n`);
  }
  return Buffer.from(lines.join(''));
}

const bodies = Array.from({ length: REQUESTS_PER_RUN }, (_, i) =>
  events(i * EVENTS_PER_REQUEST + 1, (i + 1) * EVENTS_PER_REQUEST, i === REQUESTS_PER_RUN - 1),
);
const runs = new Map<string, string>();

export const next: Next = (certname, n) => {
  const part = n % REQUESTS_PER_RUN;
  if (part === 0) runs.set(certname, randomUUID());
  const path = `/node/v1/nodes/${certname}/runs/${runs.get(certname)}/events`;
  return {
    method: 'POST',
    path,
    headers: { 'content-type': 'application/x-ndjson' },
    body: bodies[part]!,
    status: 200,
  };
};
