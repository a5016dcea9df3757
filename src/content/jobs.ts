/** The `collect` job, and the one collection that a process has under way at a time. */
import type { JobHandlers } from '../postgres/queue.ts';
import { type Collected, type CollectionDeps, type CollectionOptions, collect } from './collection.ts';

export interface Collections {
  /** Starts one, or joins the one under way. */
  run(signal?: AbortSignal): Promise<Collected>;
  latest(): Collection | undefined;
}

export interface Collection {
  state: 'running' | 'done' | 'failed';
  startedAt: Date;
  finishedAt?: Date;
  collected?: Collected;
  error?: string;
}

export function collections(deps: CollectionDeps, options: CollectionOptions = {}): Collections {
  let latest: Collection | undefined;
  let running: Promise<Collected> | undefined;

  async function one(signal: AbortSignal | undefined): Promise<Collected> {
    const collection: Collection = { state: 'running', startedAt: new Date() };
    latest = collection;
    try {
      const collected = await collect(deps, { ...options, signal });
      Object.assign(collection, { state: 'done', collected });
      deps.logger.info(collected, 'collected');
      return collected;
    } catch (error) {
      Object.assign(collection, { state: 'failed', error: (error as Error).message });
      throw error;
    } finally {
      collection.finishedAt = new Date();
    }
  }

  return {
    run(signal) {
      running ??= one(signal).finally(() => {
        running = undefined;
      });
      return running;
    },
    latest: () => latest,
  };
}

export function contentJobs(all: Collections): JobHandlers {
  return {
    async collect(_payload, { signal }) {
      await all.run(signal);
    },
  };
}
