/**
 * What a run costs that changes nothing: the warm runner against stock Puppet, in CPU seconds of everything that takes part
 * on the node.
 *
 *   node bench/run/no-change.ts [--resources 40] [--runs 10]
 *
 * Ours: the runner with all its children, from /proc, and this process, which spools and reads events as the daemon does.
 * Stock: `puppet agent -t` against a stock server where `bench/stock.ts` finds one; it is given an environment of the same
 * resources. And always `puppet apply --catalog` of the very same catalog, which also loads Ruby and Puppet, runs Facter and
 * applies, and is cheaper than the agent by pluginsync, the catalog's download and the report.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { pino } from 'pino';
import { servedCatalog } from '../../src/model/catalog.ts';
import { runIdAt } from '../../src/run/run-id.ts';
import { type PuppetJob, Runner } from '../../src/run/runner.ts';
import { Spool } from '../../src/run/spool.ts';
import { keepResult } from '../results.ts';
import { type StockServer, stockServer } from '../stock.ts';

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

  const server = await stockServer();
  const stockRuns = Math.max(3, Math.ceil(runs / 3));
  const apply: number[] = [];
  for (let index = 0; index < stockRuns; index++) apply.push(await cpuOfCommand(applyCommand(catalog)));
  const agent: number[] = [];
  if (server) {
    const command = await agentCommand(server, catalog);
    await cpuOfCommand(command); // Its first run has plugins to fetch.
    for (let index = 0; index < stockRuns; index++) agent.push(await cpuOfCommand(command));
  }

  const note = `median of ${runs} runs, least ${Math.min(...ours).toFixed(2)} s, wall ${median(walls).toFixed(2)} s; a collection of facts, apart: ${factsCpu.toFixed(2)} s`;
  const row = (name: string, stock: number[]) => ({
    name: `no-change run of ${resources} resources, against ${name}`,
    unit: 'CPU seconds',
    ours: median(ours),
    yardstick: median(stock),
    aim: 0.2,
    aimIsMost: true,
    note,
  });
  const figures = [row('puppet apply --catalog', apply), ...(server ? [row('puppet agent -t', agent)] : [])];
  for (const figure of figures)
    say(
      `${figure.name}: ${figure.ours.toFixed(2)} / ${figure.yardstick.toFixed(2)} CPU s = ${(figure.ours / figure.yardstick).toFixed(3)}`,
    );
  say(note);
  await keepResult({ bench: 'run', yardstick: "stock Puppet on the same machine, the node's side only", figures });
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

function applyCommand(catalog: string): string[] {
  // Without the facts of whatever modules this machine has installed.
  const directories = [
    '--confdir',
    `${directory}/stock/conf`,
    '--vardir',
    `${directory}/stock/var`,
    '--basemodulepath',
    `${directory}/none`,
  ];
  return ['puppet', 'apply', '--catalog', catalog, '--certname', CERTNAME, ...directories];
}

/** An agent of the stock server, in an environment with the catalog's resources. */
async function agentCommand(server: StockServer, catalog: string): Promise<string[]> {
  const { resources } = JSON.parse(await readFile(catalog, 'utf8')) as {
    resources: { type: string; title: string; parameters: Record<string, string | boolean> }[];
  };
  const manifest = resources
    .filter(({ type }) => type === 'File' || type === 'Exec')
    .map(({ type, title, parameters }) => {
      const lines = Object.entries(parameters).map(([name, value]) =>
        name === 'subscribe'
          ? `subscribe => File['${String(value).slice('File['.length, -1)}'],`
          : `${name} => ${JSON.stringify(value)},`,
      );
      return `${type.toLowerCase()} { '${title}':\n  ${lines.join('\n  ')}\n}\n`;
    });
  const files: Record<string, Buffer> = {
    'manifests/site.pp': Buffer.from(manifest.join('')),
    // No plugins of other modules: as little as an agent can have to do.
    'environment.conf': Buffer.from('modulepath = modules\n'),
  };
  for (const { parameters } of resources) {
    const name = /^puppet:\/\/\/modules\/bench\/(\d+)$/.exec(String(parameters.source))?.[1];
    if (name) files[`modules/bench/files/${name}`] = Buffer.from(`file ${name}\n`.repeat(20));
  }
  const environment = await server.writeEnvironment(`callboard_bench_${process.pid}`, files);
  return [
    'puppet',
    'agent',
    '-t',
    ...(await server.agentOptions(join(directory, 'agent'))),
    '--environment',
    environment,
  ];
}

/** CPU seconds of a command, by the shell's `times`: all that it started and waited for. Throws unless it ends well. */
async function cpuOfCommand(command: string[]): Promise<number> {
  const { stdout } = await execa('bash', [
    '-c',
    '"$@" > "$0" 2>&1; echo $?; times',
    join(directory, 'stock.log'),
    ...command,
  ]);
  const [exit, , children] = stdout.split('\n');
  if (exit !== '0' && exit !== '2')
    throw new Error((await readFile(join(directory, 'stock.log'), 'utf8')).slice(-3000));
  return [...children!.matchAll(/(\d+)m([\d.]+)s/g)].reduce((sum, [, m, s]) => sum + Number(m) * 60 + Number(s), 0);
}

function median(list: number[]): number {
  return [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
