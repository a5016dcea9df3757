/**
 * Prometheus metrics: one registry per process. Rooms register theirs on it; requests are counted by route.
 * They are served to operators on the TLS port, and to anybody on a loopback port of their own.
 */
import { createServer, type Server } from 'node:http';
import type { FastifyReply } from 'fastify';
import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Routes } from './app.ts';

export interface Metrics {
  registry: Registry;
  /** A route's own observer: how long a request took and how it was answered. */
  observer(method: string, route: string): (reply: FastifyReply) => void;
  /** Tells how many streams of events are open. */
  watchStreams(streams: { readonly count: number }): void;
}

/** From 1 ms, a hot path's answer, to 10 s, a deploy's. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10];

export function openMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const seconds = new Histogram({
    name: 'callboard_http_request_seconds',
    help: 'How long requests took, by route and kind of answer',
    labelNames: ['method', 'route', 'status'],
    buckets: BUCKETS,
    registers: [registry],
  });
  return {
    registry,
    watchStreams(streams) {
      gauge(registry, {
        name: 'callboard_streams_open',
        help: 'Streams of events that are open',
        read: () => streams.count,
      });
    },
    observer(method, route) {
      // One child per kind of answer, made once: labels are not hashed at each request.
      const children: (Histogram.Internal<'method' | 'route' | 'status'> | undefined)[] = [];
      return (reply) => {
        const kind = Math.floor(reply.statusCode / 100);
        children[kind] ??= seconds.labels(method, route, `${kind}xx`);
        children[kind].observe(reply.elapsedTime / 1000);
      };
    },
  };
}

/** A number that is asked for when the metrics are read, such as a queue's depth. */
export function gauge(
  registry: Registry,
  options: { name: string; help: string; read: () => number | Promise<number> },
): void {
  new Gauge({
    name: options.name,
    help: options.help,
    registers: [registry],
    async collect() {
      this.set(await options.read());
    },
  });
}

export function metricsRoutes({ registry }: { registry: Registry }): Routes {
  return (app) => {
    app.get(
      '/metrics',
      { config: { access: 'viewer' }, schema: { summary: 'Prometheus metrics of this process' } },
      async (_request, reply) => reply.type(registry.contentType).send(await registry.metrics()),
    );
  };
}

/** Metrics in plain HTTP, for a Prometheus on the same machine. Only loopback addresses are sensible here. */
export async function serveMetrics(
  registry: Registry,
  { host = '127.0.0.1', port }: { host?: string; port: number },
): Promise<Server> {
  const server = createServer((request, response) => {
    request.resume();
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end();
      return;
    }
    registry.metrics().then(
      (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
      () => response.writeHead(500).end(),
    );
  });
  server.unref();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen(port, host, resolve);
  await promise;
  return server;
}
