// The Rust core and the TypeScript, built if their sources changed.

import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { say, stop } from './say.mjs'
import { root, run } from './shell.mjs'

/** Cargo decides itself what is out of date. */
export function buildNative() {
  const first = !existsSync(join(root, 'native', 'binding.cjs'))
  say(`building the Rust core${first ? ', about ten minutes the first time on two cores' : ''}`)
  if (run('npm', ['run', '--silent', 'build:native']) !== 0) stop('The Rust core did not build: see the lines above.')
}

export function buildJavaScript() {
  if (isCurrent()) return
  say('building the TypeScript')
  if (run('npm', ['run', '--silent', 'build:js', '--', '--silent']) !== 0) {
    stop('The TypeScript did not build: see the lines above.')
  }
}

function isCurrent() {
  const products = ['index.js', 'index.cjs', 'index.d.ts', 'cli.js'].map((file) => join(root, 'dist', file))
  if (!products.every((file) => existsSync(file))) return false
  const sources = ['src', 'tsup.config.ts', 'tsconfig.json', 'package.json', 'package-lock.json']
  const newest = Math.max(...sources.map((path) => newestIn(join(root, path))))
  return newest < Math.min(...products.map((file) => statSync(file).mtimeMs))
}

function newestIn(path) {
  const stat = statSync(path)
  if (!stat.isDirectory()) return stat.mtimeMs
  return Math.max(stat.mtimeMs, ...readdirSync(path).map((name) => newestIn(join(path, name))))
}
