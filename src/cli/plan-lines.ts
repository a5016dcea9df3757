/** What `GET /api/v1/plans/…` says, line by line, and the plan for a terminal. */
import { changeLines, type ResourceChange, terminalLine } from './change-lines.ts';
import pc from './colours.ts';
import { short } from './table.ts';

export interface PlanHead {
  environment: string;
  code_version: string;
  commit: string | null;
  trial: boolean;
}

export interface ListChange {
  added: string[];
  removed: string[];
}

export interface Change {
  resources: ResourceChange[];
  refreshed: { resource: string; because: string }[];
  order_changed: boolean;
  edges_changed: boolean;
  edges?: ListChange;
  tags?: ListChange;
  classes?: ListChange;
  other: string[];
}

export interface Group {
  count: number;
  certnames: string[];
  is_new: boolean;
  headline: string;
  counts: { added: number; removed: number; changed: number };
  /** Null where the plan as a whole is too large. */
  change: Change | null;
}

export interface Failure {
  count: number;
  certnames: string[];
  message: string;
  file: string | null;
  line: number | null;
}

export interface Summary {
  total: number;
  changed: number;
  new: number;
  unchanged: number;
  unaffected: number;
  failed: number;
  not_compiled: number;
}

/** A whole plan; `--json` prints it like this. */
export interface Plan {
  plan: PlanHead;
  groups: Group[];
  failures: Failure[];
  not_compiled: string[];
  summary: Summary;
}

export interface Progress {
  stage: 'compiling' | 'comparing';
  total: number;
  done: number;
  queued: number;
  seconds_left: number | null;
}

/** Names in a line of text: a few, and how many more. */
export function someOf(names: readonly string[], max: number): string {
  const shown = names.slice(0, max).join(', ');
  return names.length > max ? `${shown} and ${names.length - max} more` : shown;
}

export function nodes(count: number): string {
  return `${count} node${count === 1 ? '' : 's'}`;
}

/** The numbers in a sentence: "3 nodes change, 1 does not compile, 4 unchanged, 2 unaffected". */
export function summaryText(summary: Summary): string {
  const { changed, failed, not_compiled: missing } = summary;
  const parts = [
    changed > 0 ? `${nodes(changed)} change${changed === 1 ? 's' : ''}` : 'no node changes',
    ...(summary.new > 0 ? [`${summary.new} of them new`] : []),
    ...(failed > 0 ? [`${failed} ${failed === 1 ? 'does' : 'do'} not compile`] : []),
    ...(missing > 0 ? [`${missing} not compiled yet`] : []),
    ...(summary.unchanged > 0 ? [`${summary.unchanged} unchanged`] : []),
    ...(summary.unaffected > 0 ? [`${summary.unaffected} unaffected (not compiled anew)`] : []),
  ];
  return parts.join(', ');
}

/** A name for the code of a plan. */
export function codeText({ code_version, commit, trial }: PlanHead): string {
  if (trial) return `code ${short(code_version)} (a working tree)`;
  return `code ${short(code_version)}${commit ? ` (commit ${short(commit)})` : ''}`;
}

/** Certnames that a line of text lists. */
const NAMES_MAX = 8;

export function planText(plan: Plan): string {
  const lines = [`${pc.bold(plan.plan.environment)}, ${codeText(plan.plan)}: ${summaryText(plan.summary)}`];
  for (const group of plan.groups) lines.push('', ...groupLines(group));
  for (const failure of plan.failures) {
    const where = failure.file ? ` (${failure.file}${failure.line ? `:${failure.line}` : ''})` : '';
    const isTold = failure.file !== null && failure.message.includes(failure.file);
    lines.push(
      '',
      pc.bold(pc.red(`${nodes(failure.count)}: ${failure.count === 1 ? 'does' : 'do'} not compile`)),
      pc.dim(`  ${someOf(failure.certnames, NAMES_MAX)}`),
      pc.red(`  ${failure.message}${isTold ? '' : where}`),
    );
  }
  if (plan.not_compiled.length > 0)
    lines.push('', `${nodes(plan.not_compiled.length)} not compiled yet`, `  ${someOf(plan.not_compiled, NAMES_MAX)}`);
  return lines.join('\n');
}

function groupLines(group: Group): string[] {
  const lines = [
    pc.bold(`${nodes(group.count)}: ${group.headline}`),
    pc.dim(`  ${someOf(group.certnames, NAMES_MAX)}`),
  ];
  const { change } = group;
  if (!change) return [...lines, `  ${detailsLeft(group)}`];
  for (const line of changeText(change, group.is_new)) lines.push(`  ${terminalLine(line)}`);
  for (const { resource, because } of change.refreshed)
    lines.push(pc.cyan(`  ↻ ${resource} refreshed because of ${because}`));
  return lines;
}

/** What stands in the place of a change that is too large to be told. */
export function detailsLeft({ counts, certnames }: Group): string {
  const { added, removed, changed } = counts;
  return `${added} added, ${removed} removed, ${changed} changed; see: callboard diff ${certnames[0]}`;
}

/** How many resources of a new node are listed: all of it is new, and said to be. */
const NEW_RESOURCES_MAX = 20;

/** The change line by line, but for what is refreshed. Resources of which only the tags differ are one line. */
export function changeText(change: Change, isNew = false): ReturnType<typeof changeLines> {
  const isTagsOnly = ({ change: kind, tags, contents, parameters, other }: ResourceChange): boolean =>
    kind === 'changed' && tags !== undefined && contents.length + parameters.length + other.length === 0;
  const tagsOnly = change.resources.filter(isTagsOnly);
  // The classes of a new node are listed by their names.
  const isScaffold = ({ resource }: ResourceChange): boolean => isNew && /^(Class|Stage|Node)\[/.test(resource);
  const told = change.resources.filter((each) => !isTagsOnly(each) && !isScaffold(each));
  const lines = isNew
    ? told.slice(0, NEW_RESOURCES_MAX).map((each) => changeLines(each)[0]!)
    : told.flatMap(changeLines);
  const say = (text: string, sign: '+' | '-' | ' ' = ' '): void => {
    lines.push({ sign, depth: 0, text });
  };
  if (isNew && told.length > NEW_RESOURCES_MAX) say(`and ${told.length - NEW_RESOURCES_MAX} more`);
  if (tagsOnly.length > 0)
    say(
      `tags only: ${someOf(
        tagsOnly.map((each) => each.resource),
        5,
      )}`,
    );
  for (const each of change.classes?.added ?? []) say(`class ${each}`, '+');
  for (const each of change.classes?.removed ?? []) say(`class ${each}`, '-');
  if (change.order_changed) say('resources are applied in another order');
  for (const each of change.edges?.added ?? []) say(`edge ${each}`, '+');
  for (const each of change.edges?.removed ?? []) say(`edge ${each}`, '-');
  if (lines.length === 0 && change.edges_changed) say('edges differ; see them with: --edges');
  for (const each of change.other) say(`${each} differs`);
  return lines;
}
