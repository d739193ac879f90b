// A training loop by hand: LoRA on the embedded tiny model, with accumulation, held-out loss, a checkpoint to resume
// from, and an image of the result.
//
//   npx tsx examples/training-loop.ts [folder]     run it again with the same folder: it goes on from the checkpoint

import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import {
  AdamW,
  AutoencoderKLFlux2,
  type Batch,
  clipGradNorm,
  createPipeline,
  DataLoader,
  Flux2Transformer,
  Gradients,
  LrSchedule,
  loadSafetensors,
  savePng,
  saveSafetensors,
  Tensor,
  TextEncoder,
} from 'flowtune'
import { embedded, outputFolder } from './paths'

const out = outputFolder('training-loop')
const [seed, steps, accumulation] = [7, 20, 2]
await mkdir(out, { recursive: true })

// Data: encoded once, then read from the cache.
const loader = await DataLoader.open({
  model: embedded.model,
  train: embedded.images,
  heldOut: embedded.heldOutImages,
  resolution: 64,
  textTokens: 64,
  batchSize: 4,
  cacheDir: join(out, 'cache'),
})

// The model, and what trains.
const model = await Flux2Transformer.load(embedded.model)
const parameters = await model.addLora({ rank: 8, alpha: 8, seed })
const adapterOptions = { useGuidanceEmbeds: model.config.guidance_embeds }
const pipeline = createPipeline('flux2', adapterOptions, {
  flowShift: 'dynamic',
  lossWeighting: 'none',
  emptyPrompt: loader.emptyPrompt,
})
// Every caption counts where the result is measured.
const evaluation = createPipeline('flux2', adapterOptions, { cfgDropoutProb: 0 })
const optimizer = new AdamW(parameters, { lr: 2e-3 })
const schedule = new LrSchedule({ type: 'cosine', lr: 2e-3, totalSteps: steps, warmupSteps: 2 })

// A checkpoint is a file of tensors: weights and moments.
const checkpoint = join(out, 'checkpoint.safetensors')
if (existsSync(checkpoint)) {
  const { tensors, metadata } = await loadSafetensors(checkpoint)
  for (const parameter of parameters) {
    parameter.assign(tensors[parameter.name] as Tensor)
    delete tensors[parameter.name]
  }
  optimizer.loadStateDict(tensors)
  schedule.loadStateDict(JSON.parse(metadata.schedule ?? '{}'))
}

/** Mean loss on images that are never trained on, at fixed σ and fixed noise. */
async function heldOutLoss(): Promise<number> {
  const held = loader.heldOut as DataLoader
  const losses: number[] = []
  for (let sample = 0; sample < held.samples; sample += 1) {
    const { batch } = await held.gather([sample])
    for (const level of [0.2, 0.5, 0.8]) {
      const sigma = Tensor.full(level, [1])
      const { metrics } = await evaluation.step(model, batch, { sigma, seed: sample, grad: false })
      losses.push(metrics.unweightedLoss)
    }
  }
  return losses.reduce((sum, loss) => sum + loss) / losses.length
}

const before = await heldOutLoss()
for (let { step } = schedule.stateDict(); step < steps; step += 1) {
  const gradients = new Gradients()
  let sum = 0
  for (let micro = 0; micro < accumulation; micro += 1) {
    const batch: Batch = await loader.batch(step * accumulation + micro)
    const { loss, metrics } = await pipeline.step(model, batch, { seed, step, first: micro * loader.batchSize })
    await loss.backward({ gradients, scale: 1 / accumulation })
    sum += metrics.loss
  }
  const gradNorm = await clipGradNorm(gradients, 1)
  await optimizer.step(gradients, { lr: schedule.lr })
  console.log(`step ${step + 1}  loss ${(sum / accumulation).toFixed(3)}  gradient norm ${gradNorm.toFixed(2)}`)
  schedule.step()
}
console.log(`held-out loss ${before.toFixed(4)} → ${(await heldOutLoss()).toFixed(4)}`)

const weights = Object.fromEntries(parameters.map((parameter) => [parameter.name, parameter.tensor]))
const state = { ...weights, ...optimizer.stateDict() }
await saveSafetensors(checkpoint, state, { schedule: JSON.stringify(schedule.stateDict()) })
console.log(await model.saveLora(join(out, 'lora')))

// An image with the trained model.
const textEncoder = await TextEncoder.load(embedded.model)
const latents = await model.sample({
  textEmbeddings: await textEncoder.encode('red heart'),
  negativeTextEmbeddings: await textEncoder.encode(''),
  initialLatents: Tensor.randn([1, 128, 4, 4], { seed }),
  guidanceScale: 3,
})
const vae = await AutoencoderKLFlux2.load(embedded.model)
await savePng(await vae.decodeLatents(latents), join(out, 'red-heart.png'))
console.log(join(out, 'red-heart.png'))
