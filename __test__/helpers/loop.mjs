// A hand-written training loop on the built package, for child processes and worker threads.

import {
  AdamW,
  clipGradNorm,
  createPipeline,
  Flux2Transformer,
  LrSchedule,
  Tensor,
} from '../../dist/index.js'

const config = {
  in_channels: 8,
  num_layers: 1,
  num_single_layers: 1,
  attention_head_dim: 8,
  num_attention_heads: 2,
  joint_attention_dim: 6,
  timestep_guidance_channels: 16,
  axes_dims_rope: [2, 2, 2, 2],
  guidance_embeds: false,
}

/**
 * Trains for `steps` and gives the losses and a checksum of the weights. `load` says how the model is loaded; `onStep` is
 * awaited after each step.
 */
export async function trainLoop({ steps, seed, side = 4, samples = 2, load = {}, onStep = () => {} }) {
  const model = await Flux2Transformer.fromConfig(config, { seed, ...load })
  const parameters = await model.addLora({ rank: 2, seed })
  const pipeline = createPipeline('flux2', { useGuidanceEmbeds: false }, { lossWeighting: 'none' })
  const optimizer = new AdamW(parameters, { lr: 1e-2 })
  const schedule = new LrSchedule({ type: 'constant', lr: 1e-2, totalSteps: steps })
  const losses = []
  for (let step = 0; step < steps; step += 1) {
    const imageLatents = Tensor.randn([samples, 8, side, side], { seed, step })
    const textEmbeddings = Tensor.randn([samples, 4, 6], { seed: seed + 1, step })
    const { loss, metrics } = await pipeline.step(model, { imageLatents, textEmbeddings }, { seed, step })
    const gradients = await loss.backward()
    await clipGradNorm(gradients, 1)
    await optimizer.step(gradients, { lr: schedule.lr })
    schedule.step()
    losses.push(metrics.loss)
    await onStep(step)
  }
  const weights = parameters.map((parameter) => parameter.tensor.toFloat32Array().reduce((sum, x) => sum + x, 0))
  return { losses, weights }
}
