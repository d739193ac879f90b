import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { packageVersion } from '../package-root'
import { libcVersion } from './libc'

/** The package with the core for CUDA. */
export const CUDA_PACKAGE = 'flowtune-cuda'

/** Where there are builds of it, as Node names platforms. */
const PLATFORMS = ['linux-x64', 'win32-x64']

/** An installed `flowtune-cuda`. */
export interface CudaPackage {
  /** Its folder. */
  root: string
  /** What `require` loads. */
  entry: string
  version: string
}

/** The installed package, looked for from flowtune's own folder and from nowhere else. */
export function cudaPackage(): CudaPackage | undefined {
  try {
    const manifest = createRequire(import.meta.url).resolve(`${CUDA_PACKAGE}/package.json`)
    const { main = 'index.js', version } = JSON.parse(readFileSync(manifest, 'utf8'))
    return { root: dirname(manifest), entry: join(dirname(manifest), main), version }
  } catch {
    return undefined
  }
}

/** Why it cannot be meant for this process, before anything of it is run. */
export function cudaPackageProblem(found: CudaPackage | undefined): string | undefined {
  const platform = `${process.platform}-${process.arch}`
  if (!PLATFORMS.includes(platform)) return noBuildFor(platform)
  const wanted = packageVersion()
  if (!found) return `the package ${CUDA_PACKAGE} is not installed; run \`npm install ${CUDA_PACKAGE}@${wanted}\``
  if (libcVersion() === 'musl') return noBuildFor(`${platform} with musl`)
  if (found.version === wanted) return undefined
  return `${CUDA_PACKAGE} is ${found.version} and flowtune is ${wanted}; run \`npm install ${CUDA_PACKAGE}@${wanted}\``
}

function noBuildFor(platform: string): string {
  return `there is no CUDA build for ${platform}, only for Linux with glibc and Windows, on x64`
}

/** The addon's file: beside the entry in a checkout, in the package of this platform otherwise. */
export function cudaAddon({ root, entry }: CudaPackage): string | undefined {
  const own = readdirSync(root).find((name) => name.endsWith('.node'))
  if (own) return join(root, own)
  const abi = process.platform === 'win32' ? 'msvc' : 'gnu'
  try {
    return createRequire(entry).resolve(`${CUDA_PACKAGE}-${process.platform}-${process.arch}-${abi}`)
  } catch {
    return undefined
  }
}
