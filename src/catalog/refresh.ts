/**
 * Which resources a change refreshes: a service is restarted because its configuration changed. Puppet's rules, as far as a
 * catalog tells them: an event goes along `notify` and `subscribe`, from whatever contains the changed resource to all that
 * the named one contains, and what is refreshed tells on.
 */
import type { Catalog } from '../model/catalog.ts';
import { Containment } from './containment.ts';

export interface Refresh {
  resource: string;
  /** The changed resource that it goes back to. */
  because: string;
}

/** Puppet's own types that do nothing on a refresh, and so tell nobody. */
const DEAF = new Set(
  (
    'Augeas Computer Cron File Filebucket Group Host Interface K5login Macauthorization Mailalias Maillist Mcx Notify Package ' +
    'Resources Router Schedule Scheduled_task Selboolean Selmodule Ssh_authorized_key Sshkey Tidy User Vlan Whit Yumrepo Zfs ' +
    'Zone Zpool'
  ).split(' '),
);

/** In the order of the catalog. `changed` are references of what the node will change by itself. */
export function refreshedBy(catalog: Catalog, changed: Iterable<string>): Refresh[] {
  const containment = new Containment(catalog);
  const targets = tells(containment);
  const causes = new Map<string, string>();
  const told = new Set<string>();
  const waiting = [...changed].map((name) => ({ name, because: name }));
  for (let event = waiting.shift(); event; event = waiting.shift()) {
    for (const teller of [event.name, ...containment.containers(event.name)]) {
      if (told.has(teller)) continue;
      told.add(teller);
      for (const name of targets.get(teller) ?? []) hear(name, event.because);
    }
  }
  return [...containment.names()].flatMap((resource) => {
    const because = causes.get(resource);
    return because === undefined ? [] : [{ resource, because }];
  });

  function hear(name: string, because: string): void {
    const open = [name];
    const seen = new Set<string>();
    for (let each = open.pop(); each !== undefined; each = open.pop()) {
      if (seen.has(each)) continue;
      seen.add(each);
      if (containment.isContainer(each)) {
        open.push(...containment.contents(each));
        continue;
      }
      if (causes.has(each) || each === because || DEAF.has(each.slice(0, each.indexOf('[')))) continue;
      if (!containment.resource(each)) continue;
      causes.set(each, because);
      waiting.push({ name: each, because });
    }
  }
}

/** Whom each resource tells when it changes. */
function tells(containment: Containment): Map<string, string[]> {
  const targets = new Map<string, string[]>();
  const add = (from: string, to: string): void => {
    const list = targets.get(from);
    if (list) list.push(to);
    else targets.set(from, [to]);
  };
  for (const name of containment.names()) {
    for (const target of containment.named(name, 'notify')) add(name, target);
    for (const source of containment.named(name, 'subscribe')) add(source, name);
  }
  return targets;
}
