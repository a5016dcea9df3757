/**
 * A deploy's log, live: lines are gathered for a moment and added to the deploy's row, so that whoever looks sees them while the
 * deploy runs. Bounded: what is too much is counted and told at the end. Nothing that must stay secret gets in.
 */
import { DEPLOY_LOG_BYTES_MAX } from '../model/limits.ts';

/** Lines gathered this long: soon enough for eyes, seldom enough for a database. */
const GATHER_MS = 200;
const LINE_LENGTH_MAX = 4000;
/** Kept free, so that the last sentence always fits. */
const BYTES_FOR_THE_END = 2000;

export interface DeployLog {
  line(text: string): void;
  /** Writes everything, with a last line. */
  end(text: string): Promise<void>;
}

export function openDeployLog(options: {
  /** What is there already, in bytes. */
  bytes: number;
  secrets: readonly string[];
  /** Adds text to the row. A failure is not the deploy's: the next piece is tried anew. */
  append: (text: string) => Promise<void>;
}): DeployLog {
  let bytes = options.bytes;
  let leftOut = 0;
  let gathered = '';
  let timer: NodeJS.Timeout | undefined;
  let writing: Promise<void> = Promise.resolve();

  const clean = (text: string): string => {
    let shown = text.replace(/[\x00-\x08\x0b-\x1f\x7f]|\x1b\[[0-9;]*m/g, '').slice(0, LINE_LENGTH_MAX);
    for (const secret of options.secrets) shown = shown.replaceAll(secret, '***');
    return `${shown}\n`;
  };
  const write = (): void => {
    timer = undefined;
    const text = gathered;
    gathered = '';
    if (text !== '') writing = writing.then(() => options.append(text)).catch(() => {});
  };
  return {
    line(text) {
      const line = clean(text);
      const size = Buffer.byteLength(line);
      if (bytes + size > DEPLOY_LOG_BYTES_MAX - BYTES_FOR_THE_END) {
        leftOut += 1;
        return;
      }
      bytes += size;
      gathered += line;
      timer ??= setTimeout(write, GATHER_MS).unref();
    },
    async end(text) {
      clearTimeout(timer);
      if (leftOut > 0) gathered += `${leftOut} more lines were left out\n`;
      gathered += clean(text.slice(0, 1000));
      write();
      await writing;
    },
  };
}
