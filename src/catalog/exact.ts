/**
 * JSON read without loss. JavaScript's numbers round what a catalog may say (12345678901234567890) and forget how it was
 * said (1.0), so a number that would not come out as it went in is kept as its text. `JSON.stringify` writes it as it was.
 */

/** "JSON.parse source text access" of ECMAScript, in Node.js since 21, which TypeScript's library does not know yet. */
interface ExactJson {
  parse<Value>(text: string, reviver: (key: string, value: unknown, context: { source?: string }) => unknown): Value;
  rawJSON(text: string): unknown;
  isRawJSON(value: unknown): boolean;
}

const exact = JSON as unknown as ExactJson;

/** Reads a document so that writing it gives the same values, digit for digit. */
export function parseExactly<Value>(document: Buffer): Value {
  return exact.parse(document.toString('utf8'), (_key, value, { source }) =>
    typeof value === 'number' && String(value) !== source ? exact.rawJSON(source!) : value,
  );
}

/** Whether two values are the same JSON, members in any order. */
export function isSame(a: unknown, b: unknown): boolean {
  return a === b || written(a) === written(b);
}

/** The one text of a value. */
export function written(value: unknown): string {
  return JSON.stringify(value, (_key, each: unknown) =>
    typeof each === 'object' && each !== null && !Array.isArray(each) && !exact.isRawJSON(each)
      ? Object.fromEntries(Object.entries(each).sort(([x], [y]) => (x < y ? -1 : 1)))
      : each,
  );
}

/** A number kept as its text. */
export function isRawNumber(value: unknown): boolean {
  return exact.isRawJSON(value);
}
