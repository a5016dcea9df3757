/**
 * The hash of what a catalog makes a node do: its document without the places in the code that its resources name (`file`, `line`)
 * and without its id. A comment added to a manifest moves lines, and changes nothing else.
 */
import { createHash } from 'node:crypto';
import { parseRaw } from '../model/json.ts';
import { CATALOG_DEPTH_MAX } from '../model/limits.ts';

/** Members that are made from the id. */
const NAMES = new Set(['version', 'catalog_uuid', 'code_id']);
const PLACES = new Set(['file', 'line']);

/** `document`: canonical or as it is served. Lower-case hex SHA-256. */
export function semanticHash(document: Buffer): string {
  const hash = createHash('sha256');
  for (const { key, value } of parseRaw(document, CATALOG_DEPTH_MAX).members()) {
    if (NAMES.has(key)) continue;
    hash.update(`${JSON.stringify(key)}:`);
    if (key !== 'resources') hash.update(value.bytes);
    else {
      for (const resource of value.items())
        for (const member of resource.members())
          if (!PLACES.has(member.key)) hash.update(document.subarray(member.start, member.value.end)).update(',');
    }
    hash.update('\n');
  }
  return hash.digest('hex');
}
