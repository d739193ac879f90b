// `npm run check:cuda`: what can be proved of the CUDA engine without a GPU (docs/cuda.md). `-- --quick` leaves out the
// build of the whole addon.

import { cudaToolchain } from './lib/cuda.mjs'
import { checkAddon } from './lib/cuda-addon.mjs'
import { assembleKernels } from './lib/cuda-kernels.mjs'
import { say, stop } from './lib/say.mjs'
import { hostTarget, read, run } from './lib/shell.mjs'
import { requireTools } from './lib/tools.mjs'

const quick = process.argv.slice(2).includes('--quick')
const started = Date.now()

/**
 * The kernels as C++ on the CPU: against the operations, and as a device that trains the reference cases. The packages are
 * those of `npm test`, whose dependencies are reused.
 */
function emulate() {
  const packages = ['--workspace', '--exclude', 'flowtune-node', '--features', 'flowtune-train/emulate']
  say('linting what only the kernels have')
  const clippy = ['clippy', '--release', '--target', hostTarget(), ...packages, '--all-targets', '--quiet']
  if (run('cargo', [...clippy, '--', '-D', 'warnings']) !== 0) return false
  say('running the kernels on the CPU')
  const tests = ['kernels', 'devices', 'parity'].flatMap((name) => ['--test', name])
  return run('cargo', ['test', '--release', '--target', hostTarget(), ...packages, ...tests]) === 0
}

requireTools()
if (read('c++', ['--version']) === undefined) {
  stop(
    'The kernels need a C++ compiler: install it (on Debian and Ubuntu: `sudo apt-get install g++`) and run this again.',
  )
}
const toolchain = cudaToolchain()
const checks = [
  ['kernels compile for every card without spilling registers', () => assembleKernels(toolchain)],
  ['kernels agree with the CPU', emulate],
]
if (!quick) checks.push(['the addon links, and says what is missing', () => checkAddon(toolchain)])

const failed = []
for (const [what, check] of checks) if (!check()) failed.push(what)
const minutes = ((Date.now() - started) / 60_000).toFixed(1)
for (const [what] of checks) say(`${failed.includes(what) ? 'FAILED' : 'ok'}: ${what}`)
say(`not run: anything on a GPU\n${checks.length - failed.length} passed, ${failed.length} failed, ${minutes} minutes`)
process.exitCode = failed.length === 0 ? 0 : 1
