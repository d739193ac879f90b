import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { FlowtuneError } from './errors'

/** The folder of flowtune's own package.json: the same from `src/`, `dist/` and `node_modules/flowtune/dist/`. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder)
    if (parent === folder) throw new FlowtuneError('INTERNAL', 'flowtune cannot find its own package.json')
    folder = parent
  }
  return folder
}

/** flowtune's version, without loading the core. */
export function packageVersion(): string {
  return JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')).version
}
