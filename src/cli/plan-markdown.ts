/**
 * A plan as Markdown for a comment at a pull request, within the characters that one may have: the largest groups with their
 * diffs, then groups as a line each, then their number. What is cut is said, and how to see it.
 */
import { COMMENT_CHARACTERS_MAX } from '../model/limits.ts';
import type { ChangeLine } from './change-lines.ts';
import {
  changeText,
  codeText,
  detailsLeft,
  type Failure,
  type Group,
  nodes,
  type Plan,
  someOf,
  summaryText,
} from './plan-lines.ts';

const NAMES_MAX = 20;
/** Room for the last lines, which say what was cut. */
const ENDING_CHARACTERS = 1_000;
/** One group's share where there are others: a plan of many changes shows several. */
const GROUP_SHARE = 0.5;

export function planMarkdown(plan: Plan, charactersMax = COMMENT_CHARACTERS_MAX): string {
  const command = `callboard plan ${plan.plan.environment} --code ${plan.plan.code_version.slice(0, 10)}`;
  let text = `### Callboard plan: ${code(plan.plan.environment)}, ${escaped(codeText(plan.plan))}\n\n${verdict(plan)}\n`;
  let left = charactersMax - ENDING_CHARACTERS - text.length;
  let [shortened, leftOut, leftOutNodes] = [0, 0, 0];
  const add = (candidates: (() => string)[], count: number): void => {
    const found = candidates.map((each) => each()).find((each) => each.length <= left);
    if (found === undefined) {
      leftOut++;
      leftOutNodes += count;
      return;
    }
    text += found;
    left -= found.length;
  };
  for (const failure of plan.failures) add([() => failureText(failure)], failure.count);
  for (const group of plan.groups) {
    const share = plan.groups.length > 1 ? Math.floor(left * GROUP_SHARE) : left;
    const whole = groupText(group, share);
    if (whole.cut) shortened++;
    add([() => whole.text, () => groupText(group, 0).text], group.count);
  }
  if (plan.not_compiled.length > 0)
    add([() => `\n**${nodes(plan.not_compiled.length)} not compiled yet:** ${names(plan.not_compiled)}\n`], 0);
  if (shortened > 0) text += `\n${shortened} of the changes ${shortened === 1 ? 'is' : 'are'} not shown whole.`;
  if (leftOut > 0) text += `\n${leftOut} more groups (${nodes(leftOutNodes)}) are left out.`;
  if (shortened + leftOut > 0) text += ` See all of it with: ${code(command)}\n`;
  return text;
}

function verdict({ summary }: Plan): string {
  return `**${summaryText(summary)}**, of ${nodes(summary.total)}.`;
}

function failureText({ count, certnames, message, file, line }: Failure): string {
  const where = file && !message.includes(file) ? `\n${file}${line ? `:${line}` : ''}` : '';
  const fence = fenceFor(message + where);
  return `\n#### ❌ ${nodes(count)}: ${count === 1 ? 'does' : 'do'} not compile\n${names(certnames)}\n\n${fence}\n${message}${where}\n${fence}\n`;
}

/** A group within so many characters; `cut`: its change is not there whole. */
function groupText(group: Group, charactersMax: number): { text: string; cut: boolean } {
  const head = `\n#### ${nodes(group.count)}: ${code(group.headline)}\n`;
  if (!group.change) return { text: `${head}${names(group.certnames)}\n\n${escaped(detailsLeft(group))}\n`, cut: true };
  const told = changeText(group.change, group.is_new).map(diffLine);
  for (const { resource, because } of group.change.refreshed)
    told.push(`  ${resource} refreshed because of ${because}`);
  const lines = told.flatMap((each) => each.split('\n'));
  const fence = fenceFor(lines.join('\n'));
  const open = `${head}<details><summary>${htmlEscaped(someOf(group.certnames, NAMES_MAX))}</summary>\n\n${fence}diff\n`;
  const close = `${fence}\n</details>\n`;
  let room = charactersMax - open.length - close.length;
  let shown = '';
  let cut = false;
  for (const each of lines) {
    if (each.length + 1 > room) {
      cut = true;
      break;
    }
    shown += `${each}\n`;
    room -= each.length + 1;
  }
  if (shown === '') return { text: `${head}${names(group.certnames)}\n`, cut };
  return { text: `${open}${shown}${close}`, cut };
}

/** In a diff block the first character colours the line: `!` is a change. */
function diffLine({ sign, depth, text, values }: ChangeLine): string {
  const said = values ? `${text}: ${values.from} → ${values.to}` : text;
  if (depth === 2) return said;
  const first = sign === '~' ? '!' : sign === '@' ? ' ' : sign;
  return `${first} ${'  '.repeat(depth)}${said}`;
}

/** More backquotes than stand together anywhere in the text. */
function fenceFor(text: string): string {
  const longest = Math.max(0, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  return '`'.repeat(Math.max(3, longest + 1));
}

function names(certnames: readonly string[]): string {
  return escaped(someOf(certnames, NAMES_MAX));
}

/** Text in backquotes, whatever it holds. */
function code(text: string): string {
  const line = text.replaceAll(/\s+/g, ' ');
  const longest = Math.max(0, ...(line.match(/`+/g) ?? []).map((run) => run.length));
  const quotes = '`'.repeat(longest + 1);
  return longest > 0 ? `${quotes} ${line} ${quotes}` : `${quotes}${line}${quotes}`;
}

function escaped(text: string): string {
  return text.replaceAll(/[\\`*_[\]<>#|~@]/g, '\\$&');
}

function htmlEscaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
