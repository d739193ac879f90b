import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { root } from './helpers/paths'

const entry = join(root, 'dist', 'index.js')

describe('the built package', () => {
  it('has the same exports as an ES module and as CommonJS', async () => {
    const esm = await import(pathToFileURL(entry).href)
    const cjs = createRequire(import.meta.url)(join(root, 'dist', 'index.cjs'))
    expect(Object.keys(cjs).sort()).toEqual(Object.keys(esm).sort())
    expect(cjs.version()).toBe(esm.version())
    expect(Object.keys(esm)).toEqual(expect.arrayContaining(['train', 'loadRecipe', 'FlowtuneError', 'Tensor']))
  })

  it('loads in a worker thread beside the main thread', async () => {
    const code = `
      const { parentPort } = require('node:worker_threads')
      import(${JSON.stringify(pathToFileURL(entry).href)}).then(({ Tensor }) => {
        parentPort.postMessage([...Tensor.fromFloat32([1, 2], [2]).toFloat32Array()])
      })`
    const worker = new Worker(code, { eval: true })
    // Listened for from the start: on a busy machine the worker can be gone before its answer is looked at.
    const exit = new Promise((resolve) => worker.on('exit', resolve))
    const answer = await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject))
    expect(answer).toEqual([1, 2])
    expect(await exit).toBe(0)
  })
})
