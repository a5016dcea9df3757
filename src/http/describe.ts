/**
 * The API's description (OpenAPI 3.1), from the schemas beside the routes. `tools/openapi.ts` writes it to
 * `openapi/callboard-v1.json`, which is checked in and compared.
 */
import swagger from '@fastify/swagger';
import type { FastifySchema } from 'fastify';
import type { App } from './app.ts';
import type { Access } from './identity.ts';

export async function addDescription(app: App): Promise<void> {
  await app.register(swagger, {
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
      return { url, schema: describeRoute((schema ?? {}) as FastifySchema, url, access) };
    },
  });
}

/** The description of every route that was mounted, those of later rooms included. */
export async function describeApi(app: App): Promise<object> {
  await app.ready();
  const { paths, components, ...rest } = app.swagger() as { paths: Record<string, unknown>; components: object };
  // In a fixed order, whatever order the rooms were mounted in.
  return {
    ...rest,
    // Here and not above: the library's types end at OpenAPI 3.0, which had no mutualTLS.
    components: { ...components, securitySchemes: SECURITY_SCHEMES },
    paths: Object.fromEntries(Object.entries(paths).sort(([a], [b]) => (a < b ? -1 : 1))),
  };
}

const SECURITY_SCHEMES = {
  node: { type: 'mutualTLS', description: 'The client certificate of the node in the path' },
  operator: { type: 'http', scheme: 'bearer', description: "An operator's token: viewer, deployer or admin" },
};

function describeRoute(schema: FastifySchema, url: string, access: Access): FastifySchema {
  const described = schema as FastifySchema & { description?: string; response?: Record<string, unknown> };
  const refusal = {
    description: 'Refused',
    content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
  };
  return {
    ...described,
    tags: [url.split('/')[url.startsWith('/api/v1/') ? 3 : 1] || 'root'],
    description: [described.description, ACCESS[access]].filter(Boolean).join('\n\n'),
    security:
      access === 'public'
        ? []
        : access === 'node'
          ? [{ node: [] }]
          : access === 'content'
            ? [{ node: [] }, { operator: [] }]
            : [{ operator: [] }],
    response: { ...(described.response ?? { 200: { description: 'Done' } }), '4XX': refusal },
  } as FastifySchema;
}

const ACCESS: Record<Access, string> = {
  public: 'Open to anybody.',
  node: 'Only for the node in the path.',
  content: 'For nodes whose catalogs name the content, and for operators.',
  viewer: 'For operators.',
  deployer: 'For deployers and admins.',
  admin: 'For admins.',
};
