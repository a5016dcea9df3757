/** A key pair of this run for hiera-eyaml, and values encrypted for it. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const directory = mkdtempSync(join(tmpdir(), 'callboard-eyaml-'));
process.on('exit', () => rmSync(directory, { recursive: true, force: true }));

export const PRIVATE_KEY = join(directory, 'private.pem');
export const PUBLIC_KEY = join(directory, 'public.pem');
execFileSync(
  'openssl',
  [
    ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '30', '-subj', '/CN=eyaml'],
    ...['-keyout', PRIVATE_KEY, '-out', PUBLIC_KEY],
  ],
  { stdio: 'pipe' },
);

/** As `eyaml encrypt --output string` writes it: other text each time. */
export function encrypted(text: string): string {
  const options = ['-encrypt', '-aes-256-cbc', '-binary', '-outform', 'DER'];
  const sealed = execFileSync('openssl', ['smime', ...options, PUBLIC_KEY], { input: text, stdio: 'pipe' });
  return `ENC[PKCS7,${sealed.toString('base64')}]`;
}
