/**
 * Remembered permissions to read content. Only "yes" is remembered: what a node may read grows with its catalogs, so a "no"
 * may be a "yes" a moment later, while a "yes" ends only when the collector takes the content itself.
 */
import type { Certname, ContentHash } from '../model/ids.ts';
import { CONTENT_GRANTS_MAX } from '../model/limits.ts';
import type { Queries } from '../postgres/database.ts';
import { selectMayRead } from './store.ts';

export interface Grants {
  mayRead(certname: Certname, hash: ContentHash): boolean | Promise<boolean>;
  /** After a collection. */
  forget(): void;
}

export function rememberGrants(db: Queries, max: number = CONTENT_GRANTS_MAX): Grants {
  const granted = new Set<string>();
  return {
    mayRead(certname, hash) {
      const key = hash + certname;
      // The oldest go first, used or not: a node reads a piece of content once or twice, so use says little.
      if (granted.has(key)) return true;
      return selectMayRead(db, certname, hash).then((allowed) => {
        if (allowed) {
          granted.add(key);
          if (granted.size > max) granted.delete(granted.values().next().value!);
        }
        return allowed;
      });
    },
    forget: () => granted.clear(),
  };
}
