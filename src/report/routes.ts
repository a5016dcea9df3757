/** Events in, status out. What a node streams: docs/formats/run-events-v1.md. */

import type { Logger } from 'pino';
import { Type } from 'typebox';
import type { App, Routes } from '../http/app.ts';
import { readLines } from '../http/body.ts';
import { openStream } from '../http/sse.ts';
import { extensionsText } from '../model/facts.ts';
import { parseCertname, parseEnvironmentName, parseRunId } from '../model/ids.ts';
import {
  EVENT_BYTES_MAX,
  EVENTS_BODY_BYTES_MAX,
  EVENTS_PER_RUN_MAX,
  PAGE_ROWS_DEFAULT,
  PAGE_ROWS_MAX,
} from '../model/limits.ts';
import { EVENT_KINDS, RUN_STATUSES } from '../model/report.ts';
import type { Database } from '../postgres/database.ts';
import type { Listener } from '../postgres/listen.ts';
import { takeEvents } from './intake.ts';
import { dayOf, eventText, listNodes, listRuns, readEvents, readFacts, readNode, readRun } from './status.ts';
import { Watch } from './watch.ts';

export interface ReportDeps {
  db: Database;
  listener: Pick<Listener, 'on' | 'onGap'>;
  logger: Logger;
}

export function reportRoutes(deps: ReportDeps): Routes {
  return (app) => {
    intake(app, deps.db);
    runs(app, deps.db);
    nodes(app, deps.db);
    watch(app, new Watch(deps.db, deps.listener, deps.logger));
  };
}

const Nullable = <T extends Parameters<typeof Type.Union>[0][number]>(type: T) => Type.Union([type, Type.Null()]);
const Text = Type.String();
const TextOrNull = Nullable(Type.String());
const Time = Type.String({ description: 'ISO 8601 in UTC' });
const TimeOrNull = Nullable(Time);
const AnyJson = Type.Unknown();

const RunShape = Type.Object({
  id: Text,
  certname: Text,
  catalog: TextOrNull,
  code_version: TextOrNull,
  noop: Type.Boolean(),
  request: Nullable(Type.String({ description: 'The run request it took up' })),
  status: Type.String({ description: 'running, unchanged, changed or failed' }),
  started_at: Time,
  finished_at: TimeOrNull,
  events: Type.Integer(),
  summary: Nullable(
    Type.Object({
      resources: Type.Integer(),
      changed: Type.Integer(),
      failed: Type.Integer(),
      skipped: Type.Integer(),
      corrective: Type.Integer({ description: 'Brought back to the state the last run left them in' }),
      noop: Type.Integer({ description: 'Would have changed' }),
      exit_code: Nullable(Type.Integer()),
    }),
  ),
});

const NODE_FIELDS = {
  certname: Text,
  environment: Text,
  pinned: Type.Boolean(),
  status: Nullable(Type.String({ description: "The last run's: running, unchanged, changed or failed" })),
  last_run: TextOrNull,
  last_run_at: TimeOrNull,
  facts_at: TimeOrNull,
  released_catalog: TextOrNull,
  released_code_version: TextOrNull,
  released_at: TimeOrNull,
  candidate_catalog: TextOrNull,
  candidate_code_version: TextOrNull,
  candidate_differs: Type.Boolean({ description: 'There is a candidate, and it is not the released catalog' }),
  compile_failed: Type.Boolean({ description: "The last compile under the environment's newest code version failed" }),
};

const NodeShape = Type.Object(NODE_FIELDS);
const NodeDetailShape = Type.Object({
  ...NODE_FIELDS,
  requested_environment: Text,
  trusted_extensions: Type.Record(Type.String(), Type.String()),
  facts: Nullable(Type.String({ description: 'SHA-256 of the stable document' })),
  created_at: Time,
  last_compile: Nullable(
    Type.Object({
      id: Text,
      environment: Text,
      code_version: Text,
      trigger: Text,
      catalog: TextOrNull,
      error: AnyJson,
      warnings: AnyJson,
      finished_at: Time,
    }),
  ),
  run: Nullable(RunShape),
});

const Limit = Type.Integer({ minimum: 1, maximum: PAGE_ROWS_MAX, default: PAGE_ROWS_DEFAULT });
const Certname = Type.Object({ certname: Type.String() });
const RunParameter = Type.Object({ run: Type.String() });

function intake(app: App, db: Database): void {
  app.post(
    '/node/v1/nodes/:certname/runs/:run/events',
    {
      config: { access: 'node' },
      bodyLimit: EVENTS_BODY_BYTES_MAX,
      schema: {
        summary: "Send events of a node's run",
        description: 'NDJSON, plain or gzip, stored as it arrives. Sending an event again changes nothing.',
        tags: ['node'],
        params: Type.Object({ certname: Type.String(), run: Type.String() }),
        response: {
          200: Type.Object({ acknowledged: Type.Integer({ description: 'Every event up to this one is stored' }) }),
        },
      },
    },
    async (request) => {
      if (request.identity.kind !== 'node') throw new Error('a route for nodes was entered by somebody else');
      const { certname, extensions } = request.identity;
      const run = parseRunId(request.params.run);
      const lines = readLines(request, { lineBytesMax: EVENT_BYTES_MAX, bodyBytesMax: EVENTS_BODY_BYTES_MAX });
      return { acknowledged: await takeEvents(db, { certname, extensions: extensionsText(extensions) }, run, lines) };
    },
  );
}

