/**
 * Facts submitted by 256 nodes at once, each with its own certificate: unchanged (one hash) and changed (30 KB, all of it
 * new, and a compile queued). What is counted is committed. `node bench/facts/facts.ts`
 */
import { type Figure, keepResult } from '../results.ts';
import { document } from './documents.ts';
import { type FleetMeasured, startFleet } from './fleet.ts';

const NODES = 256;
const seconds = Number(process.env.BENCH_SECONDS ?? 5);
const fleet = await startFleet(NODES);
const figures: Figure[] = [];
try {
  console.log(`a document has ${document('x').length} bytes`);
  const unchanged = await fleet.load(new URL('unchanged.ts', import.meta.url), seconds);
  figures.push(figure('unchanged', unchanged, 2000));
  const count = async () => (await fleet.pool.query('select count(*)::int as count from fact_history')).rows[0].count;
  const before = await count();
  const changed = await fleet.load(new URL('changed.ts', import.meta.url), seconds, 64);
  if ((await count()) - before < changed.requests) throw new Error('an acknowledged change is not in the history');
  figures.push(figure('changed, 30 KB', changed, 200));
  if (seconds >= 5) await keepResult({ bench: 'facts', figures });
} finally {
  await fleet.stop();
}

function figure(name: string, measured: FleetMeasured, aim: number): Figure {
  const cpu = measured.serverCpu + measured.databaseCpu;
  const made: Figure = {
    name,
    unit: 'submissions stored per second',
    ours: measured.rate,
    aim,
    note:
      `p50 ${measured.p50Ms.toFixed(0)} ms, p99 ${measured.p99Ms.toFixed(0)} ms; ` +
      `${Math.round(measured.requests / cpu)} per CPU second, of which PostgreSQL ${Math.round((100 * measured.databaseCpu) / cpu)} %`,
  };
  console.log(made);
  return made;
}
