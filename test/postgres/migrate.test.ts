import { expect, test } from 'vitest';
import { migrate } from '../../src/postgres/migrate.ts';
import { freshDatabase } from './fresh.ts';

test('rival processes migrate one database side by side, and each migration runs once', async () => {
  const { pool } = await freshDatabase();
  await Promise.all([migrate(pool), migrate(pool), migrate(pool)]);
  const { rows } = await pool.query('select number, count(*)::int as times from migration group by number');
  expect(rows.length).toBeGreaterThan(0);
  for (const row of rows) expect(row.times).toBe(1);
});

test('a database from a newer program is refused', async () => {
  const { pool } = await freshDatabase();
  await pool.query("insert into migration (number, name) values (999999, 'from the future')");
  await expect(migrate(pool)).rejects.toMatchObject({ code: 'DATABASE_TOO_NEW' });
});
