// What a release is made of: versions, platforms, licences. The packages themselves are tried by `npm run pack:check`.

import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { contentOf, filesIn } from './helpers/files'
import { root, temporaryFolder } from './helpers/paths'

const script = (name: string) => import(pathToFileURL(join(root, 'scripts', 'lib', name)).href)
const { FAMILIES, manifestIn, platformName, platformsOf, stagePlatform, stageMain } = await script('packages.mjs')
const { cratesOf, bundledPackages, isAllowed, licenseDocument } = await script('licenses.mjs')
const { hostTarget } = await script('shell.mjs')

const main = manifestIn(root)
const families: string[] = Object.keys(FAMILIES)

interface Platform {
  target: string
  platform: string
  name: string
  file: string
  folder: string
}
const platforms: Platform[] = families.flatMap((family) => platformsOf(family))

describe('versions', () => {
  it('are one, in every package and in the core', () => {
    const manifests = [join(root, 'npm', 'cuda'), ...platforms.map(({ folder }) => folder)].map(manifestIn)
    for (const { name, version } of manifests as { name: string; version: string }[])
      expect({ name, version }).toEqual({ name, version: main.version })
    expect(main.peerDependencies).toEqual({ 'flowtune-cuda': main.version })
    const cargo = readFileSync(join(root, 'Cargo.toml'), 'utf8')
    expect(/^\[workspace\.package\]\nversion = "(.+)"$/m.exec(cargo)?.[1]).toBe(main.version)
  })

  it('of the platforms are written when the package is put together, and nowhere by hand', () => {
    for (const family of families) expect(manifestIn(FAMILIES[family].folder).optionalDependencies).toBeUndefined()
    const folder = temporaryFolder()
    stageMain('flowtune-cuda', folder)
    expect(manifestIn(folder).optionalDependencies).toEqual({
      'flowtune-cuda-linux-x64-gnu': main.version,
      'flowtune-cuda-win32-x64-msvc': main.version,
    })
    expect(filesIn(folder)).toEqual(['LICENSE', 'README.md', 'THIRD-PARTY-LICENSES', 'binding.cjs', 'package.json'])
  })
})

describe('the packages of platforms', () => {
  it('are these', () => {
    expect(platforms.map(({ name }) => name)).toEqual([
      'flowtune-linux-x64-gnu',
      'flowtune-linux-arm64-gnu',
      'flowtune-linux-x64-musl',
      'flowtune-linux-arm64-musl',
      'flowtune-darwin-x64',
      'flowtune-darwin-arm64',
      'flowtune-win32-x64-msvc',
      'flowtune-cuda-linux-x64-gnu',
      'flowtune-cuda-win32-x64-msvc',
    ])
    for (const { name, folder, file } of platforms) expect(manifestIn(folder)).toMatchObject({ name, main: file })
    expect(() => platformName('riscv64gc-unknown-linux-gnu')).toThrow('no processor')
  })

  // `npx napi create-npm-dirs`, with `--package-json-path npm/cuda/package.json --npm-dir npm/cuda/npm` for CUDA.
  it.each(families)('of %s are what napi makes of its package.json', (family) => {
    const folder = temporaryFolder()
    cpSync(join(FAMILIES[family].folder, 'package.json'), join(folder, 'package.json'))
    const napi = join(root, 'node_modules', '@napi-rs', 'cli', 'dist', 'cli.js')
    mkdirSync(join(folder, 'npm'))
    execFileSync(process.execPath, [napi, 'create-npm-dirs', '--cwd', folder], { stdio: 'ignore' })
    const names = platformsOf(family).map(({ platform }: Platform) => platform)
    expect(readdirSync(join(folder, 'npm')).sort()).toEqual([...names].sort())
    for (const name of names) {
      expect(contentOf(join(FAMILIES[family].platforms, name))).toEqual(contentOf(join(folder, 'npm', name)))
    }
  })

  it('hold their core, and the licences of what is linked into it', () => {
    const folder = temporaryFolder()
    const host = platformsOf('flowtune').find(({ target }: Platform) => target === hostTarget())
    stagePlatform('flowtune', host, join(root, 'native', host.file), folder)
    expect(filesIn(folder)).toEqual(['LICENSE', 'README.md', 'THIRD-PARTY-LICENSES', host.file, 'package.json'])
    const text = readFileSync(join(folder, 'THIRD-PARTY-LICENSES'), 'utf8')
    for (const crate of ['candle-core', 'tokenizers', 'napi', 'std'])
      expect(text).toMatch(new RegExp(`^${crate} \\d`, 'm'))
    expect(text).toContain('Permission is hereby granted')
    expect(manifestIn(folder).files).toEqual([host.file, 'THIRD-PARTY-LICENSES'])
  })
})

