// Prints the resident memory, in MiB, at four points of a piece of work; run with --expose-gc.

import { Tensor } from '../../dist/index.js'
import { trainLoop } from './loop.mjs'

/** What a step of a small run makes: latents, noise, x_t, target, σ, weights, embeddings; 10,000 times. */
async function tensors(dispose) {
  for (let step = 0; step < 10_000; step += 1) {
    const shapes = [[1, 128, 8, 8], [1, 128, 8, 8], [1, 128, 8, 8], [1, 64, 128], [1, 16, 128], [1], [1]]
    const made = shapes.map((shape) => Tensor.zeros(shape))
    made.push(made[0].add(made[1]), made[2].square(), made[3].mean())
    if (dispose) for (const tensor of made) tensor.dispose()
    await pause(step, 10_000)
  }
}

/** Large tensors that nobody disposes of: V8 must know of their memory to collect them in time. */
async function large() {
  for (let step = 0; step < 400; step += 1) {
    Tensor.full(1, [1 << 20])
    await pause(step, 400)
  }
}

const resident = []

async function pause(step, steps) {
  if (step % 20 === 0) await new Promise((resolve) => setImmediate(resolve))
  if ((step + 1) % (steps / 4) !== 0) return
  if (process.argv[2] !== 'large') globalThis.gc?.()
  await new Promise((resolve) => setTimeout(resolve, 20))
  resident.push(process.memoryUsage.rss() / 2 ** 20)
}

const train = (steps, load) => trainLoop({ steps, seed: 1, load, onStep: (step) => pause(step, steps) })

const work = {
  dispose: () => tensors(true),
  collect: () => tensors(false),
  train: () => train(400),
  bfloat16: () => train(400, { dtype: 'bfloat16' }),
  int8: () => train(400, { dtype: 'bfloat16', quantization: 'int8' }),
  large,
}
await work[process.argv[2]]()
process.stdout.write(JSON.stringify(resident))
