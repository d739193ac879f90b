// The shared libraries of CUDA: which of them an addon wants, and which of them the system's loader would find.

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { basename, delimiter, join } from 'node:path'

const windows = process.platform === 'win32'

/** A library of NVIDIA's as a file is called that the loader looks for. */
const NAME = windows
  ? /^(?:nvcuda|(?:cublas|cublasLt|cudart|curand)64_\d+|nvrtc64_\d+_\d+)\.dll$/i
  : /^lib(?:cuda|cublas|cublasLt|cudart|curand|nvrtc)\.so\.\d+$/

/** A library that the loader finds. */
export interface Library {
  /** As the loader knows it: `libcublas.so.12`. */
  name: string
  /** The file that it finds. */
  path: string
  /** Of the file that the name leads to, where its name has one: `12.8.4.1`. */
  version?: string
}

/** The libraries of NVIDIA's that an addon is linked to; their names stand between zero bytes in its file. */
export function neededLibraries(addon: string): string[] {
  const names = readFileSync(addon)
    .toString('latin1')
    .split('\0')
    .filter((text) => text.length < 40 && NAME.test(text))
  return [...new Set(names)].sort()
}

/** The libraries of NVIDIA's that the loader finds, in the order in which it looks. */
export function foundLibraries(): Library[] {
  const found = new Map<string, string>()
  const add = (path: string) => {
    const name = basename(path)
    if (NAME.test(name) && !found.has(name)) found.set(name, path)
  }
  const addFolder = (folder: string) => {
    for (const path of filesOf(folder)) add(path)
  }
  if (windows) {
    addFolder(join(process.env.SystemRoot ?? 'C:\\Windows', 'System32'))
    for (const folder of folders(process.env.PATH)) addFolder(folder)
  } else {
    for (const folder of folders(process.env.LD_LIBRARY_PATH)) addFolder(folder)
    for (const path of loaderCache()) add(path)
    for (const folder of ['/lib64', '/usr/lib64', '/lib', '/usr/lib']) addFolder(folder)
  }
  return [...found].map(([name, path]) => describe(name, path)).sort((a, b) => (a.name < b.name ? -1 : 1))
}

/** Folders of toolkits that are here, whether or not the loader looks into them. */
export function toolkitFolders(): string[] {
  if (windows) return [process.env.CUDA_PATH ?? []].flat().map((folder) => join(folder, 'bin'))
  const versions = filesOf('/usr/local').filter((path) => /^cuda(-|$)/.test(basename(path)))
  const candidates = [...folders(process.env.CUDA_HOME), ...versions].map((folder) => join(folder, 'lib64'))
  return candidates.filter((folder) => existsSync(folder))
}

function describe(name: string, path: string): Library {
  const version = /\.so\.([\d.]+)$/.exec(basename(real(path)))?.[1]
  return { name, path, ...(version && { version }) }
}

function folders(list: string | undefined): string[] {
  return (list ?? '').split(delimiter).filter(Boolean)
}

function filesOf(folder: string): string[] {
  try {
    return readdirSync(folder).map((name) => join(folder, name))
  } catch {
    return []
  }
}

function real(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

/** What `ldconfig` knows, for this architecture first as it lists it. */
function loaderCache(): string[] {
  if (process.platform !== 'linux') return []
  for (const command of ['/sbin/ldconfig', '/usr/sbin/ldconfig', 'ldconfig']) {
    const { status, stdout } = spawnSync(command, ['-p'], { encoding: 'utf8', maxBuffer: 1 << 24 })
    if (status === 0) return [...stdout.matchAll(/ => (.+)$/gm)].map(([, path]) => path ?? '')
  }
  return []
}