describe('the package flowtune', () => {
  it('has no dependencies: what its bundles import is in Node or in them', () => {
    expect(main.dependencies).toBeUndefined()
    const builtin = new Set(builtinModules.flatMap((name) => [name, `node:${name}`]))
    for (const name of ['index.js', 'cli.js', 'index.cjs']) {
      const code = readFileSync(join(root, 'dist', name), 'utf8')
      const imports = [
        ...code.matchAll(/^(?:import|export)\b[^'"\n]*from ["']([^"']+)["']|\brequire\(["']([^"']+)["']\)/gm),
      ]
      const names = imports.map(([, imported, required]) => imported ?? required ?? '')
      expect(names.length).toBeGreaterThan(5)
      expect(names.filter((each) => !builtin.has(each) && each !== '#native')).toEqual([])
    }
    expect(bundledPackages().map(({ name }: { name: string }) => name)).toEqual(
      expect.arrayContaining(['cli-progress', 'commander', 'yaml']),
    )
  })

  it('carries cases for the selftest, under two megabytes of them', () => {
    const carried: string[] = main.files.filter((path: string) => path.includes('parity/cases/'))
    expect(carried.length).toBeGreaterThanOrEqual(6)
    const sizes = carried.map((path) => {
      expect(existsSync(join(root, path, 'case.json')), path).toBe(true)
      return filesIn(join(root, path)).reduce((sum, file) => sum + statSync(join(root, path, file)).size, 0)
    })
    expect(sizes.reduce((a, b) => a + b, 0)).toBeLessThan(2e6)
    const names = carried.map((path) => basename(path))
    for (const kind of ['adapter', 'schedule', 'train', 'text', 'vae']) {
      expect(
        names.some((name) => name.startsWith(kind)),
        kind,
      ).toBe(true)
    }
  })
})

describe('licences', () => {
  it.each<[string, boolean]>([
    ['MIT', true],
    ['MIT/Apache-2.0', true],
    ['GPL-3.0-only', false],
    ['GPL-3.0-only OR MIT', true],
    ['GPL-3.0-only AND MIT', false],
    ['(MIT OR Apache-2.0) AND Unicode-3.0', true],
    ['(MIT OR Apache-2.0) AND OpenSSL', false],
    ['Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT', true],
    ['GPL-2.0-only WITH Classpath-exception-2.0', false],
    ['(MIT', false],
    ['', false],
  ])('%j: %s', (expression, allowed) => {
    expect(isAllowed(expression)).toBe(allowed)
  })

  it('of every crate in the core are allowed, and their texts are there', () => {
    const crates = cratesOf(hostTarget())
    expect(crates.length).toBeGreaterThan(100)
    expect(() => licenseDocument('crates', crates)).not.toThrow()
    const names = crates.map(({ name }: { name: string }) => name)
    // Ours are no third party's, and what only tests or macros use is not in the core.
    for (const name of ['flowtune-engine', 'criterion', 'proptest', 'serde_derive']) expect(names).not.toContain(name)
  })

  it('that are not allowed, or have no text, end it by name', () => {
    const fine = { name: 'a', version: '1.0.0', license: 'MIT', texts: ['text'] }
    expect(() => licenseDocument('', [fine, { ...fine, name: 'b', license: 'SSPL-1.0' }])).toThrow('b 1.0.0 (SSPL-1.0)')
    expect(() => licenseDocument('', [fine, { ...fine, name: 'c', texts: [] }])).toThrow('licence: c')
  })
})
