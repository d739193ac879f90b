// Which core is loaded. Each test has an installation of its own, with a `flowtune-cuda` that is broken in one way, and
// asks in a process of its own.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { missingSentence } from '../src/device/cuda-failure'
import { neededLibraries } from '../src/device/libraries'
import { probePackage } from '../src/device/probe'
import { cli } from './helpers/cli'
import { cudaPackageIn, hasCompiler, installation, libraryNeeding, runScript, version } from './helpers/installation'
import { root } from './helpers/paths'

/** What `device()` says, or the error; then whether the process still works. */
const ASK = `
import { device, Tensor, useDevice } from 'flowtune'
const ask = () => { try { return device() } catch ({ code, message }) { return { code, message } } }`

type Answer = { kind?: string; name?: string; code?: string; message?: string }

const ask = (folder: string, env: Record<string, string> = {}) =>
  runScript<Answer>(folder, `${ASK}\nconsole.log(JSON.stringify(ask()))`, env)

const CARD = { kind: 'cuda', name: 'Card', computeCapability: '8.0', availableMemory: 1e9 }

/** A core for CUDA that has nothing but a device. */
const WORKING = `module.exports = { device: () => ${JSON.stringify(JSON.stringify(CARD))} }`

// The only platforms with a CUDA build; on the others the answer is always the same sentence.
const hasCudaBuild = ['linux-x64', 'win32-x64'].includes(`${process.platform}-${process.arch}`)

describe('without flowtune-cuda', () => {
  let folder: string
  beforeAll(() => {
    expect(existsSync(join(root, 'dist', 'index.js'))).toBe(true)
  })

  it('is the processor for auto, and for cpu', () => {
    folder = installation()
    expect(ask(folder)).toMatchObject({ kind: 'cpu', threads: expect.any(Number) })
    expect(ask(folder, { FLOWTUNE_DEVICE: 'cpu' })).toMatchObject({ kind: 'cpu' })
  })

  it('says that cuda is not installed, and wgpu not built', () => {
    folder = installation()
    const cuda = ask(folder, { FLOWTUNE_DEVICE: 'cuda' })
    expect(cuda.code).toBe('DEVICE_UNAVAILABLE')
    if (hasCudaBuild) expect(cuda.message).toContain(`npm install flowtune-cuda@${version}`)
    else expect(cuda.message).toContain(`no CUDA build for ${process.platform}-${process.arch}`)
    const wgpu = ask(folder, { FLOWTUNE_DEVICE: 'wgpu' })
    expect(wgpu).toMatchObject({ code: 'DEVICE_UNAVAILABLE', message: expect.stringContaining('not built yet') })
  })

  it('refuses other names, naming the four', async () => {
    folder = installation()
    const message = 'must be one of auto, cpu, cuda, wgpu, got "gpu"'
    const refused = { code: 'INVALID_ARGUMENT', message: expect.stringContaining(message) }
    expect(ask(folder, { FLOWTUNE_DEVICE: 'gpu' })).toMatchObject(refused)
    const code = `${ASK}\ntry { useDevice('gpu') } catch ({ code, message }) { console.log(JSON.stringify({ code, message })) }`
    expect(runScript(folder, code)).toMatchObject(refused)
    const { status, stderr } = await cli(['inspect', 'models/flux2-tiny', '--device', 'gpu'])
    expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining('auto, cpu, cuda, wgpu') })
  })

  it('keeps the device that is in use', () => {
    folder = installation()
    const code = `${ASK}
      useDevice('cpu')
      Tensor.zeros([1])
      useDevice('auto')
      try { useDevice('cuda') } catch ({ code, message }) { console.log(JSON.stringify({ code, message, kind: ask().kind })) }`
    expect(runScript(folder, code)).toEqual({
      code: 'INVALID_ARGUMENT',
      kind: 'cpu',
      message: 'flowtune computes on cpu already; call useDevice("cuda") before anything else of flowtune',
    })
  })
})

describe('the command line', () => {
  it('takes --device before and after the command, and it is stronger than FLOWTUNE_DEVICE', async () => {
    const args = ['inspect', join(root, 'models', 'flux2-tiny')]
    for (const order of [
      ['--device', 'wgpu', ...args],
      [...args, '--device', 'wgpu'],
    ]) {
      const { status, stderr } = await cli(order, { env: { FLOWTUNE_DEVICE: 'cpu' } })
      expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining('error DEVICE_UNAVAILABLE') })
    }
    expect((await cli([...args, '--device', 'cpu'], { env: { FLOWTUNE_DEVICE: 'wgpu' } })).status).toBe(0)
  })
})

