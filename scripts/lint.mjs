// `npm run lint`: formatting, lints and types of both languages. All are run, so that one call shows everything.

import { installPackages } from './lib/install.mjs'
import { say } from './lib/say.mjs'
import { hostTarget, run } from './lib/shell.mjs'
import { requireTools } from './lib/tools.mjs'

requireTools()
// The profile and the target of tests and addon, whose build scripts and macros they need anyway.
const clippy = ['clippy', '--release', '--target', hostTarget(), '--workspace', '--all-targets', '--quiet']
const CHECKS = [
  ['cargo', ['fmt', '--all', '--check']],
  ['cargo', [...clippy, '--', '-D', 'warnings']],
  ['biome', ['check', '.']],
  ['tsc', ['--noEmit']],
]

installPackages()
const failed = CHECKS.filter(([command, args]) => {
  say(`${command} ${args.join(' ')}`)
  return run(command, args) !== 0
})
for (const [command, args] of failed) say(`failed: ${command} ${args.join(' ')}`)
process.exitCode = failed.length === 0 ? 0 : 1
