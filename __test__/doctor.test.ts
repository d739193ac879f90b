import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { DoctorReport } from '../src/doctor/report'
import { cli, documents } from './helpers/cli'
import { installation, version } from './helpers/installation'
import { cases, root, temporaryFolder } from './helpers/paths'
import { perturb } from './helpers/safetensors'

const linux = process.platform === 'linux'

async function doctor(args: string[] = [], env: Record<string, string> = {}) {
  const result = await cli(['doctor', '--json', ...args], { env })
  return { status: result.status, report: documents<DoctorReport>(result).at(-1) as DoctorReport }
}

describe('flowtune doctor', () => {
  it('says what this machine has, in numbers that make sense', async () => {
    const { status, report } = await doctor([], { FLOWTUNE_DEVICE: 'cpu' })
    expect(status).toBe(0)
    expect(report).toMatchObject({
      ok: true,
      flowtune: version,
      node: process.versions.node,
      system: { platform: process.platform, arch: process.arch, cores: expect.any(Number) },
      device: { asked: 'cpu', info: { kind: 'cpu' } },
      hub: { offline: false, token: expect.any(Boolean) },
    })
    expect(report.memory.available).toBeGreaterThan(1e8)
    expect(report.memory.total).toBeGreaterThanOrEqual(report.memory.available)
    expect(report.disks.map(({ what }) => what)).toEqual(['this folder', 'hub cache'])
    for (const { free } of report.disks) expect(free).toBeGreaterThan(0)
    expect(report.cores.map(({ device }) => device)).toEqual(['cpu', 'cuda', 'wgpu'])
  })

  it('is plain text in sections where there is no terminal', async () => {
    const { status, stdout } = await cli(['doctor'], { env: { FLOWTUNE_DEVICE: 'cpu' } })
    expect(status).toBe(0)
    expect(stdout).toMatch(/^System\n {2}flowtune {2,}\d/)
    for (const section of ['NVIDIA', 'Devices', 'Hub']) expect(stdout).toContain(`\n\n${section}\n`)
    expect(stdout).toMatch(/\n {2}cpu +yes {2}\d+ threads; float32 by \w+, bfloat16 by \w+, int8 by \w+\n/)
    expect(stdout).toMatch(/\n {2}wgpu +no {3}it is not built yet/)
    expect(stdout).toMatch(/\nok: flowtune computes on cpu \(cpu was asked for\)\n$/)
    expect(stdout).not.toContain('\x1b')
  })

  it('exits with 1 when the device that was asked for is not here, and says the rest all the same', async () => {
    const { status, report } = await doctor(['--device', 'wgpu'])
    expect({ status, ok: report.ok }).toEqual({ status: 1, ok: false })
    expect(report.device).toMatchObject({ asked: 'wgpu', error: { code: 'DEVICE_UNAVAILABLE' } })
    expect(report.cores[0]).toMatchObject({ device: 'cpu', info: { kind: 'cpu' } })
    const { stdout } = await cli(['doctor', '--device', 'wgpu'])
    expect(stdout).toMatch(/\nnot ok: The device wgpu cannot be used: it is not built yet; use cpu or cuda\.\n$/)
  })

  it('says why the core does not load', async () => {
    const folder = installation()
    const flowtune = join(folder, 'node_modules', 'flowtune')
    rmSync(join(flowtune, 'native'), { force: true })
    const { status, stdout } = await cli(['doctor', '--json'], {
      env: { FLOWTUNE_DEVICE: 'cpu' },
      program: join(flowtune, 'dist', 'cli.js'),
    })
    expect(status).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({
      ok: false,
      device: { error: { code: 'NATIVE_UNAVAILABLE', message: expect.stringContaining('install again') } },
      cores: [{ device: 'cpu', reason: expect.stringContaining('could not be loaded') }, {}, {}],
    })
  })

  it.runIf(linux)('finds libraries where the loader looks, with their versions', async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, 'libcublas.so.12.8.4.1'), '')
    symlinkSync('libcublas.so.12.8.4.1', join(folder, 'libcublas.so.12'))
    writeFileSync(join(folder, 'libother.so.1'), '')
    const { report } = await doctor([], { LD_LIBRARY_PATH: folder })
    expect(report.nvidia.libraries.filter(({ path }) => path.startsWith(folder))).toEqual([
      { name: 'libcublas.so.12', path: join(folder, 'libcublas.so.12'), version: '12.8.4.1' },
    ])
  })

  it.runIf(linux)('asks nvidia-smi for the driver and the cards', async () => {
    const folder = temporaryFolder()
    const smi = join(folder, 'nvidia-smi')
    const answer = 'case "$1" in *driver_version*) echo 570.86.10;; *) echo "NVIDIA L4, 8.9, 23034, 22500";; esac'
    writeFileSync(smi, `#!/bin/sh\n${answer}\n`)
    chmodSync(smi, 0o755)
    const { report } = await doctor([], { PATH: `${folder}${delimiter}${process.env.PATH}` })
    expect(report.nvidia).toMatchObject({
      driver: '570.86.10',
      cards: [{ name: 'NVIDIA L4', computeCapability: '8.9', memory: 23034 * 2 ** 20, free: 22500 * 2 ** 20 }],
    })
  })

  it('shows how a hub would be used, and no token', async () => {
    const cache = temporaryFolder()
    const env = { HF_HUB_CACHE: cache, HF_TOKEN: 'hf_secret', HF_HUB_OFFLINE: '1' }
    const { stdout } = await cli(['doctor', '--json'], { env })
    expect(JSON.parse(stdout).hub).toMatchObject({ cache, token: true, offline: true })
    expect(stdout).not.toContain('hf_secret')
  })
})

