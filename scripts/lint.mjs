// `npm run lint`: formatting, lints and types of both languages. All are run, so that one call shows everything.

import { installPackages } from './lib/install.mjs'
import { say } from './lib/say.mjs'
import { run } from './lib/shell.mjs'
import { requireTools } from './lib/tools.mjs'

const CHECKS = [
  ['cargo', ['fmt', '--all', '--check']],
  // The release profile, whose build scripts and macros the tests and the addon need anyway.
  ['cargo', ['clippy', '--release', '--workspace', '--all-targets', '--quiet', '--', '-D', 'warnings']],
  ['biome', ['check', '.']],
  ['tsc', ['--noEmit']],
]

requireTools()
installPackages()
const failed = CHECKS.filter(([command, args]) => {
  say(`${command} ${args.join(' ')}`)
  return run(command, args) !== 0
})
for (const [command, args] of failed) say(`failed: ${command} ${args.join(' ')}`)
process.exitCode = failed.length === 0 ? 0 : 1
