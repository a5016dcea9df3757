/**
 * Writes `openapi/callboard-v1.json` and `openapi/access.md` from what a control plane says of itself: it is started on a
 * folder of its own, asked, and stopped.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startServer } from '../src/app.ts';
import { ApiClient } from '../src/cli/client.ts';
import { createLogger } from '../src/config/log.ts';
import { parseSettings } from '../src/config/settings.ts';
import { openCa } from '../src/http/ca.ts';
import { accessTable, type Description } from '../src/http/describe.ts';
import { createToken } from '../src/http/tokens.ts';
import { openDatabase, openPool } from '../src/postgres/database.ts';

const FOLDER = new URL('../openapi/', import.meta.url);

const state = await mkdtemp(join(tmpdir(), 'callboard-openapi-'));
try {
  const settings = parseSettings(
    { state, only: 'api', listen: '127.0.0.1:0', metricsListen: 'off', serverName: 'localhost' },
    {},
  );
  const server = await startServer(settings, createLogger({ level: 'warn' }));
  try {
    const pool = openPool((JSON.parse(await readFile(join(state, 'database.json'), 'utf8')) as { url: string }).url, 1);
    const { token } = await createToken(openDatabase(pool), { name: 'openapi', role: 'viewer', days: 1 });
    await pool.end();
    const ca = (await openCa(state, { create: false })).certificatePem;
    const api = new ApiClient({ server: server.url!, token, ca });
    const description = await api.get<Description>('/api/v1/openapi.json');
    await api.close();
    await mkdir(FOLDER, { recursive: true });
    await writeFile(new URL('callboard-v1.json', FOLDER), `${JSON.stringify(description, null, 2)}\n`);
    await writeFile(new URL('access.md', FOLDER), accessTable(description));
    process.stdout.write(`Wrote ${Object.keys(description.paths).length} paths\n`);
  } finally {
    await server.stop();
  }
} finally {
  await rm(state, { recursive: true, force: true });
}
process.exit();
