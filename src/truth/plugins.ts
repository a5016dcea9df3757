/**
 * The plugin tree: what agents get by plugin sync, as one tree. Of all modules in modulepath order (by name within a
 * directory; of two modules with one name the first), the first that has a path gives it. Links are followed, as plugin sync does.
 */
import type { FileEntry, Folder } from './folder.ts';
import { isModuleName } from './modulepath.ts';
import { VERSION_CONTROL_NAMES } from './path.ts';

/** A module's folders that travel, and what of them does not. */
const MOUNTS: { name: string; leftOut: (name: string) => boolean }[] = [
  { name: 'lib', leftOut: (name) => VERSION_CONTROL_NAMES.has(name) },
  { name: 'facts.d', leftOut: (name) => VERSION_CONTROL_NAMES.has(name) },
  {
    name: 'locales',
    leftOut: (name) => VERSION_CONTROL_NAMES.has(name) || name.endsWith('.pot') || name === 'config.yaml',
  },
];

/** The modules that Puppet would find, in order: their names and their directories in the tree. */
export function findModules(folder: Folder, modulepath: readonly string[]): { name: string; path: string }[] {
  const modules = new Map<string, string>();
  for (const directory of modulepath) {
    const found = folder.find(directory);
    if (found.state !== 'directory') continue;
    for (const name of folder.names(found.path)) {
      if (!isModuleName(name) || modules.has(name)) continue;
      const module = folder.find(`${found.path}/${name}`);
      if (module.state === 'directory') modules.set(name, module.path);
    }
  }
  return [...modules].map(([name, path]) => ({ name, path }));
}

/** Entries of the plugin tree: files only, below `lib/`, `facts.d/` and `locales/`. */
export function pluginTree(folder: Folder, modulepath: readonly string[]): FileEntry[] {
  const files = new Map<string, FileEntry>();
  const directories = new Set<string>();
  const modules = findModules(folder, modulepath);
  for (const mount of MOUNTS) {
    for (const module of modules) {
      const root = folder.find(`${module.path}/${mount.name}`);
      if (root.state === 'directory') collect(root.path, mount.name, [root.path], mount.leftOut);
    }
  }
  return [...files.values()];

  function collect(from: string, to: string, above: string[], leftOut: (name: string) => boolean): void {
    if (files.has(to)) return; // An earlier module has a file where this one has a directory.
    for (const name of folder.names(from)) {
      if (leftOut(name)) continue;
      const found = folder.find(`${from}/${name}`);
      const path = `${to}/${name}`;
      if (found.state === 'directory') {
        if (!above.includes(found.path)) collect(found.path, path, [...above, found.path], leftOut);
      } else if (found.state === 'file' && !files.has(path) && !directories.has(path)) {
        files.set(path, { ...found.entry, path });
        for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
          directories.add(path.slice(0, end));
        }
      }
    }
  }
}

/** What is inside `.callboard/environment.json`: which directories of the code version are its modulepath. */
export function environmentFile(modulepath: readonly string[]): Buffer {
  return Buffer.from(`${JSON.stringify({ modulepath })}\n`);
}
