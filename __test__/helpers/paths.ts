import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
export const fixtures = join(root, '__test__', 'fixtures')
export const cases = join(fixtures, 'parity', 'cases')
/** A whole pipeline with random weights, a megabyte in all. */
export const pipeline = join(fixtures, 'parity', 'pipeline', 'pipeline')
export const images = join(root, 'examples', 'twemoji')
export const heldOutImages = join(root, 'examples', 'twemoji-heldout')

/** An empty folder that goes when the test ends. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'flowtune-test-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}
