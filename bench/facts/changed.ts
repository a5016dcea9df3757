/** A node that sends a new document of 30 KB each time: see facts.ts. */
import { zippedDocument } from './documents.ts';
import type { Next } from './fleet-client.ts';

export const next: Next = (certname, n) => ({
  method: 'PUT',
  path: `/node/v1/nodes/${certname}/facts`,
  headers: { 'content-type': 'application/json', 'content-encoding': 'gzip' },
  body: zippedDocument(`${certname} ${process.pid} ${n}`),
  status: 200,
});
