/** A node whose facts are the ones it submitted at first: see facts.ts. */
import { splitFacts } from '../../src/model/facts.ts';
import { document, zippedDocument } from './documents.ts';
import type { Next } from './fleet-client.ts';

export const next: Next = (certname, n) => {
  const path = `/node/v1/nodes/${certname}/facts`;
  if (n > 0) return { method: 'PUT', path, headers: { 'if-none-match': hashOf(certname) }, status: 304 };
  const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' };
  return { method: 'PUT', path, headers, body: zippedDocument(certname), status: 200 };
};

const hashes = new Map<string, string>();
function hashOf(certname: string): string {
  let hash = hashes.get(certname);
  if (!hash) {
    hash = `"${splitFacts(document(certname)).hash}"`;
    hashes.set(certname, hash);
  }
  return hash;
}
