/** A wait that ends when a time has come, when somebody rings, or when the daemon stops; whichever is first. */
export class Alarm {
  readonly #stop: AbortSignal;
  #rung = false;
  #wake: (() => void) | undefined;

  constructor(stop: AbortSignal) {
    this.#stop = stop;
    stop.addEventListener('abort', () => this.#wake?.(), { once: true });
  }

  /** Rung while nobody waits, it ends the next wait at once. */
  ring(): void {
    this.#rung = true;
    this.#wake?.();
  }

  /** Waits until `at` (epoch milliseconds; Infinity: for a ring only). True when it was rung. */
  async until(at: number): Promise<boolean> {
    // Node's timers overflow past 2^31 ms; whoever waits longer asks again.
    const waitMs = Math.min(at - Date.now(), 2 ** 31 - 1);
    if (!this.#rung && !this.#stop.aborted && waitMs > 0) {
      await new Promise<void>((resolve) => {
        const timer = waitMs === 2 ** 31 - 1 ? undefined : setTimeout(resolve, waitMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = undefined;
    }
    const rung = this.#rung;
    this.#rung = false;
    return rung;
  }
}
