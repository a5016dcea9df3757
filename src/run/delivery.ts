/**
 * Brings the spool to the control plane: oldest run first, in batches, one at a time, each acknowledged before the next. Lost
 * answers cost a repetition and nothing else, since the control plane takes each sequence number once. A run that it will
 * never take (its request is wrong, not its moment) is put aside, so that it does not hold up the others.
 */
import type { Logger } from 'pino';
import { EVENTS_FLUSH_MS, NODE_BACKOFF_MAX_MS, SPOOL_SYNC_MS } from '../model/limits.ts';
import { Alarm } from './alarm.ts';
import { type ControlPlane, Refused } from './control-plane.ts';
import { backoffMs } from './schedule.ts';
import type { Spool, SpooledRun } from './spool.ts';

/** Answers that say the events themselves are wrong. Others (who are you, not now) may be right tomorrow. */
const NEVER = [400, 413, 422];

export class Delivery {
  readonly #spool: Spool;
  readonly #control: ControlPlane;
  readonly #log: Logger;
  readonly #stop: AbortSignal;
  readonly #alarm: Alarm;
  #failures = 0;
  #idle: (() => void)[] = [];
  #back = false;

  constructor(spool: Spool, control: ControlPlane, log: Logger, stop: AbortSignal) {
    this.#spool = spool;
    this.#control = control;
    this.#log = log;
    this.#stop = stop;
    this.#alarm = new Alarm(stop);
  }

  /** There are new events. */
  ring(): void {
    this.#alarm.ring();
  }

  /** The control plane has just answered somebody: a wait for it need not go on. */
  back(): void {
    this.#back = true;
    this.#alarm.ring();
  }

  /** Runs until the stop. */
  async run(): Promise<void> {
    while (!this.#stop.aborted) {
      const run = this.#spool.oldest();
      if (!run) {
        for (const idle of this.#idle.splice(0)) idle();
        await this.#alarm.until(Number.POSITIVE_INFINITY);
        // The first event waits a moment for others to travel with it.
        await new Promise((resolve) => setTimeout(resolve, EVENTS_FLUSH_MS));
        continue;
      }
      if (await this.#send(run)) this.#failures = 0;
      else await this.#wait();
    }
  }

  /** Resolves when all that is in the spool has been delivered, or after `maxMs`. */
  async drained(maxMs: number): Promise<boolean> {
    if (!this.#spool.oldest()) return true;
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), maxMs);
      this.#idle.push(() => {
        clearTimeout(timer);
        resolve(true);
      });
      this.ring();
    });
  }

  async #send(run: SpooledRun): Promise<boolean> {
    const before = run.acknowledgedSequence;
    try {
      const { lines, last } = await this.#spool.batch(run);
      if (lines.length === 0) return false;
      const acknowledged = await this.#control.events(run.id, lines);
      await this.#spool.acknowledge(run, acknowledged);
      if (acknowledged > before) {
        if (this.#failures > 0) this.#log.info({ run: run.id }, 'the control plane takes events again');
        return true;
      }
      this.#log.warn(
        { run: run.id, acknowledged, sent: last },
        'the control plane acknowledged none of the events sent',
      );
    } catch (error) {
      if (error instanceof Refused && NEVER.includes(error.status)) {
        await this.#spool.refuse(run);
        this.#log.error(
          { run: run.id, status: error.status, code: error.code },
          `events refused for good: ${error.message}`,
        );
        return true;
      }
      // Once, not at each try.
      if (this.#failures === 0) this.#log.warn({ run: run.id, err: String(error) }, 'events wait in the spool');
    }
    return false;
  }

  /** Backs off, and meanwhile keeps what grows safe on the disk. */
  async #wait(): Promise<void> {
    this.#failures++;
    this.#back = false;
    const until = Date.now() + backoffMs(this.#failures, 500, NODE_BACKOFF_MAX_MS, Math.random());
    while (!this.#stop.aborted && !this.#back && Date.now() < until) {
      await this.#spool.syncAll();
      await new Promise((resolve) => setTimeout(resolve, Math.min(SPOOL_SYNC_MS, until - Date.now())));
    }
  }
}
