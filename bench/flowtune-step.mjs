// One training run of random weights, timed: prints JSON on stdout. `step.mjs` and `scale.mjs` start it, with the name of
// a geometry or one of their own as JSON.

import { readFileSync } from 'node:fs'
import { AdamW, clipGradNorm, createPipeline, Flux2Transformer, Tensor } from '../dist/index.js'

const [name, mode, checkpointing, steps, dtype, samples = '1'] = process.argv.slice(2)
const batchSize = Number(samples)
const geometries = JSON.parse(readFileSync(new URL('geometries.json', import.meta.url), 'utf8'))
const { transformer, latents, textTokens } = geometries[name] ?? JSON.parse(name)

// int8 stands for a base in int8 and everything else in bfloat16.
const types = dtype === 'int8' ? { dtype: 'bfloat16', quantization: 'int8' } : { dtype, trainable: mode === 'full' }
const model = await Flux2Transformer.fromConfig({ ...transformer, guidance_embeds: true }, { seed: 1, ...types })
model.activationCheckpointing = checkpointing === 'checkpointed'
// Gigabytes, instead: as much as fits is kept.
if (Number(checkpointing)) model.memoryBudget = Number(checkpointing)
if (mode === 'lora') await model.addLora({ rank: 16 })
else model.setTrainable(true)
const pipeline = createPipeline('flux2', { useGuidanceEmbeds: true })
const optimizer = new AdamW(model.trainableParameters, { lr: 1e-4 })
const batch = {
  imageLatents: Tensor.randn([batchSize, 128, ...latents], { seed: 1 }),
  textEmbeddings: Tensor.randn([batchSize, textTokens, transformer.joint_attention_dim], { seed: 2 }),
}
const seconds = []
const residentBytes = []
for (let step = 0; step < Number(steps) + 1; step += 1) {
  const started = performance.now()
  const { loss } = await pipeline.step(model, batch, { seed: 1, step })
  const gradients = await loss.backward()
  await clipGradNorm(gradients, 1)
  await optimizer.step(gradients)
  // As the peer's zero_grad does; otherwise they live until the garbage collector comes by.
  gradients.clear()
  seconds.push((performance.now() - started) / 1000)
  residentBytes.push(process.memoryUsage.rss())
}
// The first step warms up: it allocates, and pages weights in.
const peakBytes = process.resourceUsage().maxRSS * 1024
process.stdout.write(JSON.stringify({ seconds: seconds.slice(1), residentBytes, peakBytes }))
