/** What differs between two catalogs, as lines for people: the same in `callboard diff`, in a plan and in a history. */
import pc from './colours.ts';
import { short } from './table.ts';

export interface ParameterChange {
  name: string;
  change: 'added' | 'removed' | 'changed';
  sensitive: boolean;
  from?: unknown;
  to?: unknown;
  diff?: string;
}

export interface ContentSide {
  kind: string;
  size?: number;
  hash?: string;
  target?: string;
}

export interface ContentChange {
  path: string;
  change: 'added' | 'removed' | 'changed';
  from?: ContentSide;
  to?: ContentSide;
  diff?: string;
}

export interface ResourceChange {
  resource: string;
  change: 'added' | 'removed' | 'changed';
  position_only?: boolean;
  parameters: ParameterChange[];
  contents: ContentChange[];
  tags?: { added: string[]; removed: string[] };
  other: string[];
}

/** One line about a change. Coloured and indented it is for a terminal, with its sign in front for a diff block of Markdown. */
export interface ChangeLine {
  sign: '+' | '-' | '~' | '@' | ' ';
  /** 0: the resource. 1: what of it. 2: a line of a unified diff. */
  depth: 0 | 1 | 2;
  text: string;
  /** Both values, where the line tells one against the other. */
  values?: { from: string; to: string };
}

const SIGN = { added: '+', removed: '-', changed: '~' } as const;

/** A resource with all that differs in it. */
export function changeLines(each: ResourceChange): ChangeLine[] {
  const lines: ChangeLine[] = [{ sign: SIGN[each.change], depth: 0, text: each.resource }];
  for (const parameter of each.parameters) lines.push(...parameterLines(parameter));
  for (const content of each.contents) lines.push(...contentLines(content));
  if (each.tags) {
    const tags = [...each.tags.added.map((tag) => `+${tag}`), ...each.tags.removed.map((tag) => `-${tag}`)];
    lines.push({ sign: ' ', depth: 1, text: `tags: ${tags.length > 0 ? tags.join(' ') : 'in another order'}` });
  }
  for (const other of each.other) lines.push({ sign: ' ', depth: 1, text: `${other} differs` });
  return lines;
}

/** The same for a terminal. */
export function resourceLines(each: ResourceChange): string[] {
  return changeLines(each).map(terminalLine);
}

const COLOUR = { '+': pc.green, '-': pc.red, '~': pc.yellow, '@': pc.cyan, ' ': (text: string) => text } as const;
const INDENT = ['', '    ', '      '] as const;

export function terminalLine({ sign, depth, text, values }: ChangeLine): string {
  if (values) return `${INDENT[depth]}${text}: ${pc.red(values.from)} → ${pc.green(values.to)}`;
  return COLOUR[sign](`${INDENT[depth]}${depth === 0 ? `${sign} ` : ''}${text}`);
}

function parameterLines({ name, change, sensitive, from, to, diff }: ParameterChange): ChangeLine[] {
  if (diff) return [{ sign: ' ', depth: 1, text: `${name}:` }, ...unified(diff)];
  const value = (of: unknown): string => (of === undefined && sensitive ? '[sensitive]' : JSON.stringify(of));
  if (change === 'added') return [{ sign: '+', depth: 1, text: `${name} => ${value(to)}` }];
  if (change === 'removed') return [{ sign: '-', depth: 1, text: `${name} => ${value(from)}` }];
  return [{ sign: '~', depth: 1, text: name, values: { from: value(from), to: value(to) } }];
}

function contentLines({ path, from, to, diff }: ContentChange): ChangeLine[] {
  const text = `content of ${path}`;
  if (diff) return [{ sign: ' ', depth: 1, text: `${text}:` }, ...unified(diff)];
  const side = (of: ContentSide | undefined): string => {
    if (of === undefined) return 'absent';
    if (of.kind === 'link') return `link to ${of.target}`;
    if (of.kind === 'sensitive') return '[sensitive]';
    const size = of.size === undefined ? '' : `${of.size} bytes`;
    return [of.kind, size, of.hash ? short(of.hash) : ''].filter(Boolean).join(' ');
  };
  return [{ sign: '~', depth: 1, text, values: { from: side(from), to: side(to) } }];
}

function unified(diff: string): ChangeLine[] {
  return diff
    .trimEnd()
    .split('\n')
    .map((text) => {
      const first = text[0];
      return { sign: first === '+' || first === '-' || first === '@' ? first : ' ', depth: 2, text };
    });
}
