// `npm run format`: formats both languages in place.

import { installPackages } from './lib/install.mjs'
import { run } from './lib/shell.mjs'

installPackages()
process.exitCode = run('cargo', ['fmt', '--all']) || run('biome', ['check', '--write', '.'])
