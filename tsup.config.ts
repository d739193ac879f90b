import { defineConfig } from 'tsup'

// What the code imports goes into the bundles: the package has no dependencies, so an install fetches nothing but itself and
// the core, and a start reads two files. The bundled CommonJS packages call `require`, which an ES module has not.
const require =
  "import { createRequire as $createRequire } from 'node:module'; const require = $createRequire(import.meta.url);"

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
    banner: ({ format }) => (format === 'esm' ? { js: require } : {}),
  },
  {
    entry: { cli: 'src/cli/main.ts' },
    format: ['esm'],
    platform: 'node',
    target: 'node20',
    external: ['#native'],
    sourcemap: true,
    clean: false,
    banner: { js: `#!/usr/bin/env node\n${require}` },
  },
])
