import { expect, test } from 'vitest';
import { createLogger } from '../../src/config/log.ts';

function logged(write: (logger: ReturnType<typeof createLogger>) => void): Record<string, unknown> {
  const lines: string[] = [];
  write(createLogger({ level: 'info', destination: { write: (line: string) => void lines.push(line) } }));
  return JSON.parse(lines.join(''));
}

test('a line is JSON with an ISO time, a level by name, and the fields given', () => {
  const line = logged((logger) => logger.child({ node: 'a.example' }).info({ run: 'r' }, 'run ended'));
  expect(line).toMatchObject({ level: 'info', node: 'a.example', run: 'r', msg: 'run ended', process: process.pid });
  expect(line.time).toMatch(/^\d{4}-\d\d-\d\dT.*Z$/);
});

test('secrets are cut out, in fields, in headers and in the URL of an error', () => {
  const error = Object.assign(new Error('cannot reach postgres://callboard:hunter2@127.0.0.1:1/x'), {
    detail: 'Key (token)=(hunter2) exists',
  });
  const line = logged((logger) =>
    logger.error(
      {
        err: error,
        token: 'hunter2',
        req: { headers: { authorization: 'Bearer hunter2' } },
        settings: { databaseUrl: 'hunter2' },
      },
      'failed',
    ),
  );
  expect(JSON.stringify(line)).not.toContain('hunter2');
  expect(JSON.stringify(line)).toContain('postgres://callboard:[redacted]@127.0.0.1');
});
