/** Tables that fit a terminal: columns as wide as they need, the last one cut where the line ends. */
import pc from './colours.ts';

const ANSI = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, 'g');

export function table(
  headings: string[],
  lines: string[][],
  width = process.stdout.columns ?? Number.POSITIVE_INFINITY,
): string {
  const widths = headings.map((heading, column) =>
    Math.max(length(heading), ...lines.map((line) => length(line[column] ?? ''))),
  );
  const row = (cells: string[]): string =>
    cut(
      cells.map((cell, column) => (column === cells.length - 1 ? cell : pad(cell, widths[column]!))).join('  '),
      width,
    );
  return [row(headings.map((heading) => pc.dim(heading))), ...lines.map(row)].join('\n');
}

function length(text: string): number {
  return text.replace(ANSI, '').length;
}

function pad(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - length(text)));
}

function cut(text: string, width: number): string {
  if (length(text) <= width) return text;
  // Colours are dropped with the tail: a cut line must not leave one switched on.
  return `${text.replace(ANSI, '').slice(0, width - 1)}…`;
}

/** The first digits of a hash, as people say them. */
export function short(hash: string | null | undefined): string {
  return hash ? hash.slice(0, 10) : '-';
}

/** How long ago, in one word: "12s", "5m", "3h", "2d". */
export function ago(time: string | Date | null | undefined, now = Date.now()): string {
  if (!time) return '-';
  const seconds = Math.max(0, Math.round((now - new Date(time).getTime()) / 1000));
  if (seconds < 90) return `${seconds}s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)}m`;
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)}h`;
  return `${Math.round(seconds / 86_400)}d`;
}
