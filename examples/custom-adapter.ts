// An adapter of one's own: a Huber loss instead of squares, and an auxiliary loss that keeps the prediction's mean where
// the target's is. Gradients flow through both. It is known by a name, like the built-in one.
//
//   npx tsx examples/custom-adapter.ts [folder]

import { join } from 'node:path'
import {
  AdamW,
  clipGradNorm,
  createPipeline,
  DataLoader,
  type FlowMatchingContext,
  Flux2Adapter,
  type Flux2AdapterOptions,
  type Flux2Inputs,
  Flux2Transformer,
  registerAdapter,
  type Tensor,
} from 'flowtune'
import { embedded, outputFolder } from './paths'

interface RobustOptions extends Flux2AdapterOptions {
  /** Distance above which the loss grows in a line. */
  delta: number
  /** Weight of the auxiliary loss. */
  strength: number
}

class RobustAdapter extends Flux2Adapter {
  constructor(readonly options: RobustOptions) {
    super(options)
  }

  /** Huber: d²/2 up to δ, then δ·(d − δ/2); of the prediction's shape. */
  override computeLoss(prediction: Tensor<4>, target: Tensor<4>): Tensor<4> {
    const { delta } = this.options
    const distance = prediction.sub(target).abs()
    const near = distance.clamp(0, delta)
    return near.square().mul(0.5).add(distance.sub(near).mul(delta))
  }

  override auxiliaryLosses(_inputs: Flux2Inputs, prediction: Tensor<4>, context: FlowMatchingContext) {
    const target = context.noise.sub(context.latents)
    return { drift: prediction.mean().sub(target.mean()).square().mul(this.options.strength) }
  }
}

declare module 'flowtune' {
  interface AdapterRegistry {
    robust: { adapter: RobustAdapter; options: RobustOptions }
  }
}
registerAdapter('robust', (options) => new RobustAdapter(options))

const model = await Flux2Transformer.load(embedded.model)
const useGuidanceEmbeds = model.config.guidance_embeds
const pipeline = createPipeline('robust', { useGuidanceEmbeds, delta: 1, strength: 0.1 }, { flowShift: 'dynamic' })
const cacheDir = join(outputFolder('custom-adapter'), 'cache')
const data = { model: embedded.model, train: embedded.images, resolution: 64, textTokens: 64, cacheDir }
const loader = await DataLoader.open({ ...data, batchSize: 4 })
const optimizer = new AdamW(await model.addLora({ rank: 8 }), { lr: 2e-3 })
for (let step = 0; step < 10; step += 1) {
  const { loss, metrics } = await pipeline.step(model, await loader.batch(step), { seed: 1, step })
  const gradients = await loss.backward()
  await clipGradNorm(gradients, 1)
  await optimizer.step(gradients)
  console.log(`step ${step + 1}  loss ${metrics.loss.toFixed(4)}, of it drift ${metrics.auxiliary.drift?.toFixed(6)}`)
}
