/**
 * A stock puppetserver as yardstick, wherever one is: benches that know no address skip its rows.
 *
 *   STOCK_SERVER           host:port, by the name in its certificate
 *   STOCK_SSLDIR           an agent's ssl directory: certs/ca.pem, certs/NAME.pem, private_keys/NAME.pem, crl.pem
 *   STOCK_CERTNAME         NAME, an agent that the server knows
 *   STOCK_ENVIRONMENTS     the server's environmentpath, where a bench may write an environment of its own
 *   STOCK_PID              its process, for its CPU time, when it runs on this machine
 */
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { dirname, join } from 'node:path';
import { cpuSecondsOf } from './cpu.ts';

export interface StockServer {
  certname: string;
  /** Writes an environment, in place of one of this name, and gives the name. */
  writeEnvironment(name: string, files: Record<string, Buffer>): Promise<string>;
  /** Options of `puppet agent` for an agent of this server that lives in `directory`. */
  agentOptions(directory: string): Promise<string[]>;
  /** The catalog that the server compiles for these facts: the body of its answer, JSON. */
  catalog(environment: string, facts: Record<string, unknown>): Promise<Buffer>;
  /** CPU seconds that it has used so far; undefined where it runs elsewhere. */
  cpuSeconds(): number | undefined;
}

export async function stockServer(): Promise<StockServer | undefined> {
  const { STOCK_SERVER, STOCK_SSLDIR, STOCK_CERTNAME, STOCK_ENVIRONMENTS, STOCK_PID } = process.env;
  if (!STOCK_SERVER) return undefined;
  if (!STOCK_SSLDIR || !STOCK_CERTNAME || !STOCK_ENVIRONMENTS)
    throw new Error('STOCK_SERVER also needs STOCK_SSLDIR, STOCK_CERTNAME and STOCK_ENVIRONMENTS: see bench/stock.ts');
  const [host, port = '8140'] = STOCK_SERVER.split(':');
  const [ca, cert, key] = await Promise.all(
    ['certs/ca.pem', `certs/${STOCK_CERTNAME}.pem`, `private_keys/${STOCK_CERTNAME}.pem`].map((file) =>
      readFile(join(STOCK_SSLDIR, file)),
    ),
  );
  return {
    certname: STOCK_CERTNAME,
    async writeEnvironment(name, files) {
      const directory = join(STOCK_ENVIRONMENTS, name);
      await rm(directory, { recursive: true, force: true });
      for (const [path, bytes] of Object.entries(files)) {
        await mkdir(dirname(join(directory, path)), { recursive: true });
        await writeFile(join(directory, path), bytes);
      }
      return name;
    },
    async agentOptions(directory) {
      await cp(STOCK_SSLDIR, join(directory, 'ssl'), { recursive: true });
      const options = {
        server: host!,
        serverport: port,
        certname: STOCK_CERTNAME,
        confdir: directory,
        vardir: join(directory, 'var'),
        // Without the facts of whatever modules this machine has installed.
        basemodulepath: join(directory, 'none'),
      };
      return [
        ...Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]),
        '--ssldir',
        join(directory, 'ssl'),
      ];
    },
    catalog(environment, facts) {
      const form = new URLSearchParams({
        environment,
        facts_format: 'application/json',
        facts: encodeURIComponent(JSON.stringify({ name: STOCK_CERTNAME, values: facts })),
        static_catalog: 'false',
      });
      const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
      const asked = request(
        {
          host,
          port,
          ca,
          cert,
          key,
          method: 'POST',
          path: `/puppet/v3/catalog/${STOCK_CERTNAME}?environment=${environment}`,
          headers: { accept: 'application/vnd.puppet.rich+json', 'content-type': 'application/x-www-form-urlencoded' },
        },
        async (answer) => {
          const body = Buffer.concat(await answer.toArray());
          if (answer.statusCode === 200) resolve(body);
          else reject(new Error(`the stock server answered ${answer.statusCode}: ${body}`));
        },
      );
      asked.on('error', reject);
      asked.end(form.toString());
      return promise;
    },
    cpuSeconds: () => (STOCK_PID ? cpuSecondsOf([Number(STOCK_PID)]) : undefined),
  };
}
