/**
 * Wake-ups: a stream to each node that wants one. They are hints (P7): a node that misses one finds out at its next poll.
 *
 * A notification only says whom to look at. Their pointers are then read, many by one statement, and a node hears an event
 * only when its own answer is another than the one it heard of last; so a release of 60 nodes told as "all of
 * production" wakes 60. What is new while nodes are looked at is looked at next; there is one such round at a time.
 * A stream that opens hears at once what there is, for it may have missed it.
 */
import type { FastifyReply } from 'fastify';
import { type EventStream, openStream } from '../http/sse.ts';
import { POINTERS_READ_AT_ONCE_MAX } from '../model/limits.ts';
import type { ReleasedPointer } from './pointer-cache.ts';

/** How long to wait when pointers could not be read. */
const RETRY_MS = 1000;

export interface WakeUps {
  open(certname: string, reply: FastifyReply): void;
  wake(certname: string): void;
  wakeAll(): void;
}

interface NodeStream {
  stream: EventStream;
  /** What the node heard of last. */
  etag?: string;
  request?: string;
}

export function wakeUps(pointerOf: (certname: string) => Promise<ReleasedPointer | undefined>): WakeUps {
  const streams = new Map<string, NodeStream>();
  const woken = new Set<string>();
  let isLooking = false;

  function open(certname: string, reply: FastifyReply): void {
    const stream = openStream(reply);
    // One stream a node: a node that comes back before its old connection was found dead takes its place.
    streams.get(certname)?.stream.close();
    const node: NodeStream = { stream };
    streams.set(certname, node);
    stream.onClose(() => {
      if (streams.get(certname) === node) streams.delete(certname);
    });
    wake(certname);
  }

  function wake(certname: string): void {
    if (!streams.has(certname)) return;
    woken.add(certname);
    if (!isLooking) void lookAtWoken();
  }

  function wakeAll(): void {
    for (const certname of streams.keys()) woken.add(certname);
    if (!isLooking && woken.size > 0) void lookAtWoken();
  }

  async function lookAtWoken(): Promise<void> {
    isLooking = true;
    while (woken.size > 0) {
      const some = [...woken.keys().take(POINTERS_READ_AT_ONCE_MAX)];
      for (const certname of some) woken.delete(certname);
      try {
        await Promise.all(some.map(async (certname) => tell(certname, await pointerOf(certname))));
      } catch {
        // The database is away: its return is worth waiting for, since the hint was already heard.
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS).unref());
        for (const certname of some) if (streams.has(certname)) woken.add(certname);
      }
    }
    isLooking = false;
  }

  function tell(certname: string, pointer: ReleasedPointer | undefined): void {
    const node = streams.get(certname);
    if (!node || !pointer) return;
    if (pointer.etag !== node.etag) {
      node.etag = pointer.etag;
      node.stream.send('catalog', { catalog: pointer.catalog });
    }
    if (pointer.request && pointer.request.id !== node.request) {
      node.request = pointer.request.id;
      node.stream.send('run', { request: pointer.request.id, mode: pointer.request.mode });
    }
  }

  return { open, wake, wakeAll };
}
