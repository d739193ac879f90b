// A whole run on a device that is not the CPU: candle's operations in memory that scripts cannot look into, as on a card.

import { describe, expect, it } from 'vitest'
import type { ModelRecipe, RunEvent } from '../src/index'
import { cli } from './helpers/cli'
import { temporaryFolder } from './helpers/paths'
import { recipeFile, tinyRecipe } from './helpers/recipe'

/** Losses of the steps and on held-out images. */
async function losses(model: Partial<ModelRecipe>, compute: 'cpu' | 'composed') {
  const folder = temporaryFolder()
  const recipe = tinyRecipe(folder, 3)
  const file = recipeFile(folder, { ...recipe, model: { ...recipe.model, ...model } })
  const { status, stdout, stderr } = await cli(['train', file, '--json'], { env: { FLOWTUNE_COMPUTE: compute } })
  expect(status, stderr).toBe(0)
  const events = stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as RunEvent)
  return events.flatMap((event) => (event.type === 'step' || event.type === 'evaluation' ? [event.loss] : []))
}

describe('a run on a device encodes, trains, samples and saves', () => {
  it.each<[Partial<ModelRecipe>, number]>([
    [{}, 1e-4],
    // Activations are rounded elsewhere.
    [{ dtype: 'bfloat16' }, 1e-2],
    [{ dtype: 'bfloat16', quantization: 'nf4', offload: 'blocks' }, 1e-2],
  ])('with a model %o as the CPU does', async (model, bound) => {
    const [there, here] = [await losses(model, 'composed'), await losses(model, 'cpu')]
    expect(there.length).toBe(here.length)
    expect(there.length).toBeGreaterThan(4)
    for (const [i, loss] of here.entries()) {
      expect(Math.abs((there[i] ?? Number.NaN) / loss - 1)).toBeLessThan(bound)
    }
    // Another device computed it.
    expect(there).not.toEqual(here)
  })
})
