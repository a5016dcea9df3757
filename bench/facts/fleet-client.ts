/**
 * The process behind `fleet.ts`: many nodes, each on a TLS connection with its own certificate, one request under way at a
 * time. Answers are read by a parser that only counts, so that this process keeps ahead of the server.
 */
import { connect, type TLSSocket } from 'node:tls';
import { getOneMessage, sendMessage } from 'execa';

export interface FleetOrder {
  port: number;
  ca: string;
  nodes: { certname: string; certificatePem: string; privateKeyPem: string }[];
  module: string;
  seconds: number;
  warmSeconds: number;
}

export interface FleetRequest {
  method: string;
  path: string;
  headers?: Record<string, string>;
  body?: Buffer;
  /** Any other status is a failure of the bench. */
  status: number;
}

/** What a module exports: the n-th request of a node. */
export type Next = (certname: string, n: number) => FleetRequest;

export interface FleetResult {
  requests: number;
  seconds: number;
  p50Ms: number;
  p99Ms: number;
  unexpected?: string;
}

const order = (await getOneMessage()) as unknown as FleetOrder;
const { next } = (await import(order.module)) as { next: Next };

let counting = false;
let requests = 0;
let unexpected: string | undefined;
const times: number[] = [];

const sockets = await Promise.all(order.nodes.map(open));
await pause(order.warmSeconds);
counting = true;
const start = performance.now();
await sendMessage('warm');
await pause(order.seconds);
counting = false;
const seconds = (performance.now() - start) / 1000;
times.sort((a, b) => a - b);
const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
const result: FleetResult = { requests, seconds, p50Ms: at(0.5), p99Ms: at(0.99) };
if (unexpected) result.unexpected = unexpected;
await sendMessage(result as never);
for (const socket of sockets) socket.destroy();
process.exit(0);

function open(node: FleetOrder['nodes'][number]): Promise<TLSSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  const socket = connect({
    host: '127.0.0.1',
    port: order.port,
    servername: 'localhost',
    ca: order.ca,
    cert: node.certificatePem,
    key: node.privateKeyPem,
  });
  socket.setNoDelay(true);
  let n = 0;
  let expected: FleetRequest;
  let sentAt = 0;
  let received: Buffer = Buffer.alloc(0);

  function send(): void {
    expected = next(node.certname, n++);
    const { method, path, headers, body } = expected;
    const lines = Object.entries({ host: 'localhost', ...headers, ...(body ? { 'content-length': body.length } : {}) });
    const head = `${method} ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`;
    sentAt = performance.now();
    socket.write(body ? Buffer.concat([Buffer.from(head, 'latin1'), body]) : head);
  }

  socket.on('secureConnect', () => {
    resolve(socket);
    send();
  });
  socket.on('error', (error) => {
    unexpected ??= String(error);
    reject(error);
  });
  socket.on('close', () => {
    if (counting) unexpected ??= 'the server closed a connection';
  });
  socket.on('data', (data: Buffer) => {
    received = received.length > 0 ? Buffer.concat([received, data]) : data;
    const end = received.indexOf('\r\n\r\n');
    if (end < 0) return;
    const text = received.toString('latin1', 0, end);
    const status = Number(text.slice(9, 12));
    const length = status === 304 ? 0 : Number(/\r\ncontent-length: *(\d+)/i.exec(text)?.[1] ?? 0);
    if (received.length < end + 4 + length) return;
    if (status !== expected.status) {
      unexpected ??= `${expected.method} ${expected.path}: ${text.split('\r\n')[0]} ${received.toString('utf8', end + 4, end + 300)}`;
    }
    received = Buffer.alloc(0);
    if (counting) {
      requests += 1;
      times.push(performance.now() - sentAt);
    }
    send();
  });
  return promise;
}

function pause(forSeconds: number): Promise<void> {
  return new Promise((over) => setTimeout(over, forSeconds * 1000));
}
