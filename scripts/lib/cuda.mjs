// NVIDIA's compiler from its PyPI packages, in a folder of the build: no installation, no driver.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { say, stop } from './say.mjs'
import { read, root, run } from './shell.mjs'

// One release of CUDA. 13.0 is the first whose packages hold nvcc itself, and the one that the oldest driver takes
// (R580): what a newer nvcc writes as PTX, older drivers refuse.
const PACKAGES = [
  'nvidia-cuda-nvcc==13.0.88',
  'nvidia-cuda-crt==13.0.88',
  'nvidia-nvvm==13.0.88',
  'nvidia-cuda-runtime==13.0.96',
  'nvidia-cuda-cccl==13.0.85',
  'nvidia-cuda-nvrtc==13.0.88',
  'nvidia-curand==10.4.0.35',
]

/** The libraries that the CUDA build needs at run time: what the linker calls them, and what the loader looks for. */
export const LIBRARIES = {
  cuda: 'libcuda.so.1',
  cudart: 'libcudart.so.13',
  cublas: 'libcublas.so.13',
  cublasLt: 'libcublasLt.so.13',
  curand: 'libcurand.so.10',
  nvrtc: 'libnvrtc.so.13',
}

/** Where the toolchain is made: beside cargo's products, outside of git. */
function folder() {
  return join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'cuda-toolchain')
}

/**
 * Fetches the compiler, unless it is there, and gives its home and the variables under which nvcc, candle's build
 * scripts and ours find it.
 */
export function cudaToolchain() {
  const venv = folder()
  const stamp = join(venv, 'packages.txt')
  const wanted = `${PACKAGES.join('\n')}\n`
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== wanted) {
    install(venv)
    writeFileSync(stamp, wanted)
  }
  const home = homeIn(venv)
  makeStubs(home)
  return { home, env: environment(home) }
}

function install(venv) {
  requirePython()
  say('fetching the CUDA compiler, about 200 MB')
  rmSync(venv, { recursive: true, force: true })
  if (run('python3', ['-m', 'venv', venv]) !== 0) stop('python3 could not make a virtual environment: see above.')
  const pip = ['-m', 'pip', '--disable-pip-version-check', 'install', '--quiet', '--no-deps', '--only-binary=:all:']
  if (run(join(venv, 'bin', 'python3'), [...pip, ...PACKAGES]) !== 0) {
    stop('The CUDA compiler could not be fetched: see the lines above, most often the network.')
  }
}

/** Debian's python3 has venv but not what fills it, ensurepip, which is in a package of its own. */
function requirePython() {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    stop('The CUDA compiler is fetched for Linux on x86-64 alone.')
  }
  if (read('python3', ['-c', 'import venv, ensurepip']) === undefined) {
    stop(
      'This needs python3 with venv, which fetches the CUDA compiler: install it (on Debian and Ubuntu: `sudo apt-get install python3 python3-venv`) and run this command again.',
    )
  }
}

function homeIn(venv) {
  const lib = join(venv, 'lib')
  const python = readdirSync(lib).find((name) => name.startsWith('python3'))
  return join(lib, python, 'site-packages', 'nvidia', 'cu13')
}

function environment(home) {
  return {
    ...Object.fromEntries(['CUDA_HOME', 'CUDA_PATH', 'CUDA_ROOT', 'CUDA_TOOLKIT_ROOT_DIR'].map((name) => [name, home])),
    PATH: `${join(home, 'bin')}:${process.env.PATH ?? ''}`,
    // PTX that every card since Ampere takes; for 90 and above candle's build makes it for one generation alone.
    CUDA_COMPUTE_CAP: '80',
  }
}

/**
 * Libraries that hold nothing but their name, for the linker: a shared object may leave symbols open. They stand where
 * build scripts look for those of a whole toolkit.
 */
function makeStubs(home) {
  const stubs = join(home, 'lib64', 'stubs')
  mkdirSync(stubs, { recursive: true })
  const empty = join(stubs, 'empty.c')
  writeFileSync(empty, '')
  for (const [name, soname] of Object.entries(LIBRARIES)) {
    const file = join(stubs, `lib${name}.so`)
    if (existsSync(file)) continue
    if (run(process.env.CC ?? 'cc', ['-shared', `-Wl,-soname,${soname}`, '-o', file, empty]) !== 0) {
      stop(`The stub of ${soname} could not be linked: see the lines above.`)
    }
  }
}
