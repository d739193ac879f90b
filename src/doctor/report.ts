// What `flowtune doctor` says about a machine. Nothing here fails: what cannot be told is left out.

import { statfsSync } from 'node:fs'
import { cpus, freemem, release, totalmem, version } from 'node:os'
import { dirname, resolve } from 'node:path'
import { CUDA_PACKAGE } from '../device/cuda-package'
import { libcVersion } from '../device/libc'
import { foundLibraries, type Library } from '../device/libraries'
import { cpuBinding, WGPU_REASON } from '../device/load'
import type { DeviceName } from '../device/name'
import { probeCuda } from '../device/probe'
import { deviceAskedFor } from '../device/use'
import { FlowtuneError } from '../errors'
import { native } from '../native'
import { packageVersion } from '../package-root'
import type { DeviceInfo, HubSettings } from '../types'
import { type Card, cards, driverVersion } from './nvidia'
import type { SelftestReport } from './selftest'

/** The whole of it. */
export interface DoctorReport {
  /** Whether the device that was asked for can be used, and the selftest passed if it ran. */
  ok: boolean
  flowtune: string
  node: string
  system: SystemReport
  /** Bytes. */
  memory: { total: number; available: number }
  disks: DiskReport[]
  nvidia: { driver?: string; cards: Card[]; libraries: Library[] }
  /** Each core, and why it cannot be used if so. */
  cores: CoreReport[]
  device: ChosenDevice
  hub?: HubSettings
  selftest?: SelftestReport
}

export interface SystemReport {
  platform: string
  arch: string
  /** The kernel. */
  release: string
  description: string
  libc?: string
  cpu: string
  cores: number
}

export interface DiskReport {
  what: string
  path: string
  /** Bytes. */
  free: number
}

/** One core, of a package that may be installed. */
export type CoreReport = { device: string; package: string } & ({ info: DeviceInfo } | { reason: string })

/** The core that computes, or why none does. */
export type ChosenDevice = { asked: DeviceName } & ({ info: DeviceInfo } | { error: { code: string; message: string } })

/** Looks at this machine. */
export function examine(): DoctorReport {
  const cpu = cpuCore()
  const cores = [cpu, cudaCore(), { device: 'wgpu', package: '', reason: WGPU_REASON }]
  const device = chosenDevice()
  const hub = attempt(() => JSON.parse(cpuBinding().hubSettings()) as HubSettings)
  const driver = driverVersion()
  return {
    ok: 'info' in device,
    flowtune: packageVersion(),
    node: process.versions.node,
    system: system(),
    memory: { total: totalmem(), available: availableMemory(cpu) },
    disks: [disk('this folder', process.cwd()), hub && disk('hub cache', hub.cache)].filter(
      (each) => each !== undefined,
    ),
    nvidia: { ...(driver && { driver }), cards: cards(), libraries: foundLibraries() },
    cores,
    device,
    ...(hub && { hub }),
  }
}

/** A container may have less than the machine, as the core knows. */
function availableMemory(cpu: CoreReport): number {
  const told = 'info' in cpu ? cpu.info.availableMemory : null
  return told ?? freemem()
}

function system(): SystemReport {
  const processors = cpus()
  const libc = libcVersion()
  return {
    platform: process.platform,
    arch: process.arch,
    release: release(),
    description: version(),
    ...(libc && { libc }),
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
  }
}

function cpuCore(): CoreReport {
  const name = { device: 'cpu', package: 'flowtune' }
  try {
    return { ...name, info: JSON.parse(cpuBinding().device()) as DeviceInfo }
  } catch (thrown) {
    return { ...name, reason: FlowtuneError.from(thrown).message }
  }
}

function cudaCore(): CoreReport {
  const probe = probeCuda()
  const name = { device: 'cuda', package: CUDA_PACKAGE }
  return 'reason' in probe ? { ...name, reason: probe.reason } : { ...name, info: probe.device }
}

function chosenDevice(): ChosenDevice {
  const asked = deviceAskedFor()
  try {
    return { asked, info: JSON.parse(native().device()) as DeviceInfo }
  } catch (thrown) {
    const { code, message } = FlowtuneError.from(thrown)
    return { asked, error: { code, message } }
  }
}

/** The disk that a folder is on, or will be. */
function disk(what: string, path: string): DiskReport | undefined {
  for (let folder = resolve(path); ; folder = dirname(folder)) {
    const stat = attempt(() => statfsSync(folder))
    if (stat) return { what, path, free: stat.bavail * stat.bsize }
    if (folder === dirname(folder)) return undefined
  }
}

function attempt<T>(action: () => T): T | undefined {
  try {
    return action()
  } catch {
    return undefined
  }
}
