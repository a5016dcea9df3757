/** What a compile takes and gives, on this side of the wire. The wire itself: ruby/compile/PROTOCOL.md. */

export interface CompileRequest {
  certname: string;
  environment: string;
  /** Absolute: a complete code version on disk, with `.callboard/environment.json` in it. */
  codeDirectory: string;
  /** The stable facts document and the volatile values, JSON text each, as they were stored. */
  facts: string;
  volatileFacts: string | null;
  /** From the node's certificate. */
  trustedExtensions: Record<string, string>;
  /** What the ENC printed, or null where the environment has none. */
  enc: string | null;
  /** `serverversion`, `servername`, `serverip`: data, so that every compiler gives the same catalog. */
  serverFacts: Record<string, string>;
  /** Whether to tell what is read, which is the normal case; false: as fast as can be, for comparison. */
  trace?: boolean;
  /** In an interpreter that has loaded no code of modules: what others load is not to be relied on. */
  apart?: boolean;
}

/** Puppet's own words, with the place in the code version where they apply. */
export interface CompileError {
  message: string;
  file: string | null;
  line: number | null;
}

export interface CompileWarning extends CompileError {
  level: string;
}

/** A file that a catalog names. `path`: absolute, only where it is not part of the code version. */
export interface CatalogContent {
  hash: string;
  size: number;
  path?: string;
}

/** A place in the code version where something is said about; null where there is none. */
export interface Place {
  file: string | null;
  line: number | null;
}

/** What a compile looked at, as keys and never as values: ruby/compile/PROTOCOL.md, Reads. */
export interface Reads {
  /** Things of the code version: "file PATH", "name function NAME", … */
  inputs: string[];
  /** Paths of facts, trusted and server facts. */
  data: (string | number)[][];
  /** Things of this machine, each with a digest of what it was: null where there was nothing. */
  outside: Record<string, string | null>;
  /** Why it cannot be told whether the same would come out again. */
  volatile: ({ reason: string } & Place)[];
  lints: ({ message: string } & Place)[];
}

/** `reads`: null where it is not known, so that every change may change the result. */
export type CompileResult = { warnings: CompileWarning[]; cpuMs: number | null; reads: Reads | null } & (
  | { status: 'compiled'; canonical: Buffer; contents: CatalogContent[] }
  | { status: 'failed'; error: CompileError }
);

/** The request as the worker reads it: one line. */
export function requestLine(request: CompileRequest): Buffer {
  return Buffer.from(
    `${JSON.stringify({
      certname: request.certname,
      facts: request.facts,
      volatile_facts: request.volatileFacts,
      trusted_extensions: request.trustedExtensions,
      enc: request.enc,
      server_facts: request.serverFacts,
      trace: request.trace ?? true,
    })}\n`,
  );
}