describe.runIf(hasCudaBuild)('with a flowtune-cuda', () => {
  it('that works, auto and cuda take it and cpu does not', () => {
    const folder = installation()
    cudaPackageIn(folder, WORKING)
    expect(ask(folder)).toEqual(CARD)
    expect(ask(folder, { FLOWTUNE_DEVICE: 'cuda' })).toEqual(CARD)
    expect(ask(folder, { FLOWTUNE_DEVICE: 'cpu' })).toMatchObject({ kind: 'cpu' })
  })

  it('tries it once, in a process of its own', () => {
    const folder = installation()
    const log = JSON.stringify(join(folder, 'log'))
    cudaPackageIn(folder, `require('node:fs').appendFileSync(${log}, process.pid + '\\n')\n${WORKING}`)
    const pid = runScript<number>(folder, `${ASK}\nask(); ask(); console.log(process.pid)`)
    const [probe, host, ...more] = readFileSync(join(folder, 'log'), 'utf8').trim().split('\n').map(Number)
    expect({ host, more }).toEqual({ host: pid, more: [] })
    expect(probe).not.toBe(pid)
  })

  it('does not try it for cpu', () => {
    const folder = installation()
    cudaPackageIn(folder, `require('node:fs').writeFileSync(${JSON.stringify(join(folder, 'log'))}, '')\n${WORKING}`)
    ask(folder, { FLOWTUNE_DEVICE: 'cpu' })
    expect(existsSync(join(folder, 'log'))).toBe(false)
  })

  it.each([
    ['crashes', 'process.abort()', /crashed when it was tried \(SIGABRT|exit status/],
    ['ends the process', 'process.exit(3)', /crashed when it was tried \(exit status 3/],
    ['is a build for the CPU', `module.exports = { device: () => '{"kind":"cpu"}' }`, /not a build for CUDA/],
    [
      'finds no card',
      `module.exports = { device() { throw Object.assign(new Error('DriverError(CUDA_ERROR_NO_DEVICE, "none")'), { code: 'INTERNAL' }) } }`,
      /driver sees no card; see that `nvidia-smi` lists one.*CUDA_ERROR_NO_DEVICE/,
    ],
    [
      'meets an old driver',
      `throw new Error('x.node: undefined symbol: cuMemPoolCreate')`,
      /driver is too old for this build; install a newer one \(.*cuMemPoolCreate/,
    ],
    [
      'explains itself',
      `module.exports = { device() { throw Object.assign(new Error('the card is asleep'), { code: 'DEVICE_UNAVAILABLE' }) } }`,
      /CUDA cannot be used: the card is asleep\.$/,
    ],
    ['has no binary', `require('./flowtune-cuda.node')`, /installed without its binary; install it again/],
  ])('that %s, cuda says so and auto is the processor', (_, code, message) => {
    const folder = installation()
    cudaPackageIn(folder, code)
    const answer = ask(folder, { FLOWTUNE_DEVICE: 'cuda' })
    expect(answer).toEqual({ code: 'DEVICE_UNAVAILABLE', message: expect.stringMatching(message) })
    expect(ask(folder)).toMatchObject({ kind: 'cpu' })
  })

  it('of another version, it is not run', () => {
    const folder = installation()
    cudaPackageIn(folder, 'process.abort()', '0.0.1')
    const { message } = ask(folder, { FLOWTUNE_DEVICE: 'cuda' })
    expect(message).toContain(
      `flowtune-cuda is 0.0.1 and flowtune is ${version}; run \`npm install flowtune-cuda@${version}\``,
    )
  })

  it('that hangs, it is ended', () => {
    const folder = installation()
    const target = cudaPackageIn(folder, 'for (;;);')
    const found = { root: target, entry: join(target, 'binding.cjs'), version }
    expect(probePackage(found, 500)).toEqual({ reason: 'flowtune-cuda did not answer within 0.5 s when it was tried' })
  })

  it.runIf(hasCompiler)('whose libraries are not here, they are named with who provides them', () => {
    const folder = installation()
    const target = cudaPackageIn(folder, `module.exports = require('./flowtune-cuda.linux-x64-gnu.node')`)
    const addon = join(target, 'flowtune-cuda.linux-x64-gnu.node')
    libraryNeeding(['libcublas.so.77', 'libcublasLt.so.77'], addon)
    expect(neededLibraries(addon)).toEqual(['libcublas.so.77', 'libcublasLt.so.77'])
    expect(ask(folder, { FLOWTUNE_DEVICE: 'cuda' })).toEqual({
      code: 'DEVICE_UNAVAILABLE',
      message:
        "CUDA cannot be used: libcublas.so.77 and libcublasLt.so.77 were not found: they come with NVIDIA's CUDA toolkit 77.",
    })
    expect(ask(folder)).toMatchObject({ kind: 'cpu' })
  })
})

describe('what is missing', () => {
  it('is told by who provides it', () => {
    expect(missingSentence(['libcuda.so.1'])).toBe("libcuda.so.1 was not found: it comes with NVIDIA's driver")
    expect(missingSentence(['nvcuda.dll', 'cublas64_13.dll'])).toBe(
      "nvcuda.dll was not found: it comes with NVIDIA's driver; cublas64_13.dll was not found: it comes with NVIDIA's CUDA toolkit 13",
    )
  })
})
