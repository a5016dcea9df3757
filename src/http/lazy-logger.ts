/**
 * A request's logger that is made when something is first logged with it: a pino child costs some microseconds, and of a
 * fleet's requests nearly none has anything to say.
 */
import type { FastifyBaseLogger } from 'fastify';
import type { Bindings, ChildLoggerOptions } from 'pino';

export function lazyLogger(
  logger: FastifyBaseLogger,
  bindings: Bindings,
  options: ChildLoggerOptions,
): FastifyBaseLogger {
  return new LazyLogger(logger, bindings, options) as unknown as FastifyBaseLogger;
}

class LazyLogger {
  readonly #logger: FastifyBaseLogger;
  readonly #bindings: Bindings;
  readonly #options: ChildLoggerOptions;
  #made: FastifyBaseLogger | undefined;

  constructor(logger: FastifyBaseLogger, bindings: Bindings, options: ChildLoggerOptions) {
    this.#logger = logger;
    this.#bindings = bindings;
    this.#options = options;
  }

  get #child(): FastifyBaseLogger {
    this.#made ??= this.#logger.child({ request: this.#bindings.reqId }, this.#options);
    return this.#made;
  }

  get level(): string {
    return this.#logger.level;
  }

  child(bindings: Bindings, options?: ChildLoggerOptions): FastifyBaseLogger {
    return this.#child.child(bindings, options);
  }

  fatal(...said: unknown[]): void {
    this.#child.fatal(...(said as [string]));
  }
  error(...said: unknown[]): void {
    this.#child.error(...(said as [string]));
  }
  warn(...said: unknown[]): void {
    this.#child.warn(...(said as [string]));
  }
  info(...said: unknown[]): void {
    this.#child.info(...(said as [string]));
  }
  debug(...said: unknown[]): void {
    this.#child.debug(...(said as [string]));
  }
  trace(...said: unknown[]): void {
    this.#child.trace(...(said as [string]));
  }
  silent(): void {}
}
