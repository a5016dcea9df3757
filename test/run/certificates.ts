/** A small real CA, by openssl: the server's certificate, and an ssldir in Puppet's layout for each node. */
import { cp, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

export interface TestCa {
  ca: string;
  serverKey: string;
  serverCert: string;
  /** Makes `directory` the ssldir of a node. */
  issue(certname: string, directory: string): Promise<void>;
}

export async function makeCa(directory: string): Promise<TestCa> {
  await mkdir(directory, { recursive: true });
  const file = (name: string): string => join(directory, name);
  const key = (name: string): Promise<unknown> =>
    execa('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', file(`${name}.key`)]);
  await key('ca');
  await execa('openssl', [
    'req',
    '-x509',
    '-new',
    '-key',
    file('ca.key'),
    '-subj',
    '/CN=Test CA',
    '-days',
    '2',
    '-out',
    file('ca.pem'),
  ]);
  const sign = async (name: string): Promise<void> => {
    await key(name);
    await execa('openssl', [
      'req',
      '-new',
      '-key',
      file(`${name}.key`),
      '-subj',
      `/CN=${name}`,
      '-out',
      file(`${name}.csr`),
    ]);
    await writeFile(file(`${name}.ext`), `subjectAltName=DNS:${name},DNS:localhost,IP:127.0.0.1\n`);
    await execa('openssl', [
      ...[
        'x509',
        '-req',
        '-in',
        file(`${name}.csr`),
        '-CA',
        file('ca.pem'),
        '-CAkey',
        file('ca.key'),
        '-CAcreateserial',
      ],
      ...['-days', '2', '-extfile', file(`${name}.ext`), '-out', file(`${name}.pem`)],
    ]);
  };
  await sign('localhost');
  return {
    ca: file('ca.pem'),
    serverKey: file('localhost.key'),
    serverCert: file('localhost.pem'),
    async issue(certname, ssldir) {
      await sign(certname);
      await mkdir(join(ssldir, 'certs'), { recursive: true });
      await mkdir(join(ssldir, 'private_keys'), { recursive: true });
      await cp(file('ca.pem'), join(ssldir, 'certs/ca.pem'));
      await cp(file(`${certname}.pem`), join(ssldir, `certs/${certname}.pem`));
      await cp(file(`${certname}.key`), join(ssldir, `private_keys/${certname}.pem`));
    },
  };
}
