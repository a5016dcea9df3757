/**
 * A catalog: what one node shall be. Its canonical form (docs/formats/catalog-v1.md) is the JSON that the compile worker
 * makes, with sorted keys and without anything that differs between equal compiles; the SHA-256 of those bytes is the
 * catalog's id (P3). The document that is stored, served and queried (P8) is the same bytes with three more members at
 * the end, all of them made from the id, so that the id can be checked against the document at any time.
 */
import { createHash } from 'node:crypto';
import { type CatalogHash, type ContentHash, parseContentHash } from './ids.ts';

/** A parameter's value as JSON: plain, or Puppet's rich data (`{"__ptype": …}`). */
export type ParameterValue = null | boolean | number | string | ParameterValue[] | { [name: string]: ParameterValue };

export interface CatalogResource {
  type: string;
  title: string;
  kind?: string;
  tags?: string[];
  /** The manifest, relative to the code version's root, and the line that declared it. */
  file?: string;
  line?: number;
  exported?: boolean;
  parameters?: Record<string, ParameterValue>;
  /** Parameters whose values are secrets, though they stand here in clear. */
  sensitive_parameters?: string[];
}

/** Containment; each end is a `Type[title]`. */
export interface CatalogEdge {
  source: string;
  target: string;
}

/** Puppet's file metadata, inlined so that a run asks no server for it. */
export interface FileMetadata {
  path?: string;
  /** Null for a single file; `.` for the root of a recursive source. */
  relative_path: string | null;
  type: 'file' | 'directory' | 'link';
  links?: string;
  owner?: number;
  group?: number;
  /** Decimal. */
  mode?: number;
  /** Of files and directories; a link's is null. */
  checksum: { type: string; value: string };
  destination?: string | null;
  source?: string;
  /** `puppet:///sha256/<hex>`: the name in the content store. Files only. */
  content_uri?: string;
}

/** The document as the agent reads it. */
export interface Catalog {
  name: string;
  environment: string;
  catalog_format: number;
  tags?: string[];
  classes?: string[];
  resources: CatalogResource[];
  edges: CatalogEdge[];
  /** By the title of a File resource; for other types' parameters by the `puppet:///` URI itself. */
  metadata?: Record<string, FileMetadata>;
  /** By the title of a File resource, then by source. */
  recursive_metadata?: Record<string, Record<string, FileMetadata[]>>;
  catalog_uuid?: string;
  code_id?: string | null;
  version?: string;
}

const CONTENT_URI = /^puppet:\/\/\/sha256\/([0-9a-f]{64})$/;
const CLOSE = 0x7d; // }

/** Names a canonical form, and completes it to the document that is stored and served. Throws when it is no JSON object. */
export function servedCatalog(canonical: Buffer): { id: CatalogHash; document: Buffer } {
  if (canonical[0] !== 0x7b || canonical.at(-1) !== CLOSE || canonical.length < 4)
    throw new Error('a canonical catalog is one JSON object without white space around it');
  const id = createHash('sha256').update(canonical).digest('hex') as CatalogHash;
  return { id, document: Buffer.concat([canonical.subarray(0, -1), Buffer.from(ending(id))]) };
}

/** The id that a served document must have: throws when the document does not end as that id's document ends. */
export function checkedCatalogId(document: Buffer): CatalogHash {
  const length = ending('0'.repeat(64)).length;
  const canonical = document.subarray(0, -length);
  const id = createHash('sha256').update(canonical).update('}').digest('hex') as CatalogHash;
  if (document.length <= length || document.subarray(-length).toString('latin1') !== ending(id))
    throw new Error('the document is not the one of its own id');
  return id;
}

function ending(id: string): string {
  return `,"catalog_uuid":"${catalogUuid(id)}","code_id":null,"version":"${id}"}`;
}

/** A UUID for Puppet's `catalog_uuid`, made from the id: version 8 of RFC 9562, "custom". */
export function catalogUuid(id: string): string {
  const variant = ((Number.parseInt(id[16]!, 16) & 3) | 8).toString(16);
  return `${id.slice(0, 8)}-${id.slice(8, 12)}-8${id.slice(13, 16)}-${variant}${id.slice(17, 20)}-${id.slice(20, 32)}`;
}

/**
 * Every content that a catalog's metadata names, sorted, each once. Takes the canonical form, the served document, or what
 * was parsed from either. Throws when a file's metadata has no `content_uri` in our form: such a run would ask a server.
 */
export function catalogContents(document: Buffer | Catalog): ContentHash[] {
  const catalog: Catalog = Buffer.isBuffer(document) ? JSON.parse(document.toString('utf8')) : document;
  const hashes = new Set<ContentHash>();
  for (const [title, metadata] of Object.entries(catalog.metadata ?? {})) {
    const hash = metadataContent(metadata, title);
    if (hash) hashes.add(hash);
  }
  for (const [title, sources] of Object.entries(catalog.recursive_metadata ?? {})) {
    for (const metadata of Object.values(sources).flat()) {
      const hash = metadataContent(metadata, `${title}/${metadata.relative_path}`);
      if (hash) hashes.add(hash);
    }
  }
  return [...hashes].sort();
}

/** The content one metadata object names; undefined for directories and links. */
export function metadataContent(metadata: FileMetadata, path: string): ContentHash | undefined {
  const uri = metadata.content_uri;
  if (uri === undefined && metadata.type !== 'file') return undefined;
  const hex = CONTENT_URI.exec(uri ?? '')?.[1];
  if (hex) return parseContentHash(hex);
  if (metadata.type !== 'file') return undefined;
  throw new Error(`the metadata of ${path} names no content of ours: ${String(uri).slice(0, 200)}`);
}
