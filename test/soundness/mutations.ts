/**
 * What can change about a site, one change at a time. Each kind changes a world in place and says what it did, or gives
 * undefined where there is nothing for it to do. Kinds are chosen by their place here, so that a seed means the same changes.
 */
import { posix } from 'node:path';
import type { Kind } from './editing.ts';
import { DATA_KINDS } from './mutations-of-data.ts';
import { FILE_KINDS } from './mutations-of-files.ts';
import { MANIFEST_KINDS } from './mutations-of-manifests.ts';
import { NAME_KINDS } from './mutations-of-names.ts';
import { NODE_KINDS } from './mutations-of-nodes.ts';
import type { Random } from './random.ts';
import type { CodeFile, Machine, World } from './world.ts';

export const KINDS: readonly Kind[] = [...NODE_KINDS, ...DATA_KINDS, ...MANIFEST_KINDS, ...NAME_KINDS, ...FILE_KINDS];

/** One kind, by its weight. */
export function pickKind(random: Random): Kind {
  let at = random.next() * KINDS.reduce((sum, each) => sum + each.weight, 0);
  for (const each of KINDS) {
    at -= each.weight;
    if (at < 0) return each;
  }
  return KINDS.at(-1)!;
}

/** Files and machines that differ between two worlds. */
export function changesOf(before: World, after: World): { files: string[]; machines: Machine[] } {
  const files = [...new Set([...before.files.keys(), ...after.files.keys()])].filter(
    (path) => JSON.stringify(named(before.files.get(path))) !== JSON.stringify(named(after.files.get(path))),
  );
  const machines = [...after.machines.values()].filter(
    (each) => JSON.stringify(before.machines.get(each.certname)) !== JSON.stringify(each),
  );
  return { files: files.map((path) => posix.normalize(path)), machines };
}

function named(file: CodeFile | undefined): unknown {
  return file && ('link' in file ? file.link : [file.hash, file.mode]);
}
