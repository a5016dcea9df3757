import type { RunId } from '../model/ids.ts';

/**
 * A run's id: a UUID of version 7, so that ids sort by the time they were made and the spool is read oldest first by name.
 * `random` holds at least 10 bytes.
 */
export function runIdAt(atMs: number, random: Buffer): RunId {
  const bytes = Buffer.alloc(16);
  bytes.writeUIntBE(atMs, 0, 6);
  random.copy(bytes, 6, 0, 10);
  bytes[6] = (bytes[6]! & 0x0f) | 0x70;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = bytes.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}` as RunId;
}
