/**
 * The node's facts: collected by real Facter with the plugins that the control plane names, kept in `facts/facts.json` for runs, and
 * submitted. An unchanged submission is one hash and no body; once a day, and when the control plane asks, it is the whole.
 */
import { mkdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { CallboardError } from '../model/errors.ts';
import { splitFacts } from '../model/facts.ts';
import { FACTS_BYTES_MAX, FACTS_COLLECT_MAX_MS, FACTS_WHOLE_MAX_MS } from '../model/limits.ts';
import type { ControlPlane } from './control-plane.ts';
import { replaceFile } from './files.ts';
import type { PuppetJob, Runner } from './runner.ts';

/** What was submitted last; in `facts/submitted.json`. */
interface Submitted {
  hash: string;
  whole_at: number;
}

export class Facts {
  readonly #directory: string;
  readonly #runner: Runner;
  readonly #control: ControlPlane;
  readonly #log: Logger;
  #submitted: Submitted | null = null;

  constructor(directory: string, runner: Runner, control: ControlPlane, log: Logger) {
    this.#directory = directory;
    this.#runner = runner;
    this.#control = control;
    this.#log = log;
  }

  /** What runs read. */
  get path(): string {
    return join(this.#directory, 'facts.json');
  }

  async open(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    this.#submitted = await readFile(join(this.#directory, 'submitted.json'), 'utf8').then(JSON.parse, () => null);
  }

  /** Runs Facter; resolves to the document. Throws RUNNER_FAILED. What was collected before stays when it does. */
  async collect(job: PuppetJob): Promise<Buffer> {
    const output = join(this.#directory, 'collected.json');
    const startedAt = Date.now();
    const end = await this.#runner.facts({ ...job, output }, FACTS_COLLECT_MAX_MS);
    if (!end.collected)
      throw new CallboardError('RUNNER_FAILED', {
        reason: `facts were not collected: ${end.failed ?? `its process ended (${end.signal ?? end.code})`}`,
      });
    if (end.collected.bytes > FACTS_BYTES_MAX)
      throw new CallboardError('RUNNER_FAILED', {
        reason: `facts are ${end.collected.bytes} bytes, ${FACTS_BYTES_MAX} at most`,
      });
    const document = await readFile(output);
    await rename(output, this.path);
    this.#log.info({ ...end.collected, ms: Date.now() - startedAt }, 'facts collected');
    return document;
  }

  /** Tells the control plane. Throws when it cannot be told; the next collection tries again. */
  async submit(environment: string, document: Buffer, now: number): Promise<void> {
    const { hash } = splitFacts(document);
    if (!wholeDue(this.#submitted, hash, now) && (await this.#control.hasFacts(environment, hash))) {
      this.#log.info({ facts: hash }, 'facts are unchanged');
      return;
    }
    const answer = await this.#control.sendFacts(environment, document);
    if (answer.facts !== hash)
      this.#log.warn({ facts: answer.facts, ours: hash }, 'the control plane names the facts otherwise');
    this.#submitted = { hash, whole_at: now };
    await replaceFile(join(this.#directory, 'submitted.json'), JSON.stringify(this.#submitted));
    this.#log.info({ facts: answer.facts, changed: answer.changed }, 'facts submitted');
  }
}

/** Whether to send the whole document without asking first. Pure. */
export function wholeDue(submitted: Submitted | null, hash: string, now: number): boolean {
  return submitted === null || submitted.hash !== hash || now - submitted.whole_at > FACTS_WHOLE_MAX_MS;
}
