/** Facts as a node of some size sends them: real ones of a Debian machine, and as many again as site facts as 30 KB need. */
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const REAL = readFileSync(new URL('../../test/fixtures/facts/debian-12-facter-4.json', import.meta.url), 'utf8').trim();

const REST = `,${[
  REAL.slice(1, -1),
  ...Array.from({ length: 6 }, (_, i) => `"site_${i}":${REAL.replaceAll('192.0.2.', `10.${i}.7.`)}`),
].join(',')}}`;
const REST_GZIP = gzipSync(REST);

function first(unique: string): string {
  return `{"site_serial":"${unique}"`;
}

/** The whole document. */
export function document(unique: string): Buffer {
  return Buffer.from(first(unique) + REST);
}

/** The same in gzip: two members, of which only the small one is made anew, so that the load costs the fleet nothing. */
export function zippedDocument(unique: string): Buffer {
  return Buffer.concat([gzipSync(first(unique)), REST_GZIP]);
}
