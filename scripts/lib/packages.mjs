// The npm packages that a release is: `flowtune` and `flowtune-cuda`, each with a package per platform that holds its core.
//
// They are put together in folders of their own, from what was built and from npm/; the checkout is not touched. What a
// package wants of the others, their versions above all, is written here and nowhere by hand.

import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { bundledPackages, cratesOf, licenseDocument } from './licenses.mjs'
import { root, runCapturing } from './shell.mjs'

const LICENSES = 'THIRD-PARTY-LICENSES'

/** Where each package's parts are, and the cargo features of its core. */
export const FAMILIES = {
  flowtune: { folder: root, platforms: join(root, 'npm'), built: join(root, 'native'), features: [] },
  'flowtune-cuda': {
    folder: join(root, 'npm', 'cuda'),
    platforms: join(root, 'npm', 'cuda', 'npm'),
    built: join(root, 'npm', 'cuda'),
    features: ['cuda'],
  },
}

/** The platforms of a family: the triple, the folder under npm/, the package and the file of its core. */
export function platformsOf(family) {
  const { folder, platforms } = FAMILIES[family]
  const { binaryName, targets } = manifestIn(folder).napi
  return targets.map((target) => {
    const platform = platformName(target)
    const file = `${binaryName}.${platform}.node`
    return { target, platform, file, name: `${family}-${platform}`, folder: join(platforms, platform) }
  })
}

/** `x86_64-unknown-linux-musl` → `linux-x64-musl`, as @napi-rs/cli names them. */
export function platformName(target) {
  const [arch, , system, abi] = target.split('-')
  const cpu = { x86_64: 'x64', aarch64: 'arm64' }[arch]
  if (!cpu) throw new Error(`${target}: no processor that packages are made for`)
  return { linux: `linux-${cpu}-${abi}`, darwin: `darwin-${cpu}`, windows: `win32-${cpu}-${abi}` }[system]
}

export function manifestIn(folder) {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
}

/** Puts the package of a platform together in `out`; `core` is its built file. */
export function stagePlatform(family, { target, file, name, folder }, core, out) {
  mkdirSync(out, { recursive: true })
  const manifest = manifestIn(folder)
  writeManifest(out, { ...manifest, files: [...manifest.files, LICENSES] })
  cpSync(join(folder, 'README.md'), join(out, 'README.md'))
  cpSync(join(root, 'LICENSE'), join(out, 'LICENSE'))
  cpSync(core, join(out, file))
  const title = `Rust crates that are linked into ${name}, and their licences.`
  writeFileSync(join(out, LICENSES), licenseDocument(title, cratesOf(target, FAMILIES[family].features)))
}

/** Puts the package that people install together in `out`: what npm would pack, and the packages of its platforms. */
export function stageMain(family, out) {
  const { folder } = FAMILIES[family]
  const { devDependencies: _, scripts: __, napi: ___, ...manifest } = manifestIn(folder)
  mkdirSync(out, { recursive: true })
  for (const path of packedFiles(folder)) {
    mkdirSync(dirname(join(out, path)), { recursive: true })
    cpSync(join(folder, path), join(out, path))
  }
  cpSync(join(root, 'LICENSE'), join(out, 'LICENSE'))
  const files = [...manifest.files, LICENSES]
  const optionalDependencies = Object.fromEntries(platformsOf(family).map(({ name }) => [name, manifest.version]))
  writeManifest(out, { ...manifest, files, optionalDependencies })
  const bundled = family === 'flowtune' ? bundledPackages() : []
  writeFileSync(
    join(out, LICENSES),
    licenseDocument(`npm packages that are bundled into ${family}, and their licences.`, bundled),
  )
}

/** The core of this machine's platform, or of any from a folder of built ones. */
export function coreOf(family, { file }, artifacts) {
  const path = join(artifacts ?? FAMILIES[family].built, file)
  if (!existsSync(path)) throw new Error(`${path} is not there: it is built by \`napi build\` for its platform`)
  return path
}

/** Packs a folder into a tarball in `out`; its path, and what npm says of it. */
export function packFolder(folder, out) {
  const [info] = JSON.parse(
    runCapturing('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', out], { cwd: folder }),
  )
  return { ...info, path: join(out, info.filename) }
}

function packedFiles(folder) {
  const [{ files }] = JSON.parse(
    runCapturing('npm', ['pack', '--json', '--dry-run', '--ignore-scripts', '--loglevel=error'], { cwd: folder }),
  )
  return files.map(({ path }) => path).filter((path) => path !== 'package.json')
}

/** Provenance wants the repository that a package says to be from to be the one that publishes it. */
function writeManifest(folder, manifest) {
  const { GITHUB_REPOSITORY: name } = process.env
  const repository = name && { type: 'git', url: `git+https://github.com/${name}.git` }
  writeFileSync(
    join(folder, 'package.json'),
    `${JSON.stringify({ ...manifest, ...(repository && { repository }) }, null, 2)}\n`,
  )
}
