/**
 * How storing a reference to content and collecting content keep out of each other's way. Whoever stores a reference takes
 * the lock shared, in the transaction that writes the reference, and only then looks whether the content is there. The
 * collector takes it exclusive, reads the references anew, and only then removes. So either the reference is seen by the
 * collector, or the removal is seen by the storer.
 */
import { sql } from 'kysely';
import type { ContentHash } from '../model/ids.ts';
import type { Transaction } from '../postgres/database.ts';
import type { ContentStore } from './content.ts';

/** Any constant: the advisory lock between storers of references and the collector. */
const LOCK = 7_231_002;

/**
 * Call it in the transaction that stores references to `hashes`, before the references are written and after the content
 * was put. Throws when one is not kept: the transaction must then fail, and its job, tried again, puts the content anew.
 */
export async function guardContent(tx: Transaction, store: ContentStore, hashes: Iterable<ContentHash>): Promise<void> {
  await sql`select pg_advisory_xact_lock_shared(${LOCK})`.execute(tx);
  const missing = await store.missing(hashes);
  if (missing.length > 0) {
    throw new Error(`${missing.length} pieces of content are not in the store, among them ${missing[0]}`);
  }
}

/** The collector's side: nobody stores references until the transaction ends. */
export async function excludeStorers(tx: Transaction): Promise<void> {
  await sql`select pg_advisory_xact_lock(${LOCK})`.execute(tx);
}
