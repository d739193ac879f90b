import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type Explanation, explain, Flux2Transformer } from '../src/index'
import { cli, documents } from './helpers/cli'
import { pipeline, root, temporaryFolder } from './helpers/paths'
import { recipeFile, tinyRecipe } from './helpers/recipe'

describe('flowtune explain', () => {
  it('tells people what a recipe means', async () => {
    const { status, stdout } = await cli(['explain', join(root, 'recipes', 'quickstart.yaml')])
    expect(status).toBe(0)
    expect(stdout).toContain('σ at 64×64 pixels, 16 tokens, shift 1.583')
    expect(stdout).toMatch(/^ {2}│[ ▁▂▃▄▅▆▇█]{40}│$/m)
    expect(stdout).toMatch(/^ {4}64² {5}16 {3}0\.459 {3}1\.583 {2}this recipe$/m)
    expect(stdout).toMatch(/^trains [\d,]+ parameters \(lora\), \d+\.\d\d % of the transformer's [\d,]+$/m)
    expect(stdout).toContain('times each of 40 images')
    expect(Math.max(...stdout.split('\n').map((line) => [...line].length))).toBeLessThanOrEqual(80)
  })

  it('tells machines, and draws', async () => {
    const folder = temporaryFolder()
    const file = recipeFile(folder, tinyRecipe(folder, 30))
    const svg = join(folder, 'sigma.svg')
    const [told] = documents<Explanation>(await cli(['explain', file, '--json', '--svg', svg]))
    expect(told?.buckets[0]?.density.length).toBe(40)
    expect(told?.samplesPerStep).toBe(4)
    expect(readFileSync(svg, 'utf8')).toContain('σ at 32×32')
    const before = readFileSync(svg, 'utf8')
    writeFileSync(svg, `${before} `)
    expect((await cli(['explain', file, '--svg', svg])).status).toBe(2)
    expect(readFileSync(svg, 'utf8')).toBe(`${before} `)
  })

  it('tells no shift where none applies, and a weighting by its ends and its middle', async () => {
    const folder = temporaryFolder()
    const flowMatching = { timestepSampling: 'beta', lossWeighting: 'bsmntw' } as const
    const file = recipeFile(folder, { ...tinyRecipe(folder, 30), flowMatching })
    const { status, stdout } = await cli(['explain', file])
    expect(status).toBe(0)
    expect(stdout).toMatch(/^σ at 32×32 pixels, 4 tokens, no shift$/m)
    expect(stdout).not.toContain('flow shift:')
    expect(stdout).toMatch(/^loss weighting {5}bsmntw \(0\.00 at σ 0, 1\.\d\d at σ 0\.5, 0\.\d\d at σ 1\)$/m)
  })

  it('names what is wrong', async () => {
    const folder = temporaryFolder()
    const file = recipeFile(folder, { ...tinyRecipe(folder, 30), lora: { targets: ['to_x'] } })
    const { status, stderr } = await cli(['explain', file])
    expect([status, stderr]).toEqual([1, expect.stringContaining('to_x is no linear layer of this model')])
  })
})

it('counts what a script would train', async () => {
  const model = await Flux2Transformer.load(pipeline)
  const recipe = { ...tinyRecipe(temporaryFolder(), 30), lora: { rank: 5 } }
  const { trainableParameters, totalParameters } = await explain(recipe)
  const count = (parameters: Array<{ shape: readonly number[] }>) =>
    parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
  expect(totalParameters).toBe(count(model.parameters))
  expect(trainableParameters).toBe(count(await model.addLora({ rank: 5 })))
})
