/**
 * The fleet, live. PostgreSQL tells every process of ours that events were stored; each reads them once, whatever the number
 * of its watchers, and hands them on. While a read is under way, notifications for the same run gather into one range, so a
 * slow database makes fewer, larger reads. What is sent can be read again through the API: a watcher that is too slow, or
 * comes too late, is cut and looks there.
 *
 * When the listening connection was lost, events received since shortly before are read and sent again: a watcher may then
 * see an event twice, with the same id.
 */
import type { Logger } from 'pino';
import type { EventStream } from '../http/sse.ts';
import { EVENTS_CHUNK_MAX, WATCH_READS_AT_ONCE_MAX, WATCH_RUNS_WAITING_MAX } from '../model/limits.ts';
import type { Database } from '../postgres/database.ts';
import type { Channels, Listener } from '../postgres/listen.ts';
import { eventText, readCompiles, readDeploys, readEvents, readReleases, runsSince } from './status.ts';

/** Only what concerns this node, or this run's events. */
export interface WatchFilter {
  certname?: string | undefined;
  run?: string | undefined;
}

interface Range {
  certname: string;
  run: string;
  day: string;
  from: number;
  to: number;
  receivedSince?: Date;
}

type ProgressKind = Channels['callboard_progress']['kind'];

/** Before the last notification heard, for what was on its way. */
const GAP_MARGIN_MS = 5_000;

export class Watch {
  readonly #db: Database;
  readonly #logger: Logger;
  readonly #watchers = new Map<EventStream, WatchFilter>();
  #ranges = new Map<string, Range>();
  #progress = new Map<string, ProgressKind>();
  #reading = false;
  #heardAt = Date.now();

  constructor(db: Database, listener: Pick<Listener, 'on' | 'onGap'>, logger: Logger) {
    this.#db = db;
    this.#logger = logger;
    listener.on('callboard_run_event', (heard) => this.#heardEvents(heard));
    listener.on('callboard_progress', ({ kind, id }) => {
      this.#heardAt = Date.now();
      if (this.#watchers.size === 0) return;
      this.#progress.set(id, kind);
      this.#wake();
    });
    listener.onGap(() => void this.#catchUp());
  }

  /** From now on, until it closes. */
  add(stream: EventStream, filter: WatchFilter): void {
    this.#watchers.set(stream, filter);
    stream.onClose(() => this.#watchers.delete(stream));
  }

  get watchers(): number {
    return this.#watchers.size;
  }

  #heardEvents(heard: Range): void {
    this.#heardAt = Date.now();
    if (!this.#wanted(heard)) return;
    const known = this.#ranges.get(heard.run);
    if (known) {
      known.from = Math.min(known.from, heard.from);
      known.to = Math.max(known.to, heard.to);
    } else if (this.#ranges.size >= WATCH_RUNS_WAITING_MAX) {
      this.#logger.warn({ watchers: this.#watchers.size }, 'watchers are cut: too many runs wait to be read');
      for (const stream of [...this.#watchers.keys()]) stream.close();
      this.#ranges.clear();
    } else this.#ranges.set(heard.run, { ...heard });
    this.#wake();
  }

  /** `certname` is undefined for what concerns no node in particular. */
  #wanted(event: { certname?: string | undefined; run?: string | undefined }): boolean {
    for (const filter of this.#watchers.values()) if (matches(filter, event)) return true;
    return false;
  }

  #wake(): void {
    if (this.#reading) return;
    this.#reading = true;
    this.#read()
      .catch((error) => this.#logger.error({ err: error }, 'events could not be read for watchers'))
      .finally(() => {
        this.#reading = false;
        if (this.#watchers.size > 0 && (this.#ranges.size > 0 || this.#progress.size > 0)) this.#wake();
      });
  }

  async #read(): Promise<void> {
    while (this.#ranges.size > 0 || this.#progress.size > 0) {
      const ranges = [...this.#ranges.values()];
      this.#ranges = new Map();
      const progress = this.#progress;
      this.#progress = new Map();
      let next = 0;
      const work = async (): Promise<void> => {
        for (let range = ranges[next++]; range; range = ranges[next++]) await this.#readRange(range);
      };
      await Promise.all([
        ...Array.from({ length: Math.min(WATCH_READS_AT_ONCE_MAX, ranges.length) }, work),
        this.#readProgress(progress),
      ]);
    }
  }

  async #readRange(range: Range): Promise<void> {
    for (let { from } = range; from <= range.to && this.#wanted(range); ) {
      const events = await readEvents(this.#db, { ...range, from, limit: EVENTS_CHUNK_MAX });
      for (const event of events) {
        const text = eventText(event, range);
        this.#send(range, 'run_event', text, `${range.run}:${event.sequence}`);
      }
      if (events.length < EVENTS_CHUNK_MAX) return;
      from = events.at(-1)!.sequence + 1;
    }
  }

  async #readProgress(progress: Map<string, ProgressKind>): Promise<void> {
    const ids = (wanted: ProgressKind): string[] =>
      [...progress].filter(([, kind]) => kind === wanted).map(([id]) => id);
    const [compiles, deploys, releases] = [ids('compile'), ids('deploy'), ids('release')];
    if (compiles.length > 0) {
      for (const compile of await readCompiles(this.#db, compiles)) {
        this.#send({ certname: compile.certname }, 'compile', JSON.stringify(compile));
      }
    }
    if (deploys.length > 0) {
      for (const deploy of await readDeploys(this.#db, deploys)) this.#send({}, 'deploy', JSON.stringify(deploy));
    }
    if (releases.length > 0) {
      for (const release of await readReleases(this.#db, releases)) this.#send({}, 'release', JSON.stringify(release));
    }
  }

  #send(about: WatchFilter, event: string, text: string, id?: string): void {
    for (const [stream, filter] of this.#watchers) if (matches(filter, about)) stream.send(event, text, id);
  }

  async #catchUp(): Promise<void> {
    const since = new Date(this.#heardAt - GAP_MARGIN_MS);
    this.#heardAt = Date.now();
    if (this.#watchers.size === 0) return;
    try {
      for (const { id, certname, day } of await runsSince(this.#db, since, WATCH_RUNS_WAITING_MAX)) {
        const range = { certname, run: id, day, from: 1, to: Number.MAX_SAFE_INTEGER, receivedSince: since };
        if (this.#wanted(range)) this.#ranges.set(id, range);
      }
    } catch (error) {
      this.#logger.error({ err: error }, 'missed events could not be looked up for watchers');
    }
    if (this.#ranges.size > 0) this.#wake();
  }
}

function matches(filter: WatchFilter, about: WatchFilter): boolean {
  if (filter.run !== undefined && filter.run !== about.run) return false;
  return filter.certname === undefined || filter.certname === about.certname;
}
