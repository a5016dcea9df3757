/**
 * What benches write down: one JSON file a bench in `bench/results/`, and from all of them `bench/RESULTS.md` and a chart.
 * A figure without machine, commit and date is no figure.
 */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { execa } from 'execa';

export interface Figure {
  /** What was measured, as the row's name: "GET 1 KB". */
  name: string;
  unit: string;
  ours: number;
  /** The yardstick's figure of the same run, in the same unit; absent: there is none, `aim` is absolute. */
  yardstick?: number;
  /** Least ratio to the yardstick, or least figure where there is none. `aimIsMost`: most instead of least. */
  aim?: number;
  aimIsMost?: boolean;
  note?: string;
}

export interface BenchResult {
  /** Name of the bench and of its file: "content". */
  bench: string;
  /** What the yardstick is: "nginx 1.22.1 over TLS, client certificates". */
  yardstick?: string;
  figures: Figure[];
}

interface Kept extends BenchResult {
  at: string;
  commit: string;
  machine: string;
}

const FOLDER = new URL('results/', import.meta.url);

/** Keeps a bench's result in place of its last one and writes RESULTS.md and chart.svg anew. */
export async function keepResult(result: BenchResult): Promise<void> {
  const { stdout: commit } = await execa('git', ['rev-parse', '--short', 'HEAD'], { cwd: FOLDER.pathname });
  const { stdout: changes } = await execa('git', ['status', '--porcelain', '--', '../../src', '../../ruby'], {
    cwd: FOLDER.pathname,
  });
  const kept: Kept = {
    ...result,
    at: new Date().toISOString().slice(0, 16),
    commit: changes ? `${commit} with changes` : commit,
    machine: `${cpus().length} × ${cpus()[0]!.model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`,
  };
  await writeFile(new URL(`${result.bench}.json`, FOLDER), `${JSON.stringify(kept, null, 2)}\n`);
  await writeResults();
}

export async function writeResults(): Promise<void> {
  const names = (await readdir(FOLDER)).filter((name) => name.endsWith('.json')).sort();
  const all: Kept[] = await Promise.all(
    names.map(async (name) => JSON.parse(await readFile(new URL(name, FOLDER), 'utf8'))),
  );
  const parts = all.map(table);
  const text = `# Results

Written by the benches (see README.md); each table replaces the last one of its bench. Ratios are per CPU second of the serving
processes, so they hold for one core whatever else the machine did.

![Ratio to the yardstick](results/chart.svg)

${parts.join('\n')}`;
  await writeFile(new URL('RESULTS.md', import.meta.url), text);
  await writeFile(new URL('chart.svg', FOLDER), chart(all));
}

function table(result: Kept): string {
  const rows = result.figures.map((figure) => {
    const ratio = figure.yardstick === undefined ? '' : `${(figure.ours / figure.yardstick).toFixed(2)} ×`;
    const aim = figure.aim === undefined ? '' : `${figure.aimIsMost ? '≤' : '≥'} ${figure.aim}${ratio && ' ×'}`;
    const met = figure.aim === undefined ? '' : isMet(figure) ? 'yes' : '**no**';
    return `| ${figure.name} | ${shown(figure.ours)} ${figure.unit} | ${figure.yardstick === undefined ? '' : shown(figure.yardstick)} | ${ratio} | ${aim} | ${met} | ${figure.note ?? ''} |`;
  });
  return `## ${result.bench}

${result.at} UTC, commit ${result.commit}, ${result.machine}${result.yardstick ? `. Yardstick: ${result.yardstick}` : ''}.

| | ours | yardstick | ratio | aim | met | |
| --- | --- | --- | --- | --- | --- | --- |
${rows.join('\n')}
`;
}

/** Whether a figure reaches its aim; true where it has none. */
export function isMet({ ours, yardstick, aim, aimIsMost }: Figure): boolean {
  if (aim === undefined) return true;
  const figure = yardstick === undefined ? ours : ours / yardstick;
  return aimIsMost ? figure <= aim : figure >= aim;
}

function shown(figure: number): string {
  return figure >= 100 ? Math.round(figure).toLocaleString('en') : figure.toPrecision(3);
}

/** One bar a ratio, its aim as a line across. */
function chart(all: Kept[]): string {
  const bars = all.flatMap((result) =>
    result.figures
      .filter((figure) => figure.yardstick !== undefined)
      .map((figure) => ({
        label: `${result.bench}: ${figure.name}`,
        ratio: figure.ours / figure.yardstick!,
        aim: figure.aim,
        met: isMet(figure),
      })),
  );
  const scale = 360 / Math.max(1.2, ...bars.map((bar) => bar.ratio));
  const row = 26;
  const lines = bars.map((bar, n) => {
    const y = 10 + n * row;
    const aim =
      bar.aim === undefined
        ? ''
        : `<line x1="${260 + bar.aim * scale}" x2="${260 + bar.aim * scale}" y1="${y - 2}" y2="${y + 20}" stroke="#222" stroke-dasharray="3 2"/>`;
    return `  <text x="250" y="${y + 13}" text-anchor="end">${escapeXml(bar.label)}</text>
  <rect x="260" y="${y}" width="${(bar.ratio * scale).toFixed(1)}" height="18" fill="${bar.met ? '#3b7d5a' : '#b4552d'}"/>
  <text x="${(264 + bar.ratio * scale).toFixed(1)}" y="${y + 13}">${bar.ratio.toFixed(2)} ×</text>
  ${aim}`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="700" height="${20 + bars.length * row}" font-family="sans-serif" font-size="12">
  <rect width="100%" height="100%" fill="#fff"/>
  <line x1="${260 + scale}" x2="${260 + scale}" y1="4" y2="${14 + bars.length * row}" stroke="#999"/>
${lines.join('\n')}
</svg>
`;
}

function escapeXml(text: string): string {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;');
}
