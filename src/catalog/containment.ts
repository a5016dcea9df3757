/** What contains what in a catalog, and who tells whom. */
import type { Catalog, CatalogResource, ParameterValue } from '../model/catalog.ts';
import { reference } from './diff.ts';
import { own } from './file-content.ts';

/** The parameters by which resources are ordered; of them `notify` and `subscribe` also carry refreshes. */
export const RELATIONS = ['before', 'notify', 'require', 'subscribe'] as const;
export type Relation = (typeof RELATIONS)[number];

export class Containment {
  readonly #resources: ReadonlyMap<string, CatalogResource>;
  readonly #parents: ReadonlyMap<string, string>;
  readonly #children: ReadonlyMap<string, string[]>;
  /** Other names that references may use: a File's path, an alias. */
  readonly #aliases = new Map<string, string>();

  constructor(catalog: Catalog) {
    this.#resources = new Map(catalog.resources.map((each) => [reference(each), each]));
    this.#parents = new Map(catalog.edges.map(({ source, target }) => [target, source]));
    this.#children = new Map(
      Object.entries(Object.groupBy(catalog.edges, (edge) => edge.source)).map(([source, edges]) => [
        source,
        edges!.map((edge) => edge.target),
      ]),
    );
    for (const resource of catalog.resources) {
      const names = [resource.type === 'File' ? own(resource.parameters, 'path') : undefined]
        .concat(own(resource.parameters, 'alias'))
        .flat();
      for (const name of names)
        if (typeof name === 'string') this.#aliases.set(`${resource.type}[${name}]`, reference(resource));
    }
  }

  resource(name: string): CatalogResource | undefined {
    return this.#resources.get(this.resolved(name));
  }

  /** The reference that a resource really has. */
  resolved(name: string): string {
    return this.#resources.has(name) ? name : (this.#aliases.get(name) ?? name);
  }

  /** Classes and defined types hold resources, and are none that a node applies. */
  isContainer(name: string): boolean {
    const resource = this.#resources.get(name);
    return this.#children.has(name) || resource?.kind === 'defined_type' || /^(Class|Stage|Node)\[/.test(name);
  }

  /** From the outermost to the resource's own container. */
  containers(name: string): string[] {
    const found: string[] = [];
    for (let parent = this.#parents.get(name); parent !== undefined; parent = this.#parents.get(parent)) {
      if (found.includes(parent)) break;
      found.unshift(parent);
    }
    return found;
  }

  contents(name: string): readonly string[] {
    return this.#children.get(name) ?? [];
  }

  /** What a resource's own parameter names. */
  named(name: string, relation: Relation): string[] {
    return references(own(this.#resources.get(name)?.parameters, relation)).map((each) => this.resolved(each));
  }

  names(): Iterable<string> {
    return this.#resources.keys();
  }
}

function references(value: ParameterValue | undefined): string[] {
  if (Array.isArray(value)) return value.flatMap(references);
  return typeof value === 'string' && /^[A-Z][^[]*\[/.test(value) ? [value] : [];
}
