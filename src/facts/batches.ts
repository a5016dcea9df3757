/**
 * Group commit. A submission is answered when it is committed, and a commit of its own for each would cost the disk a flush, and
 * PostgreSQL the planning of its statements, a node. So submissions wait for one another: the first goes at once; those that
 * come while it is on its way go together when it is back. There is no timer: an idle server answers one submission in one
 * transaction's time, a busy one fills its batches by itself. Measured here, 30 KB documents one by one cost 5 ms of PostgreSQL
 * each, in batches under 2.
 *
 * No node stands twice in a batch: its later submission waits for the next, so that the later one wins. A batch fails as a
 * whole, and everyone in it hears the error; nodes submit again. Nothing is kept here that a crash could lose.
 */
import { CallboardError } from '../model/errors.ts';
import type { Certname } from '../model/ids.ts';
import { FACTS_BATCHES_AT_ONCE_MAX } from '../model/limits.ts';

export interface BatchLimits {
  batchMax: number;
  batchBytesMax: number;
  waitingMax: number;
  waitingBytesMax: number;
}

/** Stores a batch in which no node stands twice; gives each node's result. */
export type StoreBatch<Item, Result> = (batch: Item[]) => Promise<Map<Certname, Result>>;

interface Waiting<Item, Result> {
  item: Item;
  bytes: number;
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

export class Batches<Item extends { certname: Certname }, Result> {
  readonly #store: StoreBatch<Item, Result>;
  readonly #limits: BatchLimits;
  #waiting: Waiting<Item, Result>[] = [];
  #waitingBytes = 0;
  #underWay = 0;
  #scheduled = false;

  constructor(limits: BatchLimits, store: StoreBatch<Item, Result>) {
    this.#limits = limits;
    this.#store = store;
  }

  /** The item's result once its batch is committed; `bytes` is what it holds of memory. Throws BUSY when too many wait. */
  add(item: Item, bytes = 0): Promise<Result> {
    const { waitingMax, waitingBytesMax } = this.#limits;
    if (this.#waiting.length >= waitingMax || this.#waitingBytes + bytes > waitingBytesMax) {
      throw new CallboardError('BUSY', { reason: `${this.#waiting.length} submissions of facts wait to be stored` });
    }
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    this.#waiting.push({ item, bytes, resolve, reject });
    this.#waitingBytes += bytes;
    // What arrived in the same turn of the event loop goes in the same batch.
    if (!this.#scheduled && this.#underWay < FACTS_BATCHES_AT_ONCE_MAX) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.#start();
      });
    }
    return promise;
  }

  #start(): void {
    while (this.#waiting.length > 0 && this.#underWay < FACTS_BATCHES_AT_ONCE_MAX) {
      const batch = this.#next();
      this.#underWay += 1;
      this.#store(batch.map((waiting) => waiting.item))
        .then(
          (results) => {
            for (const { item, resolve } of batch) resolve(results.get(item.certname)!);
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

  #next(): Waiting<Item, Result>[] {
    const batch: Waiting<Item, Result>[] = [];
    const rest: Waiting<Item, Result>[] = [];
    const certnames = new Set<Certname>();
    let bytes = 0;
    let at = 0;
    for (; at < this.#waiting.length && batch.length < this.#limits.batchMax; at += 1) {
      const one = this.#waiting[at]!;
      if (batch.length > 0 && bytes + one.bytes > this.#limits.batchBytesMax) break;
      if (certnames.has(one.item.certname)) rest.push(one);
      else {
        certnames.add(one.item.certname);
        batch.push(one);
        bytes += one.bytes;
      }
    }
    this.#waiting = [...rest, ...this.#waiting.slice(at)];
    this.#waitingBytes -= bytes;
    return batch;
  }
}
