// `node scripts/publish.mjs DIR [--dry-run]`: publishes the tarballs that `scripts/pack.mjs` left, with provenance.
//
// The packages of platforms go first, so that whoever installs the others meanwhile finds them. What is published already is
// left alone, so that a release that broke off can be started again.

import { readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { FAMILIES, manifestIn, platformsOf } from './lib/packages.mjs'
import { say, stop } from './lib/say.mjs'
import { read, root, run } from './lib/shell.mjs'

const { values, positionals } = parseArgs({ allowPositionals: true, options: { 'dry-run': { type: 'boolean' } } })
const [dir] = positionals
if (!dir) stop('Usage: node scripts/publish.mjs DIR [--dry-run]')

const { version } = manifestIn(root)
const families = Object.keys(FAMILIES)
const order = [...families.flatMap((family) => platformsOf(family).map(({ name }) => name)), ...families]
const present = new Set(readdirSync(dir))
const names = order.filter((name) => present.has(`${name}-${version}.tgz`))
if (names.length !== present.size)
  stop(`${dir} holds other files than tarballs of ${version}: ${[...present].join(', ')}`)

for (const name of names) {
  if (!values['dry-run'] && read('npm', ['view', `${name}@${version}`, 'version']) === version) {
    say(`${name} ${version} is published already`)
    continue
  }
  const how = values['dry-run'] ? ['--dry-run'] : ['--provenance']
  const status = run('npm', ['publish', join(resolve(dir), `${name}-${version}.tgz`), '--access', 'public', ...how])
  if (status !== 0)
    stop(`${name} was not published: see the lines above. What is published stays; start again to go on.`)
}
