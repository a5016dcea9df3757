/** Checks what a compile's process answers. Code of modules runs in that process, so its word is not taken for anything. */
import { type Catalog, catalogContents } from '../model/catalog.ts';
import type { CatalogContent, CompileError, CompileRequest, CompileWarning } from './request.ts';

export interface CompileHeader {
  status: 'compiled' | 'failed';
  error?: CompileError;
  contents: CatalogContent[];
  warnings: CompileWarning[];
  cpuMs: number | null;
  /** Files of the code version that had to be parsed. */
  parsed: string[];
}

const SHA256 = /^[0-9a-f]{64}$/;

/** Throws an Error that says what is wrong with the header. */
export function readHeader(line: Buffer): CompileHeader {
  const value = JSON.parse(String(line)) as Record<string, unknown>;
  const { status } = value;
  if (status !== 'compiled' && status !== 'failed') throw new Error(`its status is ${JSON.stringify(status)}`);
  const header: CompileHeader = {
    status,
    contents: list(value.contents).map(content),
    warnings: list(value.warnings).map((item) => ({ ...message(item), level: String(record(item).level) })),
    cpuMs: typeof value.cpu_ms === 'number' ? value.cpu_ms : null,
    parsed: list(value.parsed).map(String),
  };
  if (status === 'failed') header.error = message(value.error);
  return header;
}

/** Throws an Error unless the bytes are a catalog of this node, and every content that it names is declared. */
export function checkCatalog(canonical: Buffer, header: CompileHeader, request: CompileRequest): void {
  const catalog = record(JSON.parse(String(canonical)));
  if (catalog.name !== request.certname) throw new Error(`the catalog is for ${JSON.stringify(catalog.name)}`);
  if (catalog.environment !== request.environment)
    throw new Error(`the catalog is of the environment ${JSON.stringify(catalog.environment)}`);
  if (!Array.isArray(catalog.resources) || !Array.isArray(catalog.edges))
    throw new Error('the catalog has no resources');
  const declared = new Set<string>(header.contents.map((item) => item.hash));
  for (const hash of catalogContents(catalog as unknown as Catalog)) {
    if (!declared.has(hash)) throw new Error(`the catalog names the content ${hash}, which was not declared`);
    declared.delete(hash);
  }
  if (declared.size > 0) throw new Error(`contents were declared that the catalog does not name: ${[...declared][0]}`);
}

function content(item: unknown): CatalogContent {
  const { hash, size, path } = record(item);
  if (typeof hash !== 'string' || !SHA256.test(hash)) throw new Error(`it names the content ${JSON.stringify(hash)}`);
  if (typeof size !== 'number' || !Number.isSafeInteger(size)) throw new Error(`content ${hash} has no size`);
  return typeof path === 'string' ? { hash, size, path } : { hash, size };
}

function message(item: unknown): CompileError {
  const { message: text, file, line } = record(item);
  return {
    message: String(text),
    file: typeof file === 'string' ? file : null,
    line: typeof line === 'number' ? line : null,
  };
}

function record(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('an object was expected');
  return value as Record<string, unknown>;
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}
