// A sampler by hand: Heun's method, two predictions a step, from the model's forward pass and tensor arithmetic.
//
//   npx tsx examples/image-sampler.ts [folder]

import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { AutoencoderKLFlux2, eulerSigmas, Flux2Adapter, Flux2Transformer, savePng, Tensor, TextEncoder } from 'flowtune'
import { embedded, outputFolder } from './paths'

const model = await Flux2Transformer.load(embedded.model)
const textEncoder = await TextEncoder.load(embedded.model)
const adapter = new Flux2Adapter({ useGuidanceEmbeds: model.config.guidance_embeds })
const [height, width, steps, guidance] = [4, 4, 12, 3]

const [positive, negative] = [await textEncoder.encode('dog face'), await textEncoder.encode('')]
const imgIds = adapter.prepareLatentIds(height, width, 1)
const txtIds = adapter.prepareTextIds(positive.shape[1] ?? 0, 1)

/** Velocity at x, σ, guided away from the empty prompt: `[1, tokens, 128]`. */
async function velocity(x: Tensor<3>, sigma: number): Promise<Tensor<3>> {
  const predict = (encoderHiddenStates: Tensor<3>) =>
    model.forward(
      { hiddenStates: x, encoderHiddenStates, timestep: Tensor.full(sigma, [1]), imgIds, txtIds },
      { grad: false },
    )
  const [towards, away] = [await predict(positive), await predict(negative)]
  return away.add(towards.sub(away).mul(guidance))
}

const sigmas = eulerSigmas(height * width, steps)
let x = adapter.packLatents(Tensor.randn([1, 128, height, width], { seed: 5 }))
for (let i = 0; i < steps; i += 1) {
  const [sigma, next] = [sigmas[i] as number, sigmas[i + 1] as number]
  const slope = await velocity(x, sigma)
  const euler = x.add(slope.mul(next - sigma))
  // The last step ends at σ = 0, where the model was not trained.
  x = next === 0 ? euler : x.add(slope.add(await velocity(euler, next)).mul((next - sigma) / 2))
  console.log(`step ${i + 1} of ${steps}: σ ${sigma.toFixed(3)} → ${next.toFixed(3)}`)
}

const out = outputFolder('image-sampler')
await mkdir(out, { recursive: true })
const vae = await AutoencoderKLFlux2.load(embedded.model)
await savePng(await vae.decodeLatents(adapter.unpackLatents(x, height, width)), join(out, 'dog-face.png'))
console.log(join(out, 'dog-face.png'))