function runs(app: App, db: Database): void {
  app.get(
    '/api/v1/runs',
    {
      config: { access: 'viewer' },
      schema: {
        summary: 'List runs, the last started first',
        tags: ['runs'],
        querystring: Type.Object({
          certname: Type.Optional(Type.String()),
          status: Type.Optional(Type.Enum([...RUN_STATUSES, 'running'])),
          after: Type.Optional(Type.String({ description: '`next` of the page before' })),
          limit: Limit,
        }),
        response: { 200: Type.Object({ runs: Type.Array(RunShape), next: TextOrNull }) },
      },
    },
    async (request) => {
      const { certname, ...page } = request.query;
      const { items, next } = await listRuns(db, {
        ...page,
        ...(certname === undefined ? {} : { certname: parseCertname(certname) }),
      });
      return { runs: items, next };
    },
  );

  app.get(
    '/api/v1/runs/:run',
    {
      config: { access: 'viewer' },
      schema: { summary: 'Show a run', tags: ['runs'], params: RunParameter, response: { 200: RunShape } },
    },
    (request) => readRun(db, parseRunId(request.params.run)),
  );

  app.get(
    '/api/v1/runs/:run/events',
    {
      config: { access: 'viewer' },
      schema: {
        summary: 'Read the events of a run, in order',
        description:
          '{"events": [{sequence, at, received_at, kind, data}], "next": sequence to ask for more after, or null}',
        tags: ['runs'],
        params: RunParameter,
        querystring: Type.Object({
          after: Type.Integer({ minimum: 0, maximum: EVENTS_PER_RUN_MAX, default: 0 }),
          kind: Type.Optional(Type.Enum([...EVENT_KINDS])),
          limit: Limit,
        }),
      },
    },
    async (request, reply) => {
      const run = parseRunId(request.params.run);
      const { after, kind, limit } = request.query;
      const range = { run, day: await dayOf(db, run), from: after + 1, to: EVENTS_PER_RUN_MAX };
      const found = await readEvents(db, { ...range, ...(kind ? { kind } : {}), limit: limit + 1 });
      const events = found.slice(0, limit);
      const next = found.length > limit ? events.at(-1)!.sequence : null;
      // As text, so that numbers in the data stay what the node wrote.
      return reply
        .type('application/json; charset=utf-8')
        .send(`{"events":[${events.map((event) => eventText(event)).join(',')}],"next":${next}}`);
    },
  );
}

function nodes(app: App, db: Database): void {
  app.get(
    '/api/v1/nodes',
    {
      config: { access: 'viewer' },
      schema: {
        summary: 'List nodes by certname',
        tags: ['nodes'],
        querystring: Type.Object({
          environment: Type.Optional(Type.String()),
          status: Type.Optional(Type.Enum([...RUN_STATUSES, 'running', 'never'])),
          after: Type.Optional(Type.String({ description: '`next` of the page before' })),
          limit: Limit,
        }),
        response: { 200: Type.Object({ nodes: Type.Array(NodeShape), next: TextOrNull }) },
      },
    },
    async (request) => {
      const { environment, ...page } = request.query;
      const { items, next } = await listNodes(db, {
        ...page,
        ...(environment === undefined ? {} : { environment: parseEnvironmentName(environment) }),
      });
      return { nodes: items, next };
    },
  );

  app.get(
    '/api/v1/nodes/:certname',
    {
      config: { access: 'viewer' },
      schema: { summary: 'Show a node', tags: ['nodes'], params: Certname, response: { 200: NodeDetailShape } },
    },
    (request) => readNode(db, parseCertname(request.params.certname)),
  );

  app.get(
    '/api/v1/nodes/:certname/facts',
    {
      config: { access: 'viewer' },
      schema: {
        summary: "Read a node's facts",
        description:
          'The values object as the node last submitted it, volatile values included. Header callboard-facts: the stable hash.',
        tags: ['nodes'],
        params: Certname,
      },
    },
    async (request, reply) => {
      const { hash, text } = await readFacts(db, parseCertname(request.params.certname));
      return reply.type('application/json; charset=utf-8').header('callboard-facts', hash).send(text);
    },
  );
}

function watch(app: App, watchers: Watch): void {
  app.get(
    '/api/v1/watch',
    {
      config: { access: 'viewer' },
      schema: {
        summary: 'Follow the fleet',
        description:
          'Server-sent events from now on: `run_event` as it is stored (id `<run>:<sequence>`), `compile`, `deploy`, `release`. ' +
          'A reader that is too slow is cut off and finds what it missed in the lists.',
        tags: ['runs'],
        produces: ['text/event-stream'],
        querystring: Type.Object({ certname: Type.Optional(Type.String()), run: Type.Optional(Type.String()) }),
      },
    },
    (request, reply) => {
      const { certname, run } = request.query;
      const filter = {
        ...(certname === undefined ? {} : { certname: parseCertname(certname) }),
        ...(run === undefined ? {} : { run: parseRunId(run) }),
      };
      watchers.add(openStream(reply), filter);
    },
  );
}
