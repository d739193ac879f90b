// The whole addon with CUDA, linked against stubs, and what loading it says where there is no CUDA.

import { copyFileSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LIBRARIES } from './cuda.mjs'
import { say } from './say.mjs'
import { hostTarget, read, root, run } from './shell.mjs'

/** Builds the addon and looks at it. */
export function checkAddon({ env }) {
  say('building the addon with CUDA, most of it kernels of candle: about twenty minutes the first time on two cores')
  const options = { env: { ...process.env, ...env } }
  const cargo = ['build', '--release', '--target', hostTarget(), '--package', 'flowtune-node', '--features', 'cuda']
  if (run('cargo', cargo, options) !== 0) return false
  const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target')
  const addon = join(target, hostTarget(), 'release', 'libflowtune_node.so')
  const wrong = [...missingLibraries(addon), ...unexpectedSymbols(addon), ...loadFailure(addon)]
  for (const what of wrong) say(`failed: ${what}`)
  return wrong.length === 0
}

/** The libraries of CUDA must be asked for by name: then it is a library that is missing, and not a symbol. */
function missingLibraries(addon) {
  const needed = [...read('readelf', ['--dynamic', '--wide', addon]).matchAll(/\(NEEDED\).*\[(.+)\]/g)]
  const names = needed.map(([, name]) => name)
  say(`${(statSync(addon).size / 1e6).toFixed(1)} MB, needs ${names.join(' ')}`)
  return Object.values(LIBRARIES)
    .filter((soname) => !names.includes(soname))
    .map((soname) => `the addon does not name ${soname}`)
}

/** Every symbol that must be found belongs to CUDA, to Node or, then it has a version, to a library of the system. */
function unexpectedSymbols(addon) {
  const table = read('readelf', ['--dyn-syms', '--wide', addon])
  const open = [...table.matchAll(/ GLOBAL +\w+ +UND (\S+)/g)].map(([, name]) => name)
  const cuda = open.filter((name) => /^(cu[A-Z]|cuda[A-Z]|cublas|curand|nvrtc|__cuda)/.test(name)).sort()
  const node = open.filter((name) => /^(napi|node_api)_/.test(name))
  const system = open.filter((name) => name.includes('@'))
  say(`open symbols of CUDA: ${cuda.join(' ')}`)
  say(`open symbols: ${cuda.length} of CUDA, ${node.length} of Node, ${system.length} of the system`)
  const known = new Set([...cuda, ...node, ...system])
  const wrong = open.filter((name) => !known.has(name)).map((name) => `nobody is known to have ${name}`)
  return cuda.length > 0 ? wrong : [...wrong, 'the addon calls nothing of CUDA']
}

/** Loads the addon in a process of its own. */
function loadFailure(addon) {
  const folder = mkdtempSync(join(tmpdir(), 'flowtune-cuda-'))
  const file = join(folder, 'flowtune.node')
  try {
    copyFileSync(addon, file)
    const load = 'try { require(process.argv[1]); console.log("loaded") } catch (e) { console.log(e.code, e.message) }'
    const said = read(process.execPath, ['-e', load, file]) ?? 'nothing: it crashed'
    say(`loading it says: ${said}`)
    if (said === 'loaded' || missingLibrary(said)) return []
    return [`loading must name the library that is missing, but says: ${said}`]
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function missingLibrary(said) {
  const name = /^ERR_DLOPEN_FAILED (\S+): cannot open shared object file/.exec(said)?.[1]
  return Object.values(LIBRARIES).includes(name)
}
