/**
 * What compiles read of facts and trusted data, as paths (ruby/compile/PROTOCOL.md, "Reads"), and the digest of what is there.
 * Equal digests mean equal values at every path. A fact written in another way (white space, the order of members) counts as
 * another: that costs a compile and no more.
 */
import { createHash, type Hash } from 'node:crypto';
import { parseRaw, type RawValue } from '../model/json.ts';

/** `facts` or `trusted` or `server_facts`, then keys and indexes. */
export type DataPath = (string | number)[];

export interface NodeData {
  /** The stable document. */
  facts: string;
  /** The volatile values, nested as in the facts. */
  volatileFacts: string | null;
  /** node.trusted_extensions as JSON text. */
  extensions: string;
}

/** Server facts are the same for all nodes of a compiler, and part of the base (base.ts). */
export function dataDigest(paths: readonly DataPath[], data: NodeData): string {
  const [facts, volatile, extensions] = [data.facts, data.volatileFacts ?? '{}', data.extensions].map(
    (text) => new Values(text),
  ) as [Values, Values, Values];
  const hash = createHash('sha256');
  for (const [root, ...rest] of paths) {
    if (root === 'facts') {
      facts.digest(rest, hash);
      // Their values do not count (what reads them is volatile), but one that comes or goes does.
      hash.update(volatile.at(rest).found === undefined ? '-' : '+');
    } else if (root === 'trusted' && (rest.length === 0 || rest[0] === 'extensions'))
      extensions.digest(rest.slice(1), hash);
  }
  return hash.digest('hex');
}

/** The first of the paths that leads to values which change by themselves; undefined where none does. */
export function volatilePath(paths: readonly DataPath[], volatileFacts: string | null): DataPath | undefined {
  if (volatileFacts === null || volatileFacts === '{}') return undefined;
  const values = new Values(volatileFacts);
  return paths.find(([root, ...rest]) => root === 'facts' && values.at(rest).found !== undefined);
}

/** A document with the members of its objects found by name. */
class Values {
  readonly #root: RawValue;
  readonly #members = new Map<number, Map<string, RawValue>>();

  constructor(text: string) {
    this.#root = parseRaw(Buffer.from(text));
  }

  /** How far a path leads, and what is at its end. */
  at(path: readonly (string | number)[]): { depth: number; found: RawValue | undefined; last: RawValue } {
    let value = this.#root;
    for (const [depth, step] of path.entries()) {
      const next = typeof step === 'number' ? value.items()[step] : this.#membersOf(value).get(step);
      if (next === undefined) return { depth, found: undefined, last: value };
      value = next;
    }
    return { depth: path.length, found: value, last: value };
  }

  digest(path: readonly (string | number)[], into: Hash): void {
    const { depth, found, last } = this.at(path);
    // A member that is not there, and a text that has no members, are different answers (nothing, and an error).
    if (found === undefined) into.update(`absent at ${depth} of ${last.kind}\n`);
    else into.update(`${found.end - found.start} bytes `).update(found.bytes);
  }

  #membersOf(value: RawValue): Map<string, RawValue> {
    let members = this.#members.get(value.start);
    if (!members) {
      members = new Map(value.members().map((member) => [member.key, member.value]));
      this.#members.set(value.start, members);
    }
    return members;
  }
}
