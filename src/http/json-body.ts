import { CallboardError } from '../model/errors.ts';
import { parseRaw } from '../model/json.ts';

/**
 * The value of a JSON body, or undefined for none. Throws JSON_INVALID for what is not JSON in UTF-8, is nested too deep, or
 * says a key twice (two readers of it could then see two different requests), and for keys that are magic in JavaScript.
 */
export function parseJsonBody(bytes: Buffer): unknown {
  if (bytes.length === 0) return undefined;
  parseRaw(bytes);
  return JSON.parse(bytes.toString('utf8'), refuseMagic);
}

function refuseMagic(this: unknown, key: string, value: unknown): unknown {
  if (key === '__proto__')
    throw new CallboardError('REQUEST_INVALID', { reason: 'The body has a key named __proto__' });
  return value;
}
