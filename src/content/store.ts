/** SQL of the content room: who may read what, and what the collector forgets and keeps. */
import { sql } from 'kysely';
import type { Certname, ContentHash } from '../model/ids.ts';
import { CONTENT_MOVES_READABLE_MAX } from '../model/limits.ts';
import { type Queries, row } from '../postgres/database.ts';

/**
 * Whether a catalog that was ever released to the node, or the plugin tree of a code version it runs or is about to run,
 * names the content. A node that has no row yet syncs plugins before its first facts: it may read every environment's.
 * Goes from the node's few holders to the content (each one probe of the primary key), since one file may have a
 * reference in every catalog of the fleet.
 */
export async function selectMayRead(db: Queries, certname: Certname, content: ContentHash): Promise<boolean> {
  const found = await row(
    sql<{ allowed: boolean }>`
      with own as (
        select environment, requested_environment, released_catalog, released_code_version
        from node where certname = ${certname}
      ), move as (
        select catalog, code_version from pointer_move where certname = ${certname}
        order by id desc limit ${CONTENT_MOVES_READABLE_MAX}
      ), code as (
        select released_code_version as id from own
        union select code_version from move
        union select unnest(array[e.code_version, e.released_code_version]) from environment e
          where e.name in (select environment from own union select requested_environment from own)
             or not exists (select from own)
      ), holder as (
        select released_catalog as id from own
        union select catalog from move
        union select v.plugins from code_version v join code on code.id = v.id
      )
      select exists (
        select from holder join content_reference r on r.holder = holder.id and r.content = ${content}
      ) as allowed`,
    db,
  );
  return found!.allowed;
}
