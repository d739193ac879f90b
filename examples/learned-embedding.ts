// Textual inversion: the model stays as it is, and a vector that is added to the text embeddings learns a style. Any
// parameter of one's own trains this way.
//
//   npx tsx examples/learned-embedding.ts [folder]

import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import {
  AdamW,
  DataLoader,
  type FlowMatchingContext,
  FlowMatchingPipeline,
  Flux2Adapter,
  Flux2Transformer,
  Parameter,
  saveSafetensors,
  Tensor,
} from 'flowtune'
import { embedded, outputFolder } from './paths'

const out = outputFolder('learned-embedding')
await mkdir(out, { recursive: true })
const model = await Flux2Transformer.load(embedded.model)
const style = new Parameter('style', Tensor.zeros([1, 1, model.config.joint_attention_dim]))

class StyledAdapter extends Flux2Adapter {
  override async prepareInputs(context: FlowMatchingContext) {
    const inputs = await super.prepareInputs(context)
    return { ...inputs, encoderHiddenStates: inputs.encoderHiddenStates.add(style.tensor) }
  }
}

const loader = await DataLoader.open({
  model: embedded.model,
  train: embedded.images,
  resolution: 64,
  textTokens: 64,
  batchSize: 8,
  cacheDir: join(out, 'cache'),
})
const adapter = new StyledAdapter({ useGuidanceEmbeds: model.config.guidance_embeds })
const pipeline = new FlowMatchingPipeline(adapter, { flowShift: 'dynamic', cfgDropoutProb: 0 })
const optimizer = new AdamW([style], { lr: 1e-2, weightDecay: 0 })
for (let step = 0; step < 10; step += 1) {
  const { loss, metrics } = await pipeline.step(model, await loader.batch(step), { seed: 1, step })
  const gradients = await loss.backward()
  await optimizer.step(gradients)
  console.log(`step ${step + 1}  loss ${metrics.loss.toFixed(3)}`)
}
await saveSafetensors(join(out, 'style.safetensors'), { style: style.tensor })
console.log(join(out, 'style.safetensors'))
