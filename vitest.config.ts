import { defineConfig } from 'vitest/config';

/** Rooms whose tests kill processes, watch clocks or fill the machine: one file at a time, when nothing else runs. */
const ALONE = ['content', 'crash', 'facts', 'loop', 'postgres', 'report', 'run', 'soundness'].map(
  (room) => `test/${room}/**/*.test.ts`,
);
const ALONE_TOO = ['capacity', 'kill', 'misbehaviour'].map((name) => `test/ruby-worker/${name}.test.ts`);

// Two cores are what there is. What fails once is tried once more, and shown as such.
const limits = { testTimeout: 30_000, hookTimeout: 60_000, retry: 1 };

export default defineConfig({
  test: {
    globalSetup: ['test/postgres/server.ts'],
    projects: [
      {
        test: {
          ...limits,
          name: 'side by side',
          include: ['test/**/*.test.ts'],
          exclude: [...ALONE, ...ALONE_TOO],
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          ...limits,
          name: 'alone',
          include: [...ALONE, ...ALONE_TOO],
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
