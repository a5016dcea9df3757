/**
 * The API's description (OpenAPI 3.1), from the schemas beside the routes. `tools/openapi.ts` writes it to
 * `openapi/callboard-v1.json`, which is checked in and compared.
 */
import swagger from '@fastify/swagger';
import type { FastifySchema } from 'fastify';
import type { Certname } from '../model/ids.ts';
import type { App, Routes } from './app.ts';
import { type Access, ANONYMOUS, type Identity, mayUse, ROLES } from './identity.ts';

export async function addDescription(app: App): Promise<void> {
  await app.register(swagger, {
    // Those that rooms declare; by themselves GET routes bring none.
    exposeHeadRoutes: true,
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Callboard',
        version: 'v1',
        description:
          'Nodes show their client certificate and reach only what is theirs; operators show a token. Errors have a code, a message and a hint.',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      components: {
        // The library's types end at OpenAPI 3.0, which had no mutualTLS.
        securitySchemes: SECURITY_SCHEMES as never,
        schemas: {
          Error: {
            type: 'object',
            required: ['code', 'message', 'hint'],
            properties: {
              code: { type: 'string', description: 'Stable: branch on this' },
              message: { type: 'string', description: 'A sentence with the offending value' },
              hint: { type: 'string', description: 'The next step' },
            },
          },
        },
      },
    },
    transform: ({ schema, url, route }) => {
      const access = route.config?.access as Access;
      return { url, schema: describeRoute((schema ?? {}) as FastifySchema, String(route.method), url, access) };
    },
  });
}

/** Serves the description; mounted after every other room. */
export const descriptionRoutes: Routes = (app) => {
  let text: string | undefined;
  app.get(
    '/api/v1/openapi.json',
    { config: { access: 'viewer' }, schema: { summary: 'This description' } },
    (_request, reply) => {
      text ??= JSON.stringify(describe(app));
      return reply.type('application/json; charset=utf-8').send(text);
    },
  );
};

/** Every route that was mounted, those of later rooms included. */
function describe(app: App): Description {
  const { paths, ...rest } = app.swagger() as object as Description;
  for (const operation of Object.values(paths).flatMap((path) => Object.values(path))) {
    // To the schema a default makes a property always there; to a caller it makes a parameter optional.
    for (const each of operation.parameters ?? []) if (each.schema?.default !== undefined) each.required = false;
  }
  // In a fixed order, whatever order the rooms were mounted in.
  return { ...rest, paths: Object.fromEntries(Object.entries(paths).sort(([a], [b]) => (a < b ? -1 : 1))) };
}

/**
 * Who may call what, as a table in Markdown: one row an operation, in the order of the description. `test/http` proves each
 * cell of it over TLS.
 */
export function accessTable(description: Description): string {
  const askers: [string, Identity][] = [
    ['nobody', ANONYMOUS],
    ['another node', { kind: 'node', certname: 'another' as Certname, extensions: {} }],
    ['the node', { kind: 'node', certname: 'the' as Certname, extensions: {} }],
    ...ROLES.map((role): [string, Identity] => [role, { kind: 'operator', name: role, role }]),
  ];
  const rows = Object.entries(description.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => [
      `\`${method.toUpperCase()} ${path}\``,
      ...askers.map(([, identity]) =>
        operation['x-access'] === 'hook' ? 'signed' : mayUse(identity, operation['x-access'], 'the') ? 'yes' : '',
      ),
    ]),
  );
  return [
    '# Who may call what',
    '',
    'Made by `npm run openapi` from the routes; a test compares it and proves every cell. A certificate or token that is revoked, expired, made up or of',
    'another CA is nobody. Nobody is answered 401, whether or not there is such a route; everybody else 403 where there is no "yes".',
    'Content is open to the node whose catalogs and plugins name it, and to deployers. A hook is open to whoever signs it with the secret of a code',
    'source, and answers 401 to everybody else, whatever certificate or token comes with it.',
    '',
    `| call | ${askers.map(([name]) => name).join(' | ')} |`,
    `| --- |${' --- |'.repeat(askers.length)}`,
    ...rows.map((cells) => `| ${cells.join(' | ')} |`),
    '',
  ].join('\n');
}

export interface Description {
  /** Operations by path, and by method in lower case. */
  paths: Record<string, Record<string, Operation>>;
}

interface Operation {
  'x-access': Access;
  parameters?: { schema?: { default?: unknown }; required?: boolean }[];
}

/** `GET /api/v1/nodes/:certname/diff` is `getNodesByCertnameDiff`; what is not the API begins with its surface. */
function operationId(method: string, url: string): string {
  const words = url
    .replace(/^\/api\/v1\//, '')
    .replace(/:/g, 'by-')
    .split(/[^A-Za-z0-9]+/)
    .filter(Boolean);
  return method.toLowerCase() + words.map((word) => word[0]!.toUpperCase() + word.slice(1)).join('');
}

const SECURITY_SCHEMES = {
  hook: {
    type: 'apiKey',
    in: 'header',
    name: 'X-Hub-Signature-256',
    description: 'HMAC-SHA256 of the body; or X-Gitea-Signature, X-Gitlab-Token, or the secret as a bearer token',
  },
  node: { type: 'mutualTLS', description: 'The client certificate of the node in the path' },
  operator: { type: 'http', scheme: 'bearer', description: "An operator's token: viewer, deployer or admin" },
};

function describeRoute(schema: FastifySchema, method: string, url: string, access: Access): FastifySchema {
  const described = schema as FastifySchema & { description?: string; response?: Record<string, unknown> };
  const refusal = {
    description: 'Refused',
    content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
  };
  return {
    ...described,
    operationId: operationId(method, url),
    // Whom the route admits, for programs; the sentence says it to people.
    'x-access': access,
    tags: [url.split('/')[url.startsWith('/api/v1/') ? 3 : 1] || 'root'],
    description: [described.description, ACCESS[access]].filter(Boolean).join('\n\n'),
    security:
      access === 'public'
        ? []
        : access === 'node' || access === 'hook'
          ? [{ [access]: [] }]
          : access === 'content'
            ? [{ node: [] }, { operator: [] }]
            : [{ operator: [] }],
    response: { ...(described.response ?? { 200: { type: 'null', description: 'Done' } }), '4XX': refusal },
  } as FastifySchema;
}

const ACCESS: Record<Access, string> = {
  public: 'Open to anybody.',
  hook: 'For whoever shows the secret of a code source.',
  node: 'Only for the node in the path.',
  content: 'For nodes whose catalogs name the content, and for operators.',
  viewer: 'For operators.',
  deployer: 'For deployers and admins.',
  admin: 'For admins.',
};
