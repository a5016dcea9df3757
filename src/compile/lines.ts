/**
 * A connection that speaks in lines. Whoever reads asks for the next line and says how long it may be; nothing is taken
 * from the socket in between, so that a peer that floods it only blocks itself.
 */
import type { Socket } from 'node:net';

export class LineTooLong extends Error {}

const NEWLINE = 10;

export class LineConnection {
  readonly #socket: Socket;
  #rest: Buffer[] = [];
  #restBytes = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.pause();
    socket.on('data', (chunk: Buffer) => {
      this.#rest.push(chunk);
      this.#restBytes += chunk.length;
      socket.pause();
      this.#wake?.();
    });
    const end = () => {
      this.#ended = true;
      this.#wake?.();
    };
    socket.on('end', end);
    socket.on('close', end);
    socket.on('error', end);
  }

  /** The next line without its newline, or null when the peer is gone. Throws LineTooLong. One reader at a time. */
  async read(bytesMax: number): Promise<Buffer | null> {
    let scanned = 0;
    for (;;) {
      for (; scanned < this.#rest.length; scanned += 1) {
        const at = this.#rest[scanned]!.indexOf(NEWLINE);
        if (at >= 0) return this.#take(scanned, at, bytesMax);
      }
      if (this.#restBytes > bytesMax) throw new LineTooLong(`more than ${bytesMax} bytes without an end of line`);
      if (this.#ended) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        this.#socket.resume();
      });
      this.#wake = undefined;
    }
  }

  #take(index: number, at: number, bytesMax: number): Buffer {
    const chunk = this.#rest[index]!;
    const line = Buffer.concat([...this.#rest.slice(0, index), chunk.subarray(0, at)]);
    const after = chunk.subarray(at + 1);
    this.#rest = [...(after.length > 0 ? [after] : []), ...this.#rest.slice(index + 1)];
    this.#restBytes = this.#rest.reduce((sum, piece) => sum + piece.length, 0);
    if (line.length > bytesMax) throw new LineTooLong(`a line of ${line.length} bytes, ${bytesMax} are allowed`);
    return line;
  }

  /** Sends one message. A peer that is gone is noticed by reading. */
  send(message: object): void {
    this.write(Buffer.from(`${JSON.stringify(message)}\n`));
  }

  write(bytes: Buffer): void {
    if (!this.#socket.destroyed) this.#socket.write(bytes);
  }

  close(): void {
    this.#socket.destroy();
  }
}
