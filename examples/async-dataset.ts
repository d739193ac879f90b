// A dataset from anywhere: an async generator of images and captions, encoded as they come. Here it reads a folder and
// adds a mirrored copy of each image; it might as well be a database or a download.
//
//   npx tsx examples/async-dataset.ts

import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  AdamW,
  AutoencoderKLFlux2,
  type CaptionedImage,
  createPipeline,
  DataLoader,
  Flux2Transformer,
  loadImage,
  Tensor,
  TextEncoder,
} from 'flowtune'
import { embedded } from './paths'

const side = 64

/** The image with its columns in reverse order: `[3, height, width]`. */
function mirrored(image: Tensor<3>): Tensor<3> {
  const columns = Array.from({ length: side }, (_, i) => image.narrow(2, side - 1 - i, 1))
  return Tensor.cat(columns, 2)
}

async function* captionedImages(folder: string): AsyncGenerator<CaptionedImage> {
  const files = (await readdir(folder)).filter((file) => file.endsWith('.png')).slice(0, 8)
  for (const file of files) {
    const caption = (await readFile(join(folder, file.replace('.png', '.txt')), 'utf8')).trim()
    const image = await loadImage(join(folder, file), { width: side, height: side })
    yield { image, caption }
    yield { image: mirrored(image), caption }
  }
}

const [vae, textEncoder, model] = await Promise.all([
  AutoencoderKLFlux2.load(embedded.model),
  TextEncoder.load(embedded.model),
  Flux2Transformer.load(embedded.model),
])
const pipeline = createPipeline('flux2', { useGuidanceEmbeds: model.config.guidance_embeds })
const optimizer = new AdamW(await model.addLora({ rank: 4 }), { lr: 2e-3 })
const batches = DataLoader.from(captionedImages(embedded.images), { vae, textEncoder, resolution: side, batchSize: 4 })
let step = 0
for await (const batch of batches) {
  const { loss, metrics } = await pipeline.step(model, batch, { seed: 3, step })
  await optimizer.step(await loss.backward())
  step += 1
  console.log(`step ${step}  ${batch.imageLatents.shape[0]} samples  loss ${metrics.loss.toFixed(3)}`)
}
