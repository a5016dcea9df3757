/**
 * How long an event takes from its happening in Puppet to the other side of the wire: the node's part of "readable through `callboard watch`
 * within 250 ms". A real daemon, real Puppet and TLS; the control plane's API is the one of the tests, which stores nothing.
 *
 *   node bench/run/event-latency.ts [--resources 500]
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { pino } from 'pino';
import { runNode } from '../../src/run/daemon.ts';
import { catalogOf } from '../../test/run/catalog.ts';
import { makeCa } from '../../test/run/certificates.ts';
import { TestControlPlane } from '../../test/run/control-plane.ts';

const CERTNAME = 'bench.example';
const { values } = parseArgs({ options: { resources: { type: 'string', default: '500' } } });
const directory = await mkdtemp(join(tmpdir(), 'callboard-bench-'));
const stop = new AbortController();
try {
  const ca = await makeCa(join(directory, 'ca'));
  const state = join(directory, 'state');
  await ca.issue(CERTNAME, join(state, 'ssl'));
  const control = new TestControlPlane(ca);
  await control.start();
  const target = join(directory, 'target');
  await mkdir(target);
  const resources = Array.from({ length: Number(values.resources) }, (_, index) => ({
    type: 'File',
    title: join(target, String(index)),
    parameters: { content: `file ${index}\n` },
  }));
  control.setCatalog(catalogOf(CERTNAME, resources));
  const done = runNode(
    {
      server: control.url,
      certname: CERTNAME,
      state,
      ssldir: join(state, 'ssl'),
      environment: null,
      noop: false,
      factsIntervalMs: 3600_000,
      runIntervalMs: 3600_000,
      pollIntervalMs: 60_000,
      splayMs: 0,
      wakeSplayMs: 0,
      logLevel: 'notice',
      puppetSettings: {},
    },
    pino({ enabled: false }),
    stop.signal,
  );
  while (control.ended().length === 0) await new Promise((resolve) => setTimeout(resolve, 50));
  const events = control.ended()[0]!.events;
  const waits = events.map((event) => event.seenAt - Date.parse(event.at)).sort((a, b) => a - b);
  const at = (share: number): number => waits[Math.floor((waits.length - 1) * share)]!;
  process.stdout.write(
    `${events.length} events: median ${at(0.5)} ms, p99 ${at(0.99)} ms, most ${at(1)} ms (${control.requests.filter((line) => line.startsWith('POST')).length} requests)\n`,
  );
  stop.abort();
  await done;
  await control.stop();
} finally {
  await rm(directory, { recursive: true, force: true });
}
