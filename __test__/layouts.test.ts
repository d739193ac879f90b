import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Flux2Transformer, inspect, sample, train } from '../src/index'
import { writeAsBlackForestLabs } from './helpers/black-forest-labs'
import { cli } from './helpers/cli'
import { fixtures, pipeline, temporaryFolder } from './helpers/paths'
import { tinyRecipe } from './helpers/recipe'
import { tensorsOf } from './helpers/safetensors'

const LORA_FILE = 'pytorch_lora_weights.safetensors'

const REQUEST = { model: pipeline, prompt: 'red heart', width: 32, height: 32, steps: 2 }

describe('a transformer in one file', () => {
  it.each(['', 'model.diffusion_model.'])('draws what the folder that it is of draws (prefix %j)', async (prefix) => {
    const folder = temporaryFolder()
    const file = join(folder, 'flux2.safetensors')
    writeAsBlackForestLabs(join(pipeline, 'transformer'), file, prefix)
    const [own, other] = [join(folder, 'own.png'), join(folder, 'other.png')]
    await sample({ ...REQUEST, out: own })
    const size = ['--size', '32', '--steps', '2', '--out', other]
    const args = ['sample', '--model', pipeline, '--transformer', file, '--prompt', 'red heart', ...size]
    expect(await cli(args)).toMatchObject({ status: 0 })
    expect(readFileSync(other)).toEqual(readFileSync(own))
    const whole = inspect(pipeline)
    expect(inspect(file)).toEqual({
      ...Object.fromEntries(
        Object.entries(whole).filter(([key]) => /guidance|Blocks|dim|heads|jointAttentionDim/.test(key)),
      ),
      kind: 'transformer',
      path: file,
      parameters: whole.kind === 'model' && whole.transformer.parameters,
      metadata: {},
    })
  })

  it('is trained to the same LoRA', async () => {
    const [one, two] = [temporaryFolder(), temporaryFolder()]
    const file = join(two, 'flux2.safetensors')
    writeAsBlackForestLabs(join(pipeline, 'transformer'), file)
    const recipe = tinyRecipe(two, 2)
    await (await train(tinyRecipe(one, 2))).wait()
    await (await train({ ...recipe, model: { ...recipe.model, transformer: file } })).wait()
    // The header says which transformer it was.
    const [first, second] = [one, two].map((folder) => tensorsOf(join(folder, 'run', 'lora', LORA_FILE)))
    expect(second).toEqual(first)
  })

  it('is read from GGUF', async () => {
    const file = join(fixtures, 'layouts', 'transformer-q8_0.gguf')
    const model = await Flux2Transformer.load(file)
    expect(model.config).toMatchObject({ num_layers: 2, num_single_layers: 1, joint_attention_dim: 64 })
    expect(inspect(file)).toMatchObject({ kind: 'transformer', dim: 32, guidance: true, metadata: null })
  })

  it('is refused in place of a pipeline, and what is none as a transformer', async () => {
    const file = join(fixtures, 'layouts', 'transformer-bfl.safetensors')
    const out = join(temporaryFolder(), 'a.png')
    await expect(sample({ ...REQUEST, model: file, out })).rejects.toMatchObject({
      code: 'CHECKPOINT_LAYOUT',
      message: expect.stringContaining('--transformer'),
    })
    const vae = join(fixtures, 'layouts', 'vae-bfl.safetensors')
    await expect(Flux2Transformer.load(vae)).rejects.toMatchObject({
      code: 'CHECKPOINT_LAYOUT',
      message: expect.stringContaining('is a VAE'),
    })
  })
})
