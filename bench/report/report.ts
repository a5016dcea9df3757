/**
 * Run events: how many a second are stored from 64 nodes that run without pause, and how long after a node sends one it is
 * before the eyes of a watcher, event by event through a run of 500 resources. `node bench/report/report.ts`
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { startFleet } from '../facts/fleet.ts';
import { type Figure, keepResult } from '../results.ts';
import { EVENTS_PER_REQUEST } from './stream.ts';

const seconds = Number(process.env.BENCH_SECONDS ?? 5);
const fleet = await startFleet(64);
const figures: Figure[] = [];
try {
  const intake = await fleet.load(new URL('stream.ts', import.meta.url), seconds);
  const stored = (await fleet.pool.query('select count(*)::int as count from run_event')).rows[0].count;
  if (stored < intake.requests * EVENTS_PER_REQUEST) throw new Error('an acknowledged event is not stored');
  const cpu = intake.serverCpu + intake.databaseCpu;
  tell({
    name: 'event intake, 50 a request',
    unit: 'events stored per second',
    ours: intake.rate * EVENTS_PER_REQUEST,
    note:
      `${Math.round(intake.rate)} requests/s, p50 ${intake.p50Ms.toFixed(0)} ms, p99 ${intake.p99Ms.toFixed(0)} ms; ` +
      `${Math.round((intake.requests * EVENTS_PER_REQUEST) / cpu)} events per CPU second, of which PostgreSQL ${Math.round((100 * intake.databaseCpu) / cpu)} %`,
  });

  const delays = await watchDelays(500);
  const at = (share: number) => delays[Math.floor(delays.length * share)]!;
  tell({
    name: 'node sends → watcher sees, p99 of 500',
    unit: 'ms',
    ours: at(0.99),
    aim: 250,
    aimIsMost: true,
    note: `p50 ${at(0.5).toFixed(1)} ms, most ${delays.at(-1)!.toFixed(1)} ms; one event a request`,
  });
  if (seconds >= 5) await keepResult({ bench: 'report', figures });
} finally {
  await fleet.stop();
}

function tell(figure: Figure): void {
  figures.push(figure);
  console.log(figure);
}

/** Sends the events of one run one by one, and gives the ascending times in ms until a watcher had each. */
async function watchDelays(count: number): Promise<number[]> {
  const line = readFileSync(new URL('../../test/fixtures/report/failed-run-puppet-7.ndjson', import.meta.url), 'utf8')
    .split('\n')
    .find((text) => text.includes('"kind":"resource"'))!;
  const [node] = fleet.nodes;
  const run = randomUUID();
  const path = `/node/v1/nodes/${node!.certname}/runs/${run}/events`;
  const base = { host: '127.0.0.1', port: fleet.port, servername: 'localhost', ca: fleet.ca };
  const seenAt = new Map<number, number>();

  const watching = request({ ...base, path: '/api/v1/watch', headers: { authorization: `Bearer ${fleet.token}` } });
  watching.end();
  const stream = await new Promise<IncomingMessage>((resolve, reject) =>
    watching.on('response', resolve).on('error', reject),
  );
  if (stream.statusCode !== 200) throw new Error(`the watch answers ${stream.statusCode}`);
  stream.setEncoding('utf8').on('data', (text: string) => {
    for (const [, sequence] of text.matchAll(/^id: [0-9a-f-]+:(\d+)$/gm)) {
      if (!seenAt.has(Number(sequence))) seenAt.set(Number(sequence), performance.now());
    }
  });

  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const sentAt: number[] = [];
  for (let sequence = 1; sequence <= count; sequence += 1) {
    sentAt.push(performance.now());
    await new Promise<void>((resolve, reject) => {
      const post = request(
        { ...base, agent, method: 'POST', path, cert: node!.certificatePem, key: node!.privateKeyPem },
        (answer) => {
          if (answer.statusCode !== 200) reject(new Error(`events are answered ${answer.statusCode}`));
          answer.resume().on('end', resolve);
        },
      );
      post.on('error', reject);
      post.end(`{"sequence":${sequence}${line.slice(line.indexOf(','))}\n`);
    });
  }
  for (const deadline = Date.now() + 10_000; seenAt.size < count; ) {
    if (Date.now() > deadline) throw new Error(`only ${seenAt.size} of ${count} events were seen`);
    await new Promise((later) => setTimeout(later, 20));
  }
  watching.destroy();
  agent.destroy();
  return sentAt.map((sent, i) => seenAt.get(i + 1)! - sent).sort((a, b) => a - b);
}
