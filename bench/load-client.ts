/**
 * The process behind `load.ts`. It reads answers with a parser of its own that only counts, so that it keeps ahead of the
 * servers it measures: Node's HTTP client takes more CPU per request than either server.
 */
import { readFileSync } from 'node:fs';
import { connect, type TLSSocket } from 'node:tls';
import { getOneMessage, sendMessage } from 'execa';

export interface LoadRequest {
  method: string;
  path: string;
  headers?: Record<string, string>;
  /** Text, or base64 with `bodyIsBase64`. */
  body?: string;
  bodyIsBase64?: boolean;
  /** Any other status is a failure of the bench. */
  status: number;
}

export interface LoadResult {
  requests: number;
  bodyBytes: number;
  seconds: number;
  p50Ms: number;
  p99Ms: number;
  unexpected?: string;
}

interface Order {
  host: string;
  port: number;
  files: { ca: string; clientCert: string; clientKey: string };
  requests: LoadRequest[];
  module?: string;
  connections: number;
  seconds: number;
  warmSeconds: number;
  warmRequests: number;
}

const order = (await getOneMessage()) as unknown as Order;
const script = order.module ? await import(order.module) : undefined;
script?.prepare?.(order.requests);
const fixed = order.requests.map((request) => ({ bytes: written(request), request }));
const tls = {
  ca: readFileSync(order.files.ca),
  cert: readFileSync(order.files.clientCert),
  key: readFileSync(order.files.clientKey),
};

let counting = false;
let answered = 0;
let requests = 0;
let bodyBytes = 0;
let unexpected: string | undefined;
const times: number[] = [];

const sockets = await Promise.all(Array.from({ length: order.connections }, (_, n) => open(n)));
await pause(order.warmSeconds);
// Seconds say little about how warm a just-in-time compiled server is on a machine that is busy with other things.
for (const deadline = Date.now() + 60_000; answered < order.warmRequests && Date.now() < deadline; ) await pause(0.1);
counting = true;
const start = performance.now();
await sendMessage('warm');
await pause(order.seconds);
counting = false;
const seconds = (performance.now() - start) / 1000;
times.sort((a, b) => a - b);
const at = (share: number) => times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
const result: LoadResult = { requests, bodyBytes, seconds, p50Ms: at(0.5), p99Ms: at(0.99) };
if (unexpected) result.unexpected = unexpected;
await sendMessage(result as never);
for (const socket of sockets) socket.destroy();
process.exit(0);

function written(request: LoadRequest): Buffer {
  const body = Buffer.from(request.body ?? '', request.bodyIsBase64 ? 'base64' : 'utf8');
  const headers = { host: 'localhost', ...request.headers } as Record<string, string>;
  if (request.body !== undefined) headers['content-length'] = String(body.length);
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([
    Buffer.from(`${request.method} ${request.path} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1'),
    body,
  ]);
}

function open(connection: number): Promise<TLSSocket> {
  return new Promise((opened, failed) => {
    const socket = connect({ ...tls, host: order.host, port: order.port, servername: 'localhost' });
    socket.setNoDelay(true);
    let n = connection;
    let expected: LoadRequest;
    let sentAt = 0;
    let head: Buffer = Buffer.alloc(0);
    /** Bytes of the body still to come; -1: the head is being read; -2: chunked. */
    let left = -1;
    let tail = '';

    function send(): void {
      sentAt = performance.now();
      left = -1;
      if (script) {
        expected = script.next(connection, n++) as LoadRequest;
        socket.write(written(expected));
        return;
      }
      const { bytes, request } = fixed[n++ % fixed.length]!;
      expected = request;
      socket.write(bytes);
    }

    function done(): void {
      answered++;
      if (counting) {
        requests++;
        times.push(performance.now() - sentAt);
      }
      send();
    }

    socket.on('secureConnect', () => {
      opened(socket);
      send();
    });
    socket.on('error', (error) => {
      unexpected ??= String(error);
      failed(error);
    });
    socket.on('close', () => {
      if (counting) unexpected ??= 'the server closed a connection';
    });
    socket.on('data', (data: Buffer) => {
      let rest = data;
      if (left === -1) {
        head = head.length ? Buffer.concat([head, data]) : data;
        const end = head.indexOf('\r\n\r\n');
        if (end < 0) return;
        const text = head.toString('latin1', 0, end);
        rest = head.subarray(end + 4);
        head = Buffer.alloc(0);
        const status = Number(text.slice(9, 12));
        if (status !== expected.status) {
          unexpected ??= `${expected.method} ${expected.path}: ${text.split('\r\n')[0]} ${rest.toString().slice(0, 300)}`;
        }
        const length = /\r\ncontent-length: *(\d+)/i.exec(text);
        if (status === 304 || status === 204 || expected.method === 'HEAD') left = 0;
        else if (length) left = Number(length[1]);
        else if (/\r\ntransfer-encoding: *chunked/i.test(text)) left = -2;
        else left = 0;
        tail = '';
      }
      if (counting) bodyBytes += rest.length;
      if (left === -2) {
        tail = (tail + rest.toString('latin1', Math.max(0, rest.length - 7))).slice(-7);
        if (tail.endsWith('0\r\n\r\n')) done();
        return;
      }
      left -= rest.length;
      if (left <= 0) done();
    });
  });
}

function pause(seconds: number): Promise<void> {
  return new Promise((over) => setTimeout(over, seconds * 1000));
}
