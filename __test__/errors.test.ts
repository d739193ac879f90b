import { describe, expect, it } from 'vitest'
import { FlowtuneError, inspect, resolveRecipe, sample, Tensor, train } from '../src/index'
import { temporaryFolder } from './helpers/paths'

describe('FlowtuneError', () => {
  it('keeps the code of what it is made from', () => {
    const cause = Object.assign(new Error('no space left'), { code: 'ENOSPC' })
    const error = FlowtuneError.from(cause)
    expect(error).toMatchObject({ name: 'FlowtuneError', code: 'IO', message: 'no space left', cause })
    expect(FlowtuneError.from(error)).toBe(error)
  })

  it('calls what has no code INTERNAL', () => {
    expect(FlowtuneError.from('broken')).toMatchObject({ code: 'INTERNAL', message: 'broken' })
    expect(FlowtuneError.from(undefined)).toMatchObject({ code: 'INTERNAL' })
  })
})

describe('errors of the core', () => {
  it('are FlowtuneErrors with a code when thrown at once', () => {
    const shape = () => Tensor.fromFloat32([1, 2, 3], [2, 2])
    expect(shape).toThrow(FlowtuneError)
    expect(shape).toThrow(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
    expect(() => resolveRecipe([])).toThrow(expect.objectContaining({ code: 'RECIPE_INVALID' }))
  })

  it('name a path that is not there', () => {
    const path = `${temporaryFolder()}/absent`
    expect(() => inspect(path)).toThrow(FlowtuneError)
    expect(() => inspect(path)).toThrow(path)
  })

  it('reject the promise of work', async () => {
    const folder = temporaryFolder()
    const request = { model: `${folder}/absent`, prompt: 'x', width: 64, height: 64, out: `${folder}/x.png` }
    const error = await sample(request).catch((thrown) => thrown)
    expect(error).toBeInstanceOf(FlowtuneError)
    expect(error.message).toContain(`${folder}/absent`)
  })

  it('come before a run starts when the recipe is wrong', async () => {
    const recipe = { model: { path: 'm' }, data: { train: 'd' }, train: { steps: -1 } }
    await expect(train(recipe)).rejects.toMatchObject({ code: 'RECIPE_INVALID' })
  })
})
