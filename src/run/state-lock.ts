/**
 * One node daemon a state directory. The lock is a socket in Linux's abstract namespace, named by the directory's device and
 * inode: the kernel gives it to one process and takes it back when that process dies in whatever way, so there is no stale
 * lock to guess about. A file beside it tells people who holds it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { CallboardError } from '../model/errors.ts';

/** Throws NODE_STATE_IN_USE when another daemon has the directory. The lock is held until it is released or we die. */
export async function lockState(state: string): Promise<() => Promise<void>> {
  const { dev, ino } = await stat(state);
  const pidFile = join(state, 'node.pid');
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EADDRINUSE') reject(error);
      else reject(new CallboardError('NODE_STATE_IN_USE', { pid: readPid(pidFile), state }));
    });
    server.listen(`\0callboard-node-${dev}-${ino}`, resolve);
  });
  server.unref();
  writeFileSync(pidFile, `${process.pid}\n`);
  return () => new Promise((resolve) => server.close(() => resolve()));
}

function readPid(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim() || 'unknown';
  } catch {
    return 'unknown';
  }
}
