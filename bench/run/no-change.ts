/**
 * What a run costs that changes nothing: the warm runner against stock Puppet, in CPU seconds of everything that takes part.
 *
 *   node bench/run/no-change.ts [--resources 40] [--runs 10]
 *
 * Ours: the runner with all its children, from /proc, and this process, which spools and reads events as the daemon does.
 * Stock: `puppet agent -t --server $STOCK_SERVER` where that is given (its certificates must be in order, and the catalog is the
 * server's). Otherwise `puppet apply --catalog` of the very same catalog, which also loads Ruby and Puppet, runs Facter and applies,
 * and is cheaper than the agent by pluginsync, the catalog's download and the report: the comparison is unfair to us.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { pino } from 'pino';
import { servedCatalog } from '../../src/model/catalog.ts';
import { runIdAt } from '../../src/run/run-id.ts';
import { type PuppetJob, Runner } from '../../src/run/runner.ts';
import { Spool } from '../../src/run/spool.ts';

const CERTNAME = 'bench.example';
const TICKS_PER_SECOND = 100;

const { values } = parseArgs({
  options: { resources: { type: 'string', default: '40' }, runs: { type: 'string', default: '10' } },
});
const directory = await mkdtemp(join(tmpdir(), 'callboard-bench-'));
try {
  await bench(Number(values.resources), Number(values.runs));
} finally {
  await rm(directory, { recursive: true, force: true });
}

async function bench(resources: number, runs: number): Promise<void> {
  const catalog = join(directory, 'catalog.json');
  await writeFile(catalog, await makeCatalog(resources));
  const spool = new Spool(join(directory, 'spool'), 1e9);
  await spool.open();
  const stop = new AbortController();
  const runner = new Runner({ log: pino({ enabled: false }), stop: stop.signal });
  const { pid } = await runner.warm();
  const job: PuppetJob = {
    certname: CERTNAME,
    environment: 'production',
    directory: join(directory, 'puppet'),
    plugins: null,
    noop: false,
    log_level: 'notice',
    settings: {},
  };
  const facts = join(directory, 'facts.json');
  const beforeFacts = cpuOf(pid);
  await runner.facts({ ...job, output: facts }, 300_000);
  const factsCpu = cpuOf(pid) - beforeFacts;

  const runOnce = async (): Promise<string> => {
    const id = runIdAt(Date.now(), randomBytes(10));
    const { path } = await spool.begin(id, new Date(), {});
    const end = await runner.run(
      {
        ...job,
        id,
        catalog,
        content: join(directory, 'content'),
        facts,
        events: path,
        sequence: 2,
        events_bytes_max: 1e8,
      },
      { appended: (bytes) => spool.grown(id, bytes) },
    );
    await spool.finish(id, new Date(), {});
    return end.ended?.status ?? String(end.failed);
  };
  say(`first run: ${await runOnce()}`);
  const ours: number[] = [];
  const walls: number[] = [];
  for (let index = 0; index < runs; index++) {
    const mine = process.cpuUsage();
    const before = cpuOf(pid);
    const startedAt = performance.now();
    const status = await runOnce();
    if (status !== 'unchanged') throw new Error(`a run was ${status}`);
    walls.push((performance.now() - startedAt) / 1000);
    const { user, system } = process.cpuUsage(mine);
    ours.push(cpuOf(pid) - before + (user + system) / 1e6);
  }
  await runner.close();

  const server = process.env.STOCK_SERVER;
  const stockRuns = Math.max(3, Math.ceil(runs / 3));
  const stock: number[] = [];
  for (let index = 0; index < stockRuns; index++) stock.push(await stockCpu(catalog, server));

  const stockName = server ? `puppet agent -t --server ${server}` : 'puppet apply --catalog';
  say(`catalog of ${resources} resources, ${runs} runs of ours, ${stockRuns} of stock; CPU seconds, median (least)`);
  say(`  a run by the warm runner      ${figures(ours)}   wall ${median(walls).toFixed(2)} s`);
  say(`  ${stockName.padEnd(28)}  ${figures(stock)}`);
  say(`  ratio of medians              ${(median(ours) / median(stock)).toFixed(3)}   (aim: 0.2 at most)`);
  say(`  a collection of facts (apart) ${factsCpu.toFixed(2)}`);
  if (!server)
    say('STOCK_SERVER is not set: stock is `puppet apply --catalog` of the same catalog, not `puppet agent -t`.');
}

/** Files with content, a tree, some execs and the relationships between them, as small roles have. */
async function makeCatalog(count: number): Promise<Buffer> {
  const target = join(directory, 'target');
  await mkdir(target);
  const resources: object[] = [
    {
      exported: false,
      kind: 'compilable_type',
      parameters: { name: 'main' },
      tags: ['stage'],
      title: 'main',
      type: 'Stage',
    },
    { exported: false, kind: 'class', parameters: {}, tags: ['class'], title: 'main', type: 'Class' },
  ];
  const edges: object[] = [{ source: 'Stage[main]', target: 'Class[main]' }];
  const metadata: Record<string, object> = {};
  for (let index = 0; index < count; index++) {
    const text = `file ${index}\n`.repeat(20);
    const hash = createHash('sha256').update(text).digest('hex');
    await mkdir(join(directory, 'content', hash.slice(0, 2)), { recursive: true });
    await writeFile(join(directory, 'content', hash.slice(0, 2), hash), text);
    const title = join(target, String(index));
    const source = `puppet:///modules/bench/${index}`;
    const isExec = index % 10 === 9;
    const parameters = isExec
      ? { command: '/bin/true', refreshonly: true, subscribe: `File[${join(target, String(index - 1))}]` }
      : index % 2
        ? { ensure: 'file', mode: '0644', source }
        : { ensure: 'file', mode: '0644', content: text };
    const type = isExec ? 'Exec' : 'File';
    resources.push({ exported: false, kind: 'compilable_type', parameters, tags: [type.toLowerCase()], title, type });
    edges.push({ source: 'Class[main]', target: `${type}[${title}]` });
    if ('source' in parameters)
      metadata[title] = {
        checksum: { type: 'sha256', value: `{sha256}${hash}` },
        content_uri: `puppet:///sha256/${hash}`,
        destination: null,
        group: 0,
        links: 'manage',
        mode: 0o644,
        owner: 0,
        path: `/modules/bench/${index}`,
        relative_path: null,
        source,
        type: 'file',
      };
  }
  const canonical = {
    catalog_format: 2,
    classes: [],
    edges,
    environment: 'production',
    metadata,
    name: CERTNAME,
    resources,
    tags: [],
  };
  return servedCatalog(Buffer.from(JSON.stringify(canonical))).document;
}

/** CPU seconds of a process and of those of its children that it has waited for. */
function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / TICKS_PER_SECOND;
}

/** CPU seconds of one stock run, by the shell's `times`: all that it started and waited for. */
async function stockCpu(catalog: string, server: string | undefined): Promise<number> {
  const puppet = server
    ? ['agent', '-t', '--server', server]
    : [
        'apply',
        '--catalog',
        catalog,
        '--certname',
        CERTNAME,
        '--confdir',
        `${directory}/stock/conf`,
        '--vardir',
        `${directory}/stock/var`,
        // Without the facts of whatever modules this machine has installed.
        '--basemodulepath',
        `${directory}/none`,
      ];
  const { stdout } = await execa('bash', ['-c', '"$@" > /dev/null 2>&1; times', 'bash', 'puppet', ...puppet]);
  const children = stdout.split('\n')[1]!;
  return [...children.matchAll(/(\d+)m([\d.]+)s/g)].reduce((sum, [, m, s]) => sum + Number(m) * 60 + Number(s), 0);
}

function median(list: number[]): number {
  return [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!;
}

function figures(list: number[]): string {
  return `${median(list).toFixed(2)} (${Math.min(...list).toFixed(2)})`;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
