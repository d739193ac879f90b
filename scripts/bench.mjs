// `npm run bench -- ops`: criterion, each operation of a step. `npm run bench -- step [--help]`: a whole step, against
// PyTorch where its Python is named. `npm run bench -- scale`: cost over tokens and blocks. `npm run bench -- encode --peer
// PYTHON`: VAE and text encoder against theirs. `npm run bench -- load`: a real geometry from a file as published.
// `npm run bench -- loader`: how long a step waits for its batch. `npm run bench -- plan`: what `flowtune plan` says against what a run takes.
// `npm run bench -- memory`: what it says of each model.

import { stop } from './lib/say.mjs'
import { hostTarget, run } from './lib/shell.mjs'

const [what = 'step', ...rest] = process.argv.slice(2)
const programs = {
  ops: () => run('cargo', ['bench', '--target', hostTarget(), '-p', 'flowtune-engine', '--', ...rest]),
  step: () => run('node', ['bench/step.mjs', ...rest]),
  scale: () => run('node', ['bench/scale.mjs', ...rest]),
  load: () => run('node', ['bench/load.mjs', ...rest]),
  plan: () => run('node', ['bench/plan.mjs', ...rest]),
  memory: () => run('node', ['bench/memory.mjs', ...rest]),
  loader: () => run('node', ['bench/loader.mjs', ...rest]),
  encode: () => run('node', ['bench/encode.mjs', ...rest]),
}
if (!programs[what]) stop(`There is no bench "${what}": name ops, step, scale, load, plan, memory, loader or encode.`)
process.exitCode = programs[what]()
