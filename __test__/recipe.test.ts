import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadRecipe, resolveRecipe } from '../src/index'
import { temporaryFolder } from './helpers/paths'

const MINIMAL = { model: { path: 'model' }, data: { train: 'images' }, train: { steps: 10 } }

function recipeFile(text: string): string {
  const path = join(temporaryFolder(), 'recipe.yaml')
  writeFileSync(path, text)
  return path
}

describe('resolveRecipe', () => {
  it('fills in the defaults and makes paths absolute', () => {
    const recipe = resolveRecipe(MINIMAL, '/base')
    expect(recipe.model.path).toBe(join('/base', 'model'))
    expect([recipe.data.train].flat()).toEqual([join('/base', 'images')])
    expect(recipe).toMatchObject({
      mode: 'lora',
      lora: { rank: 16, alpha: 16 },
      optimizer: { type: 'adamw', lr: 1e-4 },
      flowMatching: { timestepSampling: 'logit_normal', flowShift: 'dynamic', captionDropout: 0.05 },
    })
  })

  it('leaves a resolved recipe as it is', () => {
    const resolved = resolveRecipe(MINIMAL, '/base')
    expect(resolveRecipe(resolved, '/elsewhere')).toEqual(resolved)
  })

  it.each([
    [{ ...MINIMAL, optimiser: {} }, /`optimiser`.*`optimizer`/],
    [{ ...MINIMAL, train: { steps: 1, batchSise: 2 } }, /`train\.batchSise`.*`train\.batchSize`/],
    [{ ...MINIMAL, lora: { rank: -4 } }, /`lora\.rank`.*-4/],
    [{ ...MINIMAL, mode: 'lore' }, /`mode`.*lora/],
    [{ ...MINIMAL, model: {} }, /`model\.path`/],
  ])('refuses %j', (recipe, message) => {
    expect(() => resolveRecipe(recipe)).toThrow(message)
    expect(() => resolveRecipe(recipe)).toThrow(expect.objectContaining({ code: 'RECIPE_INVALID' }))
  })
})

describe('loadRecipe', () => {
  it('takes paths from the folder of the file', async () => {
    const path = recipeFile('model:\n  path: model\ndata:\n  train: images\ntrain:\n  steps: 3\n')
    const recipe = await loadRecipe(path)
    expect(recipe.model.path).toBe(join(path, '..', 'model'))
    expect(recipe.train.steps).toBe(3)
  })

  it('names file and line of broken YAML', async () => {
    const path = recipeFile('model:\n  path: "unclosed\n')
    const error = await loadRecipe(path).catch((thrown) => thrown)
    expect(error).toMatchObject({ code: 'RECIPE_INVALID' })
    expect(error.message).toMatch(/recipe\.yaml:[23]: /)
  })

  it('names file and line of a wrong key', async () => {
    const path = recipeFile('model:\n  path: model\ndata:\n  train: images\ntrain:\n  steps: 3\n  batchSise: 2\n')
    const error = await loadRecipe(path).catch((thrown) => thrown)
    expect(error).toMatchObject({ code: 'RECIPE_INVALID' })
    expect(error.message).toContain(`${path}:7: `)
    expect(error.message).toContain('batchSize')
  })

  it('names the line of the parent when a key is missing', async () => {
    const path = recipeFile('model:\n  path: model\ndata:\n  resolution: 64\ntrain:\n  steps: 3\n')
    await expect(loadRecipe(path)).rejects.toThrow(`${path}:3: `)
  })

  it('says that a file is not there', async () => {
    await expect(loadRecipe('absent.yaml')).rejects.toMatchObject({ code: 'IO' })
  })
})
