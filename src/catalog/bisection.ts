/** Which deploy first had a resource of a node as it is now, of those whose catalogs are kept. Nothing is compiled for it. */
import type { Catalog } from '../model/catalog.ts';
import { CallboardError } from '../model/errors.ts';
import type { Certname } from '../model/ids.ts';
import { PAGE_ROWS_MAX } from '../model/limits.ts';
import { isNear } from './changed-inputs.ts';
import { Containment } from './containment.ts';
import { diffCatalogs, type ResourceChange, reference } from './diff.ts';
import { inputsBetween, nearTo } from './explanation.ts';
import { type CatalogReading, readPair, readParsed } from './reading.ts';
import type { Side } from './sides.ts';
import { type DeployedCatalog, deployedCatalogs, type NodeCatalogs } from './store.ts';

/**
 * Goes back through the environment's deploys from the newest that the node has a catalog of, to the first whose catalog has
 * the resource otherwise. Throws CANDIDATE_MISSING, RESOURCE_NOT_FOUND.
 */
export async function bisect(deps: CatalogReading, certname: Certname, node: NodeCatalogs, name: string) {
  const deploys = await deployedCatalogs(deps.db, node.environment, certname, PAGE_ROWS_MAX);
  const known = deploys.findIndex((each) => each.catalog !== null);
  if (known < 0) throw new CallboardError('CANDIDATE_MISSING', { certname, environment: node.environment });
  const now = await readParsed(deps, deploys[known]!.catalog!);
  const resource = new Containment(now).resolved(name);
  const isThere = now.resources.some((each) => reference(each) === resource);
  let since = deploys[known]!;
  let unknown: DeployedCatalog[] = [];
  for (const each of deploys.slice(known + 1)) {
    if (each.catalog === null) {
      unknown.push(each);
      continue;
    }
    const change =
      each.catalog === since.catalog ? undefined : await changeOfResource(deps, each, deploys[known]!, resource);
    if (!change) {
      since = each;
      unknown = [];
      continue;
    }
    const why = await inputsBetween(deps, certname, sideOfDeploy(each), sideOfDeploy(since));
    const near = nearTo(new Containment(isThere ? now : await readParsed(deps, each.catalog)), resource);
    const inputs = why.inputs.map((input) => ({ ...input, near: isNear(input, near) }));
    return {
      ...told(resource, isThere, since),
      before: told(resource, isThere, each).since,
      // Deploys in between of which the node has no catalog that is kept: it may be one of them.
      unknown: unknown.map((between) => told(resource, isThere, between).since),
      change,
      ...why,
      inputs: inputs.sort((a, b) => Number(b.near) - Number(a.near)),
    };
  }
  if (!isThere) throw new CallboardError('RESOURCE_NOT_FOUND', { certname, resource: name });
  return {
    ...told(resource, isThere, since),
    before: null,
    unknown: [],
    change: null,
    traced: false,
    facts_changed: null,
    inputs: [],
  };
}

function sideOfDeploy({ catalog, code_version }: DeployedCatalog): Side {
  return { catalog: catalog!, code_version };
}

function told(resource: string, isThere: boolean, { facts: _, ...since }: DeployedCatalog) {
  return { resource, is_there: isThere, since };
}

/** What is different about one resource; undefined where a node would notice nothing of it. */
async function changeOfResource(
  deps: CatalogReading,
  from: DeployedCatalog,
  to: DeployedCatalog,
  resource: string,
): Promise<ResourceChange | undefined> {
  const { older, newer, contents } = await readPair(deps, from.catalog!, to.catalog!);
  const only = (catalog: Catalog): Catalog => ({
    ...catalog,
    resources: catalog.resources.filter((each) => reference(each) === resource),
  });
  const [change] = diffCatalogs(only(older!), only(newer), contents).resources;
  if (!change || change.position_only) return undefined;
  const isTagsOnly =
    change.change === 'changed' && change.contents.length + change.parameters.length + change.other.length === 0;
  return isTagsOnly ? undefined : change;
}
