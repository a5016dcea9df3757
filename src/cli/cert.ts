/**
 * Certificates for nodes, made on the server's machine from its state directory; the server may run meanwhile. What is
 * written is Puppet's ssldir: our node daemon and Puppet's agent both take it as it is.
 */
import { access, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { openCa } from '../http/ca.ts';
import { CERTIFICATE_DAYS } from '../http/certificate.ts';
import { CallboardError } from '../model/errors.ts';
import { parseCertname } from '../model/ids.ts';

export function certCommand(): Command {
  const cert = new Command('cert').description("certificates of the embedded CA, on the server's machine");

  cert
    .command('issue')
    .description("a key and certificate for a node, as Puppet's ssldir")
    .argument('<certname>')
    .requiredOption('--out <dir>', 'where the ssldir is written: certs/, private_keys/, crl.pem')
    .requiredOption('--state <dir>', "the server's state directory")
    .option(
      '--extension <name=value...>',
      'a trusted fact: pp_role=web, or an OID under 1.3.6.1.4.1.34380.1',
      extension,
      {},
    )
    .option('--days <days>', 'how long it is valid', positive, CERTIFICATE_DAYS)
    .option('--force', 'issue another one to a name that has one; the first stays valid until it is revoked')
    .addHelpText(
      'after',
      '\nExample:\n  callboard cert issue web1.example --state /var/lib/callboard --out ./web1-ssl --extension pp_role=web',
    )
    .action(async (name: string, flags) => {
      const certname = parseCertname(name);
      const keyFile = join(flags.out, 'private_keys', `${certname}.pem`);
      if (!flags.force && (await exists(keyFile))) throw new CallboardError('CERTIFICATE_EXISTS', { certname });
      const ca = await openCa(flags.state, { create: false });
      const issued = await ca.issue(certname, { extensions: flags.extension, days: flags.days, onlyNew: !flags.force });
      await mkdir(join(flags.out, 'certs'), { recursive: true });
      await mkdir(join(flags.out, 'private_keys'), { recursive: true, mode: 0o700 });
      await writeFile(keyFile, issued.privateKeyPem, { mode: 0o600 });
      await writeFile(join(flags.out, 'certs', `${certname}.pem`), issued.certificatePem);
      await writeFile(join(flags.out, 'certs', 'ca.pem'), ca.certificatePem);
      await writeFile(join(flags.out, 'crl.pem'), ca.crlPem());
      process.stdout.write(`Issued ${certname}, serial 0x${issued.serial}, in ${flags.out}\n`);
    });

  cert
    .command('revoke')
    .description('refuse every certificate that was issued to a name, from now on; the server need not restart')
    .argument('<certname>')
    .requiredOption('--state <dir>', "the server's state directory")
    .addHelpText('after', '\nExample:\n  callboard cert revoke web1.example --state /var/lib/callboard')
    .action(async (name: string, flags) => {
      const ca = await openCa(flags.state, { create: false });
      const serials = await ca.revoke(name);
      process.stdout.write(`Revoked ${name}: ${serials.map((serial) => `serial 0x${serial}`).join(', ')}\n`);
    });

  return cert;
}

function extension(text: string, found: Record<string, string>): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('Give NAME=VALUE.');
  return { ...found, [text.slice(0, at)]: text.slice(at + 1) };
}

function positive(text: string): number {
  const days = Number(text);
  if (!Number.isInteger(days) || days < 1) throw new InvalidArgumentError('Give a number of days.');
  return days;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
