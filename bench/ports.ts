/** Ports for what a bench starts. */
import { createServer, connect as dial } from 'node:net';

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((listening) => server.once('listening', listening));
  const { port } = server.address() as { port: number };
  await new Promise((closed) => server.close(closed));
  return port;
}

/** Resolves when something listens; throws when `child` ends first or a minute passes. */
export async function waitForPort(port: number, child: PromiseLike<unknown>): Promise<void> {
  let ended: unknown;
  child.then((result) => {
    ended = result ?? 'it';
  });
  for (const deadline = Date.now() + 60_000; Date.now() < deadline; ) {
    if (ended) throw new Error(`nothing listens on port ${port}: ${JSON.stringify(ended)}`);
    const open = await new Promise<boolean>((answer) => {
      const socket = dial(port, '127.0.0.1', () => answer(true)).on('error', () => answer(false));
      socket.on('connect', () => socket.destroy());
    });
    if (open) return;
    await new Promise((turn) => setTimeout(turn, 50));
  }
  throw new Error(`nothing listens on port ${port} after a minute`);
}
