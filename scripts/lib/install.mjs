// `npm ci` when node_modules is absent or not what the lockfile says.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { say, stop } from './say.mjs'
import { root, run } from './shell.mjs'

export function installPackages() {
  if (isInstalled()) return
  say('installing the npm packages')
  // Nothing here needs an install script, so none is let run.
  const status = run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'])
  if (status !== 0) stop('The npm packages could not be installed: see the lines above, most often the network.')
}

/** npm keeps what it installed in a lockfile of its own, inside node_modules. */
function isInstalled() {
  const wanted = packagesOf('package-lock.json')
  const found = packagesOf(join('node_modules', '.package-lock.json'))
  if (!wanted || !found) return false
  return Object.entries(wanted).every(([path, { version, optional }]) => {
    if (path === '') return true
    return found[path] ? found[path].version === version : optional
  })
}

function packagesOf(file) {
  try {
    return JSON.parse(readFileSync(join(root, file), 'utf8')).packages
  } catch {
    return undefined
  }
}
