/**
 * What a warm compile costs, and what it costs to tell what it read: CPU of everything in the compile's process, for the
 * roles of test/fixtures/differential-repo on Debian's modules.
 *
 *   node bench/compile/compile.ts [--repetitions 7] [--warm 25]
 *   node bench/compile/compile.ts --roles db,cloud                 # only these, and writes nothing
 *
 * Traced and untraced compiles alternate, so that both see the same machine. The yardstick, where `bench/stock.ts` finds
 * one, is a stock puppetserver that compiles the same code for the same facts, as often as it takes to warm it (`--warm`);
 * its CPU is that of its whole process, compiler threads and garbage collection included, as ours is of the whole process.
 */
import { readdir, readFile, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CompilePool } from '../../src/compile/pool.ts';
import { factsOf, layCode } from '../../test/differential/code.ts';
import { request } from '../../test/ruby-worker/compiling.ts';
import { type Figure, isMet, keepResult } from '../results.ts';
import { type StockServer, stockServer } from '../stock.ts';

const REPO = fileURLToPath(new URL('../../test/fixtures/differential-repo', import.meta.url));
const ROLES = { web: 'web', db: 'database', time: 'time', bastion: 'bastion', cloud: 'cloud' };

const { values } = parseArgs({
  options: {
    repetitions: { type: 'string', default: '7' },
    warm: { type: 'string', default: '25' },
    roles: { type: 'string' },
  },
});
const repetitions = Number(values.repetitions);

const code = await layCode();
const pool = new CompilePool({ ruby: 'ruby', certname: 'callboard', concurrency: 1 });
try {
  const stock = await stockServer();
  const figures: Figure[] = [];
  const ratios: number[] = [];
  const toStock: number[] = [];
  for (const [name, role] of Object.entries(ROLES)) {
    if (values.roles && !values.roles.split(',').includes(name)) continue;
    const ours = await measureOurs(`${name}.example.net`);
    const theirs = stock && (await measureStock(stock, role));
    const ratio = median(ours.traced) / median(ours.untraced);
    ratios.push(ratio);
    if (theirs !== undefined) toStock.push(median(ours.traced) / theirs);
    figures.push({
      name: `${name}, traced`,
      unit: 'CPU ms',
      ours: median(ours.traced),
      ...(theirs !== undefined && { yardstick: theirs, aim: 1, aimIsMost: true }),
      note: `least ${Math.min(...ours.traced)}; untraced ${median(ours.untraced)}, least ${Math.min(...ours.untraced)}: tracing × ${ratio.toFixed(2)}`,
    });
    console.log(figures.at(-1));
  }
  figures.push({ name: 'tracing, median role', unit: '× untraced', ours: median(ratios), aim: 1.2, aimIsMost: true });
  if (toStock.length > 0)
    figures.push({ name: 'traced, median role', unit: '× stock', ours: median(toStock), aim: 1, aimIsMost: true });
  const yardstick = stock && {
    yardstick: 'stock puppetserver, warm, environment_timeout = unlimited, its whole process',
  };
  if (!values.roles) await keepResult({ bench: 'compile', ...yardstick, figures });
  console.log(`tracing × ${median(ratios).toFixed(2)}; aims ${figures.every(isMet) ? 'met' : 'not met'}`);
} finally {
  await pool.close();
  await code.remove();
}

async function measureOurs(certname: string): Promise<{ traced: number[]; untraced: number[] }> {
  const asked = request(certname, { codeDirectory: code.directory, facts: JSON.stringify(await factsOf(certname)) });
  const cpu = async (trace: boolean) => {
    const result = await pool.compile({ ...asked, trace });
    if (result.status === 'failed') throw new Error(result.error.message);
    return result.cpuMs!;
  };
  // What the first ones parse is parsed ahead for the next, in idle moments, and what they load is loaded ahead.
  for (let n = 0; n < 6; n += 1) {
    await cpu(true);
    await sleep(2000);
  }
  const traced: number[] = [];
  const untraced: number[] = [];
  for (let n = 0; n < repetitions; n += 1) {
    traced.push(await cpu(true));
    untraced.push(await cpu(false));
  }
  return { traced, untraced };
}

/** CPU ms of one compile, on average over some when warm. */
async function measureStock(stock: StockServer, role: string): Promise<number | undefined> {
  if (stock.cpuSeconds() === undefined) return undefined;
  const files = await filesOf(REPO);
  files['manifests/site.pp'] = Buffer.from(`include role::${role}\nFile { backup => false }\n`);
  // A name of its own: the server remembers environments.
  const environment = await stock.writeEnvironment(`callboard_compile_${role}_${process.pid}`, files);
  const facts = await factsOf(stock.certname);
  for (let n = 0; n < Number(values.warm); n += 1) await stock.catalog(environment, facts);
  const rounds: number[] = [];
  for (let n = 0; n < repetitions; n += 1) {
    const before = stock.cpuSeconds()!;
    for (let m = 0; m < availableParallelism(); m += 1) await stock.catalog(environment, facts);
    rounds.push(((stock.cpuSeconds()! - before) * 1000) / availableParallelism());
  }
  await rm(join(process.env.STOCK_ENVIRONMENTS!, environment), { recursive: true });
  return median(rounds);
}

async function filesOf(directory: string): Promise<Record<string, Buffer>> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Object.fromEntries(
    await Promise.all(files.map(async (path) => [path.slice(directory.length + 1), await readFile(path)] as const)),
  );
}

function median(numbers: number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)]!;
}