describe('flowtune doctor --selftest', () => {
  /** An installation whose parity cases are one, and its command line. */
  function withCases(name: string): { program: string; folder: string } {
    const folder = installation()
    const flowtune = join(folder, 'node_modules', 'flowtune')
    const target = join(flowtune, '__test__', 'fixtures', 'parity', 'cases', name)
    mkdirSync(target, { recursive: true })
    cpSync(join(cases, name), target, { recursive: true })
    return { program: join(flowtune, 'dist', 'cli.js'), folder: target }
  }

  const remains = () => readdirSync(tmpdir()).filter((name) => name.startsWith('flowtune-selftest-'))

  it('compares with the reference and with a run, prints the bounds, and leaves nothing', async () => {
    const before = remains()
    const { program } = withCases('adapter-dev')
    const { status, stdout } = await cli(['doctor', '--selftest', '--device', 'cpu'], { program })
    expect(status).toBe(0)
    expect(stdout).toMatch(/\n {2}adapter-dev +ok {3}error \S+ {2}bound 1\.0e-4 {2}\(\w+, of 7\)\n/)
    expect(stdout).toMatch(/\n {2}held-out loss before +ok {3}error \S+ {2}bound 1\.0e-3 {2}\(3\.06/)
    expect(stdout).toMatch(/\n {2}held-out loss after 20 steps +ok {3}error \S+ {2}bound 2\.0e-2/)
    expect(stdout).toMatch(/\nok: everything is within its bound\n$/)
    expect(remains()).toEqual(before)
  })

  it('exits with 1 when a tensor is off its bound', async () => {
    const { program, folder } = withCases('adapter-klein')
    const file = readdirSync(folder).find((name) => name.endsWith('.safetensors')) ?? ''
    expect(existsSync(join(folder, file))).toBe(true)
    perturb(join(folder, file), 'expect.hidden_states')
    const { status, stdout } = await cli(['doctor', '--selftest', '--device', 'cpu'], { program })
    expect(status).toBe(1)
    expect(stdout).toMatch(/\n {2}adapter-klein +OFF {2}error \S+ {2}bound 1\.0e-4 {2}\(hidden_states, of 6\)\n/)
    expect(stdout).toMatch(/\nnot ok: see the lines above\n$/)
  })

  it('does not begin where the device is not here', async () => {
    const { status, stdout, stderr } = await cli(['doctor', '--selftest', '--device', 'wgpu'], { cwd: root })
    expect({ status, stderr }).toEqual({ status: 1, stderr: '' })
    expect(stdout).not.toContain('Selftest')
  })
})
