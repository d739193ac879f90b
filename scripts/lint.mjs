// `npm run lint`: formatting, lints and types of both languages. All are run, so that one call shows everything.

import { installPackages } from './lib/install.mjs'
import { say } from './lib/say.mjs'
import { hostTarget, run } from './lib/shell.mjs'
import { requireTools } from './lib/tools.mjs'

requireTools()
// The profile and the target of tests and addon, whose build scripts and macros they need anyway.
const target = ['--release', '--target', hostTarget()]
const clippy = ['clippy', ...target, '--workspace', '--all-targets', '--quiet']
const rustdoc = [
  '--config',
  'build.rustdocflags=["-D","warnings"]',
  'doc',
  ...target,
  '--workspace',
  '--no-deps',
  '--quiet',
]
const CHECKS = [
  ['cargo', ['fmt', '--all', '--check']],
  ['cargo', [...clippy, '--', '-D', 'warnings']],
  ['cargo', rustdoc],
  ['biome', ['check', '.']],
  ['tsc', ['--noEmit']],
  ['tsc', ['--noEmit', '-p', 'examples']],
  // Only looks: `npm run docs` writes.
  ['typedoc', ['--logLevel', 'Warn', '--emit', 'none']],
]

installPackages()
const failed = CHECKS.filter(([command, args]) => {
  say(`${command} ${args.join(' ')}`)
  return run(command, args) !== 0
})
for (const [command, args] of failed) say(`failed: ${command} ${args.join(' ')}`)
process.exitCode = failed.length === 0 ? 0 : 1
