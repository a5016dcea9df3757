/**
 * Checks requests against their TypeBox schemas. A body must be what the schema says, to the type: nothing is converted and
 * nothing silently dropped. Paths, queries and headers are text, so there "5" may be an integer, a default fills a gap,
 * and one value may stand for a list of one.
 */
import type { FastifySchemaCompiler } from 'fastify';
import { type TSchema, Type } from 'typebox';
import { Compile } from 'typebox/compile';
import { Value } from 'typebox/value';

export const compileValidator: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  // A route may give the properties alone, as JSON Schema's users do.
  const checker = Compile(schema);
  const answer = (value: unknown) => (checker.Check(value) ? { value } : { error: checker.Errors(value) as never });
  if (httpPart === 'body' || isPlainText(schema)) return answer;
  return (value: unknown) => answer(Value.Convert(schema, Value.Default(schema, value)));
};

/** Nothing to convert: every property is a string without a default. */
function isPlainText(schema: TSchema): boolean {
  const properties = Object.values((schema as { properties?: Record<string, TSchema> }).properties ?? {});
  return properties.every(
    (property) => Type.IsString(property) && (property as { default?: unknown }).default === undefined,
  );
}
