/**
 * The yardstick: nginx over TLS on one worker process, which demands a client certificate of the same CA and serves files
 * from a folder. What it does per request is what any server must do; our ratio to it says what our checks and our
 * runtime cost on top.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { Authority } from './authority.ts';
import { freePort, waitForPort } from './ports.ts';

export interface Serving {
  host: string;
  port: number;
  /** The processes whose CPU time counts. */
  pids: number[];
  stop(): Promise<void>;
}

/** Starts nginx with `root` as its document root. `etag`s are nginx's own: ask once to learn one for a 304. */
export async function startYardstick(options: {
  directory: string;
  root: string;
  authority: Authority;
  /** Further lines for the `server` block, for example a location that answers 304 or 200 without a file. */
  server?: string;
}): Promise<Serving> {
  const { directory, root, authority } = options;
  await mkdir(join(directory, 'nginx'), { recursive: true });
  const port = await freePort();
  const pidFile = join(directory, 'nginx', 'nginx.pid');
  const config = `
    user root;
    worker_processes 1;
    pid ${pidFile};
    error_log ${directory}/nginx/error.log;
    events { worker_connections 1024; }
    http {
      access_log off;
      sendfile on;
      tcp_nopush on;
      keepalive_requests 1000000000;
      keepalive_timeout 75s;
      open_file_cache max=1000 inactive=60s;
      client_max_body_size 100m;
      client_body_temp_path ${directory}/nginx/body;
      proxy_temp_path ${directory}/nginx/proxy;
      fastcgi_temp_path ${directory}/nginx/fastcgi;
      uwsgi_temp_path ${directory}/nginx/uwsgi;
      scgi_temp_path ${directory}/nginx/scgi;
      default_type application/octet-stream;
      server {
        listen 127.0.0.1:${port} ssl;
        ssl_protocols TLSv1.3;
        ssl_certificate ${authority.files.serverCert};
        ssl_certificate_key ${authority.files.serverKey};
        ssl_client_certificate ${authority.files.ca};
        ssl_verify_client on;
        root ${root};
        ${options.server ?? ''}
      }
    }`;
  await writeFile(join(directory, 'nginx', 'nginx.conf'), config);
  const nginx = execa('nginx', ['-c', join(directory, 'nginx', 'nginx.conf'), '-g', 'daemon off;'], { reject: false });
  await waitForPort(port, nginx);
  const master = Number(await readFile(pidFile, 'utf8'));
  const workers = (await readFile(`/proc/${master}/task/${master}/children`, 'utf8')).trim().split(' ').map(Number);
  return {
    host: '127.0.0.1',
    port,
    pids: workers,
    async stop() {
      nginx.kill('SIGTERM');
      await nginx;
    },
  };
}
