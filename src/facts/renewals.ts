/**
 * Unchanged facts, stored in groups. Each renewal must be committed before it is answered, and a commit of its own for each
 * would cost the disk a flush a node. So renewals wait for one another: the first one goes at once; those that come while it is
 * on its way go together when it is back, in batches of RENEWALS_BATCH_MAX. There is no timer: an idle server answers one
 * renewal in one statement's time, a busy one fills its batches by itself.
 *
 * A batch fails as a whole, and everyone in it hears the error; nodes ask again. Nothing is kept here that a crash could lose.
 */
import { CallboardError } from '../model/errors.ts';
import type { Certname } from '../model/ids.ts';
import { RENEWAL_BATCHES_AT_ONCE_MAX, RENEWALS_BATCH_MAX, RENEWALS_WAITING_MAX } from '../model/limits.ts';

/** A node says that its facts still are the ones with this hash. */
export interface Renewal {
  certname: Certname;
  facts: string;
  environment: string;
  /** Its certificate's extensions as JSON text, see `extensionsText`. */
  extensions: string;
}

interface Waiting {
  renewal: Renewal;
  resolve: (renewed: boolean) => void;
  reject: (error: unknown) => void;
}

/** Stores a batch in which no node stands twice, and gives the nodes whose stored facts had the hash they named. */
export type StoreBatch = (batch: Renewal[]) => Promise<Set<Certname>>;

export class Renewals {
  readonly #store: StoreBatch;
  #waiting: Waiting[] = [];
  #underWay = 0;
  #scheduled = false;

  constructor(store: StoreBatch) {
    this.#store = store;
  }

  /** True once it is committed; false where the stored facts are others. Throws BUSY when too many wait. */
  renew(renewal: Renewal): Promise<boolean> {
    if (this.#waiting.length >= RENEWALS_WAITING_MAX) {
      throw new CallboardError('BUSY', { reason: `${RENEWALS_WAITING_MAX} submissions of facts wait to be stored` });
    }
    const { promise, resolve, reject } = Promise.withResolvers<boolean>();
    this.#waiting.push({ renewal, resolve, reject });
    // What arrived in the same turn of the event loop goes in the same batch.
    if (!this.#scheduled && this.#underWay < RENEWAL_BATCHES_AT_ONCE_MAX) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.#start();
      });
    }
    return promise;
  }

  #start(): void {
    while (this.#waiting.length > 0 && this.#underWay < RENEWAL_BATCHES_AT_ONCE_MAX) {
      const { batch, rest } = nextBatch(this.#waiting);
      this.#waiting = rest;
      this.#underWay += 1;
      this.#store(batch.map((waiting) => waiting.renewal))
        .then(
          (renewed) => {
            for (const { renewal, resolve } of batch) resolve(renewed.has(renewal.certname));
          },
          (error) => {
            for (const { reject } of batch) reject(error);
          },
        )
        .finally(() => {
          this.#underWay -= 1;
          this.#start();
        });
    }
  }
}

/** The first waiting ones; a second renewal of the same node waits for the next batch, so that the later one wins. */
function nextBatch(waiting: Waiting[]): { batch: Waiting[]; rest: Waiting[] } {
  const batch: Waiting[] = [];
  const rest: Waiting[] = [];
  const certnames = new Set<Certname>();
  for (const one of waiting) {
    if (batch.length < RENEWALS_BATCH_MAX && !certnames.has(one.renewal.certname)) {
      certnames.add(one.renewal.certname);
      batch.push(one);
    } else rest.push(one);
  }
  return { batch, rest };
}
