// `npm run quickstart`: installs, builds, and fine-tunes the embedded model. Works as the first command after a clone.
// Options after `--` go to the command: `npm run quickstart -- --steps 50`.

import { join } from 'node:path'
import './build.mjs'
import { root, run } from './lib/shell.mjs'

process.exitCode = run(process.execPath, [join(root, 'dist', 'cli.js'), 'quickstart', ...process.argv.slice(2)], {
  shell: false,
})
