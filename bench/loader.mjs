// How long a step waits for its batch: `npm run bench -- loader`.
//
// Nothing stays in memory here that the loader does not keep itself; the embedded model's steps are the shortest there
// are, so that a loader which starves a step would show.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AdamW, createPipeline, DataLoader, Flux2Transformer } from '../dist/index.js'

const STEPS = 40
const root = join(import.meta.dirname, '..')
const model = join(root, 'models', 'flux2-tiny')
const photos = join(root, '__test__', 'fixtures', 'photos')
const train = { path: photos, masks: join(photos, 'masks'), references: join(photos, 'sketches') }

const cacheDir = mkdtempSync(join(tmpdir(), 'flowtune-loader-'))
try {
  const options = { model, train, resolution: [64, 96], cacheDir, textTokens: 64, batchSize: 4, seed: 1 }
  const loader = await DataLoader.open(options)
  const transformer = await Flux2Transformer.load(model)
  const optimizer = new AdamW(await transformer.addLora({ rank: 16 }), { lr: 1e-4 })
  const pipeline = createPipeline('flux2', { useGuidanceEmbeds: false }, {})
  const waits = []
  const steps = []
  for (let step = 0; step < STEPS; step += 1) {
    const start = performance.now()
    const batch = await loader.batch(step)
    const loaded = performance.now()
    const { loss } = await pipeline.step(transformer, batch, { seed: 1, step })
    await optimizer.step(await loss.backward())
    waits.push(loaded - start)
    steps.push(performance.now() - loaded)
  }
  const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1]
  const [wait, work] = [median(waits), median(steps)]
  console.log(
    `wait for a batch ${wait.toFixed(2)} ms, step ${work.toFixed(0)} ms: ${((100 * wait) / work).toFixed(2)} %`,
  )
  console.log(`longest wait after the first ${Math.max(...waits.slice(1)).toFixed(2)} ms`)
} finally {
  rmSync(cacheDir, { recursive: true, force: true })
}
