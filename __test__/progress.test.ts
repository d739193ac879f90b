import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { Output } from '../src/cli/output'
import { LineProgress } from '../src/cli/progress'
import type { RunEvent } from '../src/index'

beforeEach(() => void vi.useFakeTimers({ now: 1e12, toFake: ['Date'] }))
afterEach(() => void vi.useRealTimers())

const pass = (seconds: number) => vi.setSystemTime(Date.now() + seconds * 1000)
const progress = (stage: string, done: number, total: number): RunEvent => ({ type: 'progress', stage, done, total })

function step(n: number, totalSteps: number, secondsPerStep: number): RunEvent {
  return { type: 'step', step: n, totalSteps, loss: 0.5, gradNorm: 1, lr: 1, secondsPerStep, sigmaMean: 0.5 }
}

function lines(show: (progress: LineProgress) => void): string[] {
  const output = new Output(false)
  const noted: string[] = []
  output.note = (text) => void noted.push(text)
  show(new LineProgress(output))
  return noted
}

it('says one line of a short stage', () => {
  const noted = lines((shown) => {
    for (const image of [1, 2]) {
      for (let done = 1; done <= 28; done += 1) shown.show(progress(`image ${image} of 2`, done, 28))
    }
  })
  expect(noted).toEqual(['image 1 of 2 1/28', 'image 2 of 2 1/28'])
})

it('says beginning, end and every tenth second of a long stage', () => {
  const noted = lines((shown) => {
    for (let done = 0; done <= 28; done += 1) {
      shown.show(progress('encoding', done, 28))
      pass(1)
    }
  })
  expect(noted).toEqual(['encoding 0/28', 'encoding 10/28', 'encoding 20/28', 'encoding 28/28'])
})

it('says bytes in units of a thousand', () => {
  const noted = lines((shown) => {
    for (const done of [0, 999, 12_345, 3_880_000_000]) {
      shown.show({ type: 'progress', stage: `file ${done}`, done, total: 3_880_000_000, unit: 'bytes' })
    }
  })
  expect(noted).toEqual([
    'file 0 0 B/3.9 GB',
    'file 999 999 B/3.9 GB',
    'file 12345 12.3 kB/3.9 GB',
    'file 3880000000 3.9 GB/3.9 GB',
  ])
})

it('says the loss and the time left, first and last step in any case', () => {
  const noted = lines((shown) => {
    for (let n = 1; n <= 40; n += 1) shown.show(step(n, 40, n % 2 ? 0.1 : 0.3))
  })
  expect(noted).toEqual([
    'step 1/40  loss 0.5000  0.10 s/step  4 s left',
    'step 40/40  loss 0.5000  0.20 s/step  0 s left',
  ])
})

it('keeps the log of a day short', () => {
  const noted = lines((shown) => {
    for (let n = 1; n <= 86_400; n += 1) {
      shown.show(step(n, 86_400, 1))
      pass(1)
    }
  })
  expect(noted.length).toBeLessThan(200)
})

it('always says what is no count', () => {
  const warning: RunEvent = { type: 'warning', code: 'CACHE_STALE', message: 'made again' }
  expect(lines((shown) => [1, 2].forEach(() => void shown.show(warning)))).toEqual(
    Array(2).fill('warning CACHE_STALE: made again'),
  )
})
