/**
 * What a node says about itself, split in two: the *stable document*, whose hash names the facts and on whose change compiles
 * hang, and the *volatile values* (uptime, load, free memory …), which differ each time and are kept beside it. The split
 * removes members and their commas from the submitted bytes and touches nothing else, so numbers, escapes, order and white
 * space survive to the byte, and node and server come to the same hash. Format: docs/formats/facts-v1.md.
 */
import { createHash } from 'node:crypto';
import { CallboardError } from './errors.ts';
import { parseRaw, type RawMember, type RawValue } from './json.ts';
import { FACT_NAME_BYTES_MAX, FACT_NAMES_MAX } from './limits.ts';

/** Members to take out: all of it, or those inside that the rule names; `*` is any name. */
type Rule = true | Rules;
type Rules = { readonly [name: string]: Rule };

const SPACE: Rules = { available: true, available_bytes: true, used: true, used_bytes: true, capacity: true };

/**
 * Facter's values that change by themselves, structured and legacy. Only names that Facter gives: a site's own fact, though it
 * be called uptime_policy, is never taken out.
 */
const VOLATILE: Rules = {
  system_uptime: true,
  uptime: true,
  uptime_days: true,
  uptime_hours: true,
  uptime_seconds: true,
  load_averages: true,
  memory: { '*': SPACE },
  memoryfree: true,
  memoryfree_mb: true,
  swapfree: true,
  swapfree_mb: true,
  mountpoints: { '*': SPACE },
  processors: { speed: true },
  system_profiler: { uptime: true },
  sp_uptime: true,
};

export interface SplitFacts {
  /** The submitted text less its volatile members. */
  stable: string;
  /** A JSON object of the same nesting with only those members; `{}` where there were none. */
  volatile: string;
  /** Lower-case hex SHA-256 of the stable document's bytes. */
  hash: string;
}

/**
 * Splits the JSON text of a Facter values object. Throws JSON_INVALID as the JSON reader does, and FACTS_INVALID when it is
 * not an object, has too many or too long names, or one with `::`, which Puppet could mistake for a class's variable.
 */
export function splitFacts(bytes: Buffer): SplitFacts {
  const facts = parseRaw(bytes);
  if (facts.kind !== 'object') throw new CallboardError('FACTS_INVALID', { reason: `they are ${a(facts.kind)}` });
  checkNames(facts.members());

  const cuts: [start: number, end: number][] = [];
  const volatile = takeOut(facts, VOLATILE, cuts);
  const kept: Buffer[] = [];
  let at = 0;
  for (const [start, end] of cuts) {
    kept.push(bytes.subarray(at, start));
    at = end;
  }
  kept.push(bytes.subarray(at));
  const stable = Buffer.concat(kept);
  return {
    stable: stable.toString('utf8'),
    volatile: volatile || '{}',
    hash: createHash('sha256').update(stable).digest('hex'),
  };
}

/** The whole facts again, as JSON text: the volatile members are put behind the stable ones, level by level. */
export function mergeFacts(stable: string, volatile: string): string {
  return merge(parseRaw(Buffer.from(stable)), parseRaw(Buffer.from(volatile)));
}

/** The one text of a certificate's extensions: equal extensions give equal text, so that texts can be compared. */
export function extensionsText(extensions: Record<string, string>): string {
  const names = Object.keys(extensions).sort();
  return JSON.stringify(Object.fromEntries(names.map((name) => [name, extensions[name]])));
}

function checkNames(members: RawMember[]): void {
  if (members.length > FACT_NAMES_MAX) {
    throw new CallboardError('FACTS_INVALID', {
      reason: `they are ${members.length} at the top, and ${FACT_NAMES_MAX} is the most`,
    });
  }
  for (const { key } of members) {
    if (key.includes('::')) throw new CallboardError('FACTS_INVALID', { reason: `the name '${key}' contains '::'` });
    if (Buffer.byteLength(key) > FACT_NAME_BYTES_MAX) {
      throw new CallboardError('FACTS_INVALID', {
        reason: `the name '${key.slice(0, 50)}…' is longer than ${FACT_NAME_BYTES_MAX} bytes`,
      });
    }
  }
}

/** Adds to `cuts` what is to be removed from an object, and gives the removed members as an object's text ('' for none). */
function takeOut(object: RawValue, rules: Rules, cuts: [number, number][]): string {
  const members = object.members();
  const taken: string[] = [];
  let keptBefore = false;
  for (const [index, member] of members.entries()) {
    const inner = Object.hasOwn(rules, member.key) ? rules[member.key] : rules['*'];
    if (inner === true) {
      taken.push(object.document.toString('utf8', member.start, member.value.end));
      // A comma goes with each member: the one before it, or, where nothing is kept before, the one after.
      if (keptBefore) cuts.push([members[index - 1]!.value.end, member.value.end]);
      else cuts.push([member.start, members[index + 1]?.start ?? member.value.end]);
      continue;
    }
    keptBefore = true;
    if (inner === undefined || member.value.kind !== 'object') continue;
    const text = takeOut(member.value, inner, cuts);
    if (text) taken.push(`${JSON.stringify(member.key)}:${text}`);
  }
  return taken.length > 0 ? `{${taken.join(',')}}` : '';
}

function merge(stable: RawValue, volatile: RawValue): string {
  const additions = new Map(volatile.members().map((member) => [member.key, member.value]));
  const parts = stable.members().map(({ key, value }) => {
    const addition = additions.get(key);
    additions.delete(key);
    return `${JSON.stringify(key)}:${addition ? merge(value, addition) : value.text}`;
  });
  for (const [key, value] of additions) parts.push(`${JSON.stringify(key)}:${value.text}`);
  return `{${parts.join(',')}}`;
}

function a(kind: string): string {
  return kind === 'array' ? 'an array' : kind === 'null' ? 'null' : `a ${kind}`;
}
