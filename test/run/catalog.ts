/** Catalogs as the compiler makes them, small enough to say in a test. */
import { createHash } from 'node:crypto';

export interface TestResource {
  type: string;
  title: string;
  parameters?: Record<string, unknown>;
  sensitive_parameters?: string[];
}

/** A catalog of these resources in class main, in canonical shape. */
export function catalogOf(
  name: string,
  resources: TestResource[],
  files: { metadata?: object; recursive_metadata?: object; environment?: string } = {},
): object {
  const { environment = 'production', ...metadata } = files;
  return {
    catalog_format: 2,
    classes: ['settings', 'main'],
    edges: [
      { source: 'Stage[main]', target: 'Class[main]' },
      ...resources.map(({ type, title }) => ({ source: 'Class[main]', target: `${type}[${title}]` })),
    ],
    environment,
    name,
    resources: [
      {
        exported: false,
        kind: 'compilable_type',
        parameters: { name: 'main' },
        tags: ['stage'],
        title: 'main',
        type: 'Stage',
      },
      { exported: false, kind: 'class', parameters: {}, tags: ['class', 'main'], title: 'main', type: 'Class' },
      ...resources.map((resource) => ({
        exported: false,
        file: 'manifests/site.pp',
        kind: 'compilable_type',
        line: 1,
        tags: [resource.type.toLowerCase(), 'class', 'main'],
        ...resource,
      })),
    ],
    tags: ['settings', 'main'],
    ...metadata,
  };
}

export function fileMetadata(text: string | Buffer, source: string, relativePath: string | null = null): object {
  const hash = createHash('sha256').update(text).digest('hex');
  return {
    checksum: { type: 'sha256', value: `{sha256}${hash}` },
    content_uri: `puppet:///sha256/${hash}`,
    destination: null,
    group: 0,
    links: 'manage',
    mode: 0o644,
    owner: 0,
    path: `/${source.replace(/^puppet:\/\/\//, '')}`,
    relative_path: relativePath,
    source,
    type: 'file',
  };
}

export function directoryMetadata(source: string, relativePath: string): object {
  return {
    checksum: { type: 'ctime', value: '{ctime}1970-01-01 00:00:00 +0000' },
    destination: null,
    group: 0,
    links: 'manage',
    mode: 0o755,
    owner: 0,
    path: `/${source.replace(/^puppet:\/\/\//, '')}`,
    relative_path: relativePath,
    source,
    type: 'directory',
  };
}
