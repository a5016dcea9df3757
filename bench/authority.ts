/** A certificate authority for one bench, made with openssl in a folder of its own. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

export interface Authority {
  ca: string;
  /** Paths of PEM files, for servers and load clients that read them themselves. */
  files: { ca: string; serverCert: string; serverKey: string; clientCert: string; clientKey: string };
}

/** Files of a CA, a server `localhost` / 127.0.0.1 and a client `certname`. EC keys, as the embedded CA makes them. */
export async function makeAuthority(directory: string, certname: string): Promise<Authority> {
  await mkdir(directory, { recursive: true });
  const at = (name: string) => join(directory, name);
  const openssl = (...args: string[]) => execa('openssl', args, { cwd: directory });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  await openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=bench CA');
  await writeFile(at('server.ext'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
  for (const [name, subject, extra] of [
    ['server', '/CN=localhost', ['-extfile', 'server.ext']],
    ['client', `/CN=${certname}`, []],
  ] as const) {
    await openssl('req', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', subject);
    const sign = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2'];
    await openssl('x509', '-req', '-in', `${name}.csr`, ...sign, '-out', `${name}.pem`, ...extra);
  }
  return {
    ca: await readFile(at('ca.pem'), 'utf8'),
    files: {
      ca: at('ca.pem'),
      serverCert: at('server.pem'),
      serverKey: at('server.key'),
      clientCert: at('client.pem'),
      clientKey: at('client.key'),
    },
  };
}
