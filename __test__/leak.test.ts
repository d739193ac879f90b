// Resident memory of real processes over long stretches of work.

import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { root } from './helpers/paths'

/** Resident MiB after each quarter. */
function residentMemory(work: string): [number, number, number, number] {
  const script = join(root, '__test__', 'helpers', 'leak.mjs')
  return JSON.parse(execFileSync(process.execPath, ['--expose-gc', script, work], { encoding: 'utf8' }))
}

/** Growth over the second half, when caches and heaps have their size. A leak of one tensor a step would be 160 MiB. */
const FLAT = 16

it.each([
  ['10,000 steps’ worth of tensors that are disposed of', 'dispose'],
  ['10,000 steps’ worth of tensors that are left to the garbage collector', 'collect'],
  ['400 training steps', 'train'],
  ['400 training steps in bfloat16', 'bfloat16'],
  ['400 training steps over an int8 base', 'int8'],
])('%s leave memory flat', (_, work) => {
  const [, second, , last] = residentMemory(work)
  expect(last - second).toBeLessThan(FLAT)
})

it('V8 knows of the memory behind tensors, and collects in time', () => {
  // 1.6 GiB in all, of which nothing is used after it was made.
  expect(Math.max(...residentMemory('large'))).toBeLessThan(600)
})
