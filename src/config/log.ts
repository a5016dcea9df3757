/** The one way to make a logger: JSON lines, ISO times, secrets cut out whatever object they come in. */
import { type DestinationStream, type Logger, pino } from 'pino';
import type { LogLevel } from './settings.ts';

/** Fields that are never written, at the top of a log line and one object deep. */
const SECRETS = ['authorization', 'cookie', 'password', 'token', 'secret', 'key', 'databaseUrl', 'database_url'];

/** `destination` is stdout where it is not given. */
export function createLogger(options: { level: LogLevel | 'silent'; destination?: DestinationStream }): Logger {
  return pino(
    {
      level: options.level,
      base: { process: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: SECRETS.flatMap((name) => [name, `*.${name}`, `*.headers.${name}`]),
        censor: '[redacted]',
      },
      serializers: { err: errorFields },
    },
    options.destination ?? pino.destination({ dest: 1, sync: false }),
  );
}

/** Of an error only what helps: pg's errors carry the failed statement's values in `detail`, and those may be secrets. */
function errorFields(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { code } = error as { code?: unknown };
  return {
    type: error.name,
    message: error.message.replace(PASSWORD, '//$1:[redacted]@'),
    ...(code === undefined ? {} : { code }),
    stack: error.stack?.replace(PASSWORD, '//$1:[redacted]@'),
    ...(error.cause === undefined ? {} : { cause: errorFields(error.cause) }),
  };
}

/** The password in a URL. */
const PASSWORD = /\/\/([^/:@\s]+):[^@\s]+@/g;
