/** What a catalog's resources put on a node or read for it: inline text, content by hash, links. */
import { createHash } from 'node:crypto';
import {
  type Catalog,
  type CatalogResource,
  type FileMetadata,
  metadataContent,
  type ParameterValue,
} from '../model/catalog.ts';
import type { ContentHash } from '../model/ids.ts';
import { written } from './exact.ts';
import { holdsSecret, isSensitive } from './secrets.ts';

export type FileContent =
  | { kind: 'inline'; bytes: Buffer }
  | { kind: 'stored'; hash: ContentHash }
  | { kind: 'link'; target: string }
  | { kind: 'directory' }
  /** Compared by what it is, and never shown. */
  | { kind: 'secret'; identity: string }
  /** A value that becomes content on the node (Deferred). */
  | { kind: 'value'; value: ParameterValue };

/**
 * A File's contents by their paths on the node. Of another type's resource (`concat_fragment`, `archive`) the contents that
 * its parameters name as `puppet:///` URIs, by these.
 */
export function fileContents(catalog: Catalog, resource: CatalogResource): Map<string, FileContent> {
  const files = new Map<string, FileContent>();
  if (resource.type !== 'File') {
    for (const [uri, metadata] of sourceMetadata(catalog, resource)) files.set(uri, metadataFile(metadata, uri));
    return files;
  }
  const path = own(resource.parameters, 'path');
  const root = typeof path === 'string' ? path : resource.title;
  const inline = own(resource.parameters, 'content');
  if (inline !== undefined) files.set(root, inlineContent(resource, inline));
  const metadata = own(catalog.metadata, resource.title);
  if (metadata) files.set(root, metadataFile(metadata, resource.title));
  // Of several sources the first that has a path gives it, as Puppet takes them.
  for (const entry of Object.values(own(catalog.recursive_metadata, resource.title) ?? {}).flat()) {
    const below = entry.relative_path === '.' || entry.relative_path === null ? root : `${root}/${entry.relative_path}`;
    if (!files.has(below)) files.set(below, metadataFile(entry, below));
  }
  return files;
}

/** The metadata of the `puppet:///` URIs among the parameters of a resource that is no File. */
export function sourceMetadata(catalog: Catalog, resource: CatalogResource): [uri: string, metadata: FileMetadata][] {
  const values = Object.values(resource.parameters ?? {}).flat();
  const uris = values.filter((value) => typeof value === 'string' && value.startsWith('puppet:///')) as string[];
  return [...new Set(uris)].flatMap((uri) => {
    const metadata = own(catalog.metadata, uri);
    return metadata ? [[uri, metadata] as [string, FileMetadata]] : [];
  });
}

function inlineContent(resource: CatalogResource, value: ParameterValue): FileContent {
  if (isSensitive(resource, 'content') || holdsSecret(value)) return { kind: 'secret', identity: written(value) };
  if (typeof value === 'string') return { kind: 'inline', bytes: Buffer.from(value) };
  const rich = value as { __ptype?: string; __pvalue?: unknown } | null;
  if (rich?.__ptype === 'Binary' && typeof rich.__pvalue === 'string')
    return { kind: 'inline', bytes: Buffer.from(rich.__pvalue, 'base64') };
  return { kind: 'value', value };
}

function metadataFile(metadata: FileMetadata, path: string): FileContent {
  if (metadata.type === 'link') return { kind: 'link', target: metadata.destination ?? '' };
  if (metadata.type === 'directory') return { kind: 'directory' };
  return { kind: 'stored', hash: metadataContent(metadata, path)! };
}

/** The SHA-256 by which contents are the same wherever they come from; undefined for what is no plain content. */
export function contentHash(content: FileContent | undefined): ContentHash | undefined {
  if (content?.kind === 'stored') return content.hash;
  if (content?.kind === 'inline') return createHash('sha256').update(content.bytes).digest('hex') as ContentHash;
  return undefined;
}

/** Titles are anything, `constructor` too. */
export function own<Value>(record: Record<string, Value> | undefined, name: string): Value | undefined {
  return record && Object.hasOwn(record, name) ? record[name] : undefined;
}
