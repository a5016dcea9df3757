/**
 * Checks requests against their TypeBox schemas. A body must be what the schema says, to the type: nothing is converted and
 * nothing silently dropped. Paths, queries and headers are text, so there `5` may be an integer, a default fills a gap, and
 * one value may stand for a list of one. (TypeBox's own Convert goes further: it would make 1 of `1.5`.)
 */
import type { FastifySchemaCompiler } from 'fastify';
import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';

type JsonSchema = { type?: string; default?: unknown; items?: JsonSchema; properties?: Record<string, JsonSchema> };
type Convert = (value: unknown) => unknown;

export const compileValidator: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const checker = Compile(schema);
  const answer = (value: unknown) =>
    checker.Check(value) ? { value } : { error: checker.Errors(value) as unknown as never };
  if (httpPart === 'body') return answer;
  const conversions = Object.entries((schema as JsonSchema).properties ?? {}).flatMap(([name, property]) => {
    const convert = conversion(property);
    return convert ? [{ name, convert }] : [];
  });
  if (conversions.length === 0) return answer;
  return (value: unknown) => {
    const converted = { ...(value as Record<string, unknown>) };
    for (const { name, convert } of conversions) {
      const property = convert(converted[name]);
      if (property !== undefined) converted[name] = property;
    }
    return answer(converted);
  };
};

/** How text becomes a property's type; undefined where text is what it wants. What does not fit stays, and is refused. */
function conversion(schema: JsonSchema): Convert | undefined {
  const convert = fromText(schema);
  const { default: preset } = schema;
  if (preset === undefined) return convert;
  return (value) => (value === undefined ? preset : convert ? convert(value) : value);
}

function fromText({ type, items }: JsonSchema): Convert | undefined {
  switch (type) {
    case 'integer':
    case 'number':
      return (value) => (typeof value === 'string' && /^-?\d{1,15}(\.\d{1,15})?$/.test(value) ? Number(value) : value);
    case 'boolean':
      return (value) => (value === 'true' ? true : value === 'false' ? false : value);
    case 'array': {
      const convert = items && fromText(items);
      return (value) => {
        if (value === undefined) return value;
        const list = Array.isArray(value) ? value : [value];
        return convert ? list.map(convert) : list;
      };
    }
    default:
      return undefined;
  }
}
