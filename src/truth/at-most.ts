/** Runs tasks side by side, a bounded number at once. The first failure is thrown by the next `run` or by `all`. */
export class AtMost {
  readonly #max: number;
  readonly #running = new Set<Promise<void>>();
  #failure: { error: unknown } | undefined;

  constructor(max: number) {
    this.#max = max;
  }

  /** Starts a task as soon as there is room; returns once it is started. */
  async run(task: () => Promise<unknown>): Promise<void> {
    while (this.#running.size >= this.#max) await Promise.race(this.#running);
    if (this.#failure) throw this.#failure.error;
    const running: Promise<void> = task()
      .then(
        () => {},
        (error) => {
          this.#failure ??= { error };
        },
      )
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** Waits for everything that was started. */
  async all(): Promise<void> {
    await Promise.all(this.#running);
    if (this.#failure) throw this.#failure.error;
  }
}
