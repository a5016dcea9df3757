/** Asks the stock Puppet of oracle.rb. What it said of equal inputs is remembered. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { CompileRequest } from '../../src/compile/request.ts';
import { requestLine } from '../../src/compile/request.ts';

const PROGRAM = fileURLToPath(new URL('oracle.rb', import.meta.url));

/** A catalog's id, or the sentence with which Puppet refuses. */
export type Outcome = { id: string } | { error: string };

export interface Question {
  /** The name of the code. */
  code: string;
  /** Its `production` is the code. */
  environmentPath: string;
  /** Nodes that are compiled one after another in a process. */
  groups: CompileRequest[][];
}

export class Oracle {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;
  readonly #known = new Map<string, Outcome>();
  /** Catalogs that it compiled. */
  compiled = 0;

  constructor() {
    this.#process = spawn('ruby', [PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#reader = createInterface({ input: this.#process.stdout! });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  /** By certname. */
  async ask(question: Question): Promise<Map<string, Outcome>> {
    const { code } = question;
    const unknown = question.groups.map((group) => group.filter((request) => !this.#known.has(nameOf(code, request))));
    const lists = unknown.map((group) => group.map((request) => JSON.parse(String(requestLine(request)))));
    if (lists.some((list) => list.length > 0)) {
      this.#process.stdin!.write(`${JSON.stringify({ environmentpath: question.environmentPath, groups: lists })}\n`);
      const { value } = await this.#lines.next();
      const answers = JSON.parse(value) as Record<string, Outcome>;
      for (const request of unknown.flat()) {
        this.#known.set(nameOf(code, request), answers[request.certname]!);
        this.compiled += 1;
      }
    }
    return new Map(
      question.groups.flat().map((request) => [request.certname, this.#known.get(nameOf(code, request))!]),
    );
  }

  /** What it said of a node is asked again, of a process that compiles nothing else. */
  async askAlone(question: Question): Promise<Map<string, Outcome>> {
    for (const request of question.groups.flat()) this.#known.delete(nameOf(question.code, request));
    return this.ask({ ...question, groups: question.groups.flat().map((request) => [request]) });
  }

  close(): void {
    this.#reader.close();
    this.#process.kill();
  }
}

function nameOf(code: string, request: CompileRequest): string {
  const { codeDirectory: _, ...rest } = request;
  return createHash('sha256')
    .update(JSON.stringify([code, rest]))
    .digest('hex');
}
