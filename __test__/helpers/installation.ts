import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root, temporaryFolder } from './paths'

/** flowtune's version. */
export const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }

/** A folder in which flowtune is installed, as npm would, with other packages beside it. */
export function installation(): string {
  const folder = temporaryFolder()
  const target = join(folder, 'node_modules', 'flowtune')
  mkdirSync(target, { recursive: true })
  for (const name of ['package.json', 'dist']) cpSync(join(root, name), join(target, name), { recursive: true })
  for (const name of ['native', 'models', 'recipes', 'examples']) {
    symlinkSync(join(root, name), join(target, name), 'junction')
  }
  return folder
}

/** Puts a `flowtune-cuda` into a folder: `code` is what `require` runs. */
export function cudaPackageIn(folder: string, code: string, itsVersion: string = version): string {
  const target = join(folder, 'node_modules', 'flowtune-cuda')
  mkdirSync(target, { recursive: true })
  const manifest = { name: 'flowtune-cuda', version: itsVersion, main: 'binding.cjs' }
  writeFileSync(join(target, 'package.json'), JSON.stringify(manifest))
  writeFileSync(join(target, 'binding.cjs'), code)
  return target
}

/** Whether there is a C compiler, to make shared libraries with. */
export const hasCompiler = process.platform === 'linux' && spawnSync('cc', ['--version']).status === 0

/** A shared library that needs others, which are not there when this is over. */
export function libraryNeeding(names: string[], file: string): void {
  const folder = temporaryFolder()
  const source = join(folder, 'empty.c')
  writeFileSync(source, 'int flowtune_nothing(void) { return 0; }\n')
  const libraries = names.map((name) => {
    const library = join(folder, name)
    execFileSync('cc', ['-shared', '-fPIC', `-Wl,-soname,${name}`, '-o', library, source])
    return library
  })
  execFileSync('cc', ['-shared', '-fPIC', '-Wl,--no-as-needed', '-o', file, source, ...libraries])
}

/** Runs a script in an installation; what it prints as JSON. */
export function runScript<T>(folder: string, code: string, env: Record<string, string> = {}): T {
  const file = join(folder, 'script.mjs')
  writeFileSync(file, code)
  const { FLOWTUNE_DEVICE: _, ...inherited } = process.env
  const options = { cwd: folder, encoding: 'utf8', env: { ...inherited, ...env } } as const
  return JSON.parse(execFileSync(process.execPath, [file], options)) as T
}
