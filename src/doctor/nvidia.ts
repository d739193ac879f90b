import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

/** A card, as `nvidia-smi` tells of it. */
export interface Card {
  name: string
  /** E.g. `8.9`. */
  computeCapability: string
  /** Bytes. */
  memory: number
  /** Bytes. */
  free: number
}

/** The cards that NVIDIA's driver sees; none without `nvidia-smi`. */
export function cards(): Card[] {
  return query(['name', 'compute_cap', 'memory.total', 'memory.free']).map(([name, capability, total, free]) => ({
    name: name ?? '',
    computeCapability: capability ?? '',
    memory: mebibytes(total),
    free: mebibytes(free),
  }))
}

/** Version of NVIDIA's driver, if it runs here. */
export function driverVersion(): string | undefined {
  const told = query(['driver_version'])[0]?.[0]
  if (told) return told
  try {
    const text = readFileSync('/proc/driver/nvidia/version', 'utf8')
    return /Kernel Module(?: for \S+)?\s+([\d.]+)/.exec(text)?.[1]
  } catch {
    return undefined
  }
}

function query(fields: string[]): string[][] {
  const args = [`--query-gpu=${fields.join(',')}`, '--format=csv,noheader,nounits']
  const { status, stdout } = spawnSync('nvidia-smi', args, { encoding: 'utf8', timeout: 10_000, windowsHide: true })
  if (status !== 0) return []
  return stdout
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => line.split(',').map((field) => field.trim()))
}

function mebibytes(text: string | undefined): number {
  return Number(text) * 1024 * 1024
}
