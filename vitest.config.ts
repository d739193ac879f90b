import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['__test__/**/*.test.ts'],
    // A native addon must not be loaded twice into one process, and a crash must not take the runner along.
    pool: 'forks',
    // Two cores are the smallest machine this is meant for; training in several files at once would starve the timers.
    maxWorkers: 1,
    testTimeout: 60_000,
    typecheck: { enabled: true, include: ['__test__/**/*.test-d.ts'] },
  },
})
