import { defineConfig } from 'tsup'

// Two passes: the library in both module systems with declarations, the command line as ESM only.
export default defineConfig([
  {
    entry: { index: 'src/index.ts' },
    format: ['esm', 'cjs'],
    dts: true,
    // `import.meta.url` in the CommonJS build.
    shims: true,
    platform: 'node',
    target: 'node20',
    external: ['#native'],
    sourcemap: true,
    clean: false,
  },
  {
    entry: { cli: 'src/cli/main.ts' },
    format: ['esm'],
    platform: 'node',
    target: 'node20',
    external: ['#native'],
    sourcemap: true,
    clean: false,
    banner: { js: '#!/usr/bin/env node' },
  },
])
