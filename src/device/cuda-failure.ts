// Why a CUDA build that is installed does not work, in a sentence that says what to do.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { CUDA_PACKAGE, type CudaPackage, cudaAddon } from './cuda-package'
import { foundLibraries, neededLibraries, toolkitFolders } from './libraries'

/** What the driver and the loader say, and what it means. */
const KNOWN: [RegExp, string][] = [
  [
    /CUDA_ERROR_(UNSUPPORTED_PTX_VERSION|SYSTEM_DRIVER_MISMATCH|INVALID_PTX)|driver version is insufficient|(undefined symbol|procedure could not be found).*\bcu|undefined symbol: cu/i,
    "NVIDIA's driver is too old for this build; install a newer one",
  ],
  [
    /CUDA_ERROR_NO_DEVICE|no CUDA-capable device/i,
    "NVIDIA's driver sees no card; see that `nvidia-smi` lists one, and that CUDA_VISIBLE_DEVICES does not hide it",
  ],
  [/CUDA_ERROR_COMPAT_NOT_SUPPORTED|CUDA_ERROR_NO_BINARY_FOR_GPU/i, 'the card is older than this build supports'],
  [/GLIBC(XX)?_[\d.]+.*not found/, 'the C library of this system is older than this build needs'],
]

/** Why `found` does not work. `messages` is what was thrown, and what caused it. */
export function explainFailure(found: CudaPackage, { code, messages }: { code?: string; messages: string[] }): string {
  const missing = missingLibraries(found)
  if (missing.length > 0) return missingSentence(missing)
  const text = messages.map((message) => message.split('\n')[0] ?? '')
  for (const [pattern, meaning] of KNOWN) {
    const said = text.find((line) => pattern.test(line))
    if (said) return `${meaning} (${said})`
  }
  const [first = 'no reason given', ...inner] = text
  // The core's own sentence says what to do already.
  if (code === 'DEVICE_UNAVAILABLE') return first
  if (!cudaAddon(found)) {
    return `${CUDA_PACKAGE} is installed without its binary; install it again without --omit=optional and without --no-optional`
  }
  return `${CUDA_PACKAGE} cannot be loaded (${inner.find((line) => !/^Cannot find/.test(line)) ?? first})`
}

/** The libraries that the addon wants and the loader does not find. */
export function missingLibraries(found: CudaPackage): string[] {
  const addon = cudaAddon(found)
  if (!addon) return []
  const here = new Set(foundLibraries().map(({ name }) => name.toLowerCase()))
  return neededLibraries(addon).filter((name) => !here.has(name.toLowerCase()))
}

/** What is missing and who provides it. */
export function missingSentence(missing: string[]): string {
  const isDriver = (name: string) => /^(libcuda\.so|nvcuda\.dll)/i.test(name)
  const driver = missing.filter(isDriver)
  const toolkit = missing.filter((name) => !isDriver(name))
  const parts = []
  if (driver.length > 0) parts.push(`${list(driver)} was not found: it comes with NVIDIA's driver`)
  if (toolkit.length > 0) parts.push(toolkitSentence(toolkit))
  return parts.join('; ')
}

function toolkitSentence(names: string[]): string {
  const [were, they] = names.length === 1 ? ['was', 'it comes'] : ['were', 'they come']
  const runtime = `${list(names)} ${were} not found: ${they} with NVIDIA's CUDA toolkit${majorOf(names)}`
  const folder = toolkitFolders().find((each) => names.every((name) => existsSync(join(each, name))))
  const path = process.platform === 'win32' ? 'PATH' : 'LD_LIBRARY_PATH'
  return folder ? `${runtime}, which is in ${folder}: add that folder to ${path}` : runtime
}

/** The toolkit's own version is cuBLAS's and the runtime's. */
function majorOf(names: string[]): string {
  const major = names.map((name) => /(?:cublas(?:Lt)?|cudart)(?:\.so\.|64_)(\d+)/.exec(name)?.[1]).find(Boolean)
  return major ? ` ${major}` : ''
}

function list(names: string[]): string {
  return names.length > 1 ? `${names.slice(0, -1).join(', ')} and ${names.at(-1)}` : (names[0] ?? '')
}
