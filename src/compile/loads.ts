/**
 * Which code of modules compiles load, learned from those that did. Nodes of one role load the same, and an interpreter that has
 * loaded it ahead (ruby/compile/loads.rb) serves them all for much less. To forget something costs speed alone.
 */
import { createHash } from 'node:crypto';
import { LOADS_NODES_MAX, LOADS_SETS_MAX } from '../model/limits.ts';

/** So many compiles under one code version load the same before an interpreter does it for the next ones: it takes as long as one or two. */
const COMPILES_BEFORE = 4;

/** What compiles under one code version load. */
export interface LoadSet {
  /** Of the files, in their order. */
  key: string;
  /** Relative to the code directory, in the order in which they are loaded. */
  files: readonly string[];
  compiles: number;
  /** False: it cannot be loaded by itself. */
  fit: boolean;
}

export class Loads {
  /** By node, the key of what its last compile loaded, under whichever code version. */
  readonly #last = new Map<string, string>();
  /** By code version and key: what loads now what was loaded under that key before. */
  readonly #sets = new Map<string, LoadSet>();

  /** What the node's next compile will load, as far as can be told, once enough others did. */
  expected(certname: string, codeVersion: string): LoadSet | undefined {
    const last = this.#last.get(certname);
    const set = last === undefined ? undefined : this.#sets.get(`${codeVersion}\n${last}`);
    return set?.fit && set.compiles >= COMPILES_BEFORE ? set : undefined;
  }

  /** What a compile loaded. `ahead`: its interpreter had loaded code already, so that it says nothing new of the code version. */
  learn(certname: string, codeVersion: string, files: readonly string[], ahead: boolean): void {
    if (files.length === 0) return;
    const key = createHash('sha256').update(files.join('\n')).digest('hex');
    const before = this.#last.get(certname) ?? key;
    keep(this.#last, certname, key, LOADS_NODES_MAX);
    if (ahead) return;
    const known = this.#sets.get(`${codeVersion}\n${key}`);
    const set = known ?? { key, files, compiles: 0, fit: true };
    set.compiles += 1;
    for (const name of new Set([before, key])) keep(this.#sets, `${codeVersion}\n${name}`, set, LOADS_SETS_MAX);
  }
}

/** The oldest go. */
function keep<Value>(map: Map<string, Value>, key: string, value: Value, most: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > most) map.delete(map.keys().next().value!);
}
