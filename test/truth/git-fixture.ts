/** Real git repositories in temporary directories. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { execaSync } from 'execa';
import { afterAll, onTestFinished } from 'vitest';

export interface GitFixture {
  directory: string;
  /** Writes files and commits them; the commit. A value `{ link }` makes a link, `null` removes. */
  commit(
    files: Record<string, string | Buffer | { link: string } | { script: string } | null>,
    message?: string,
  ): string;
  git(...args: string[]): string;
}

/** A directory that goes when the test ends, or, asked for in a hook, when the file's tests have. */
export function temporaryDirectory(name: string, until: 'test' | 'file' = 'test'): string {
  const directory = mkdtempSync(join(tmpdir(), `callboard-${name}-`));
  (until === 'test' ? onTestFinished : afterAll)(() => {
    execaSync('chmod', ['-R', 'u+w', directory], { reject: false });
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

export function gitRepository(place?: string, until: 'test' | 'file' = 'test'): GitFixture {
  const directory = place ?? temporaryDirectory('repo', until);
  mkdirSync(directory, { recursive: true });
  const git = (...args: string[]): string =>
    execaSync('git', ['-c', 'user.name=Test', '-c', 'user.email=test@example.org', ...args], { cwd: directory }).stdout;
  git('init', '--quiet', '--initial-branch=main');
  return {
    directory,
    git,
    commit(files, message = 'A change') {
      for (const [path, value] of Object.entries(files)) {
        const file = join(directory, path);
        rmSync(file, { recursive: true, force: true });
        if (value === null) continue;
        mkdirSync(dirname(file), { recursive: true });
        if (typeof value === 'string' || Buffer.isBuffer(value)) writeFileSync(file, value);
        else if ('link' in value) symlinkSync(value.link, file);
        else {
          writeFileSync(file, value.script);
          chmodSync(file, 0o755);
        }
      }
      git('add', '--all', '--force');
      git('commit', '--quiet', '--allow-empty', '--message', message);
      return git('rev-parse', 'HEAD');
    },
  };
}
