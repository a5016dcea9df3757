/** A pool of real Ruby processes, and compiles of the fixtures that are small enough to be read at a glance. */
import { fileURLToPath } from 'node:url';
import { CompilePool, type CompilePoolOptions } from '../../src/compile/pool.ts';
import type { CompileRequest, CompileResult } from '../../src/compile/request.ts';

export const MISBEHAVING = fileURLToPath(new URL('../fixtures/misbehaving', import.meta.url));

export function openPool(options: Partial<CompilePoolOptions> = {}): CompilePool {
  return new CompilePool({ ruby: 'ruby', certname: 'callboard', ...options });
}

export function request(certname: string, over: Partial<CompileRequest> = {}): CompileRequest {
  return {
    certname,
    environment: 'production',
    codeDirectory: MISBEHAVING,
    facts: '{"os":{"family":"Debian"}}',
    volatileFacts: null,
    trustedExtensions: {},
    enc: null,
    serverFacts: { servername: 'callboard' },
    ...over,
  };
}

/** What the fixture's function gave, as it stands in the catalog. */
export function message(result: CompileResult): string {
  if (result.status === 'failed') throw new Error(`failed: ${result.error.message}`);
  const catalog = JSON.parse(String(result.canonical));
  return catalog.resources.find((resource: { type: string }) => resource.type === 'Notify').parameters.message;
}
