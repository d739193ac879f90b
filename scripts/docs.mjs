// `npm run docs`: the reference documentation of both languages. Warnings are errors.

import { installPackages } from './lib/install.mjs'
import { say, stop } from './lib/say.mjs'
import { hostTarget, run } from './lib/shell.mjs'
import { requireTools } from './lib/tools.mjs'

requireTools()
installPackages()
const rustdoc = [
  '--config',
  'build.rustdocflags=["-D","warnings"]',
  'doc',
  '--release',
  '--target',
  hostTarget(),
  '--workspace',
  '--no-deps',
  '--quiet',
]
if (run('typedoc', ['--logLevel', 'Warn']) !== 0)
  stop('The TypeScript documentation has warnings: see the lines above.')
if (run('cargo', rustdoc) !== 0) stop('The Rust documentation has warnings: see the lines above.')
say('TypeScript: docs/api/index.html')
say(`Rust: target/${hostTarget()}/doc/flowtune_train/index.html`)
