/**
 * What the ENC says about a node. An ENC may put the node into another environment, whose own ENC is asked then, and so on
 * until one keeps it; ENCs that send a node round in a circle are an error, not an endless journey.
 */
import type { Certname } from '../model/ids.ts';

export interface EncAnswer {
  /** As it was printed. */
  answer: string;
  environment: string | undefined;
  hash: string;
}

export interface Classification {
  /** Where the node belongs. */
  environment: string;
  /** The answer of that environment's ENC; null where it has none. */
  enc: EncAnswer | null;
}

export interface Classifiers {
  /** The ENC command of an environment; null where it has none, undefined where there is no such environment. */
  encCommand(environment: string): Promise<string | null | undefined>;
  askEnc(command: string, certname: Certname): Promise<EncAnswer>;
}

/** Throws an Error with a sentence for people where the ENC's answer leads nowhere, and whatever asking throws. */
export async function classify(classifiers: Classifiers, certname: Certname, from: string): Promise<Classification> {
  const visited: string[] = [];
  for (let environment = from; ; ) {
    visited.push(environment);
    const command = await classifiers.encCommand(environment);
    if (command === undefined)
      throw new Misclassified(`The ENC puts '${certname}' into the environment '${environment}', which is not there`);
    if (command === null) return { environment, enc: null };
    const enc = await classifiers.askEnc(command, certname);
    if (enc.environment === undefined || enc.environment === environment) return { environment, enc };
    if (visited.includes(enc.environment))
      throw new Misclassified(
        `The ENCs send '${certname}' round in a circle: ${[...visited, enc.environment].join(', ')}`,
      );
    environment = enc.environment;
  }
}

export class Misclassified extends Error {}
