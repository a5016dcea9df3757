import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/postgres/server.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // One file at a time: many tests kill processes and watch clocks, and two cores are what they have. What fails once is
    // tried once more, and shown as such.
    maxWorkers: 1,
    retry: 1,
  },
});
