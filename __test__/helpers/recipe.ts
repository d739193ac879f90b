import { join } from 'node:path'
import type { Recipe } from '../../src/index'
import { heldOutImages, images, pipeline } from './paths'

/** Trains the random pipeline for `steps` steps; a step takes a fraction of a second. */
export function tinyRecipe(folder: string, steps: number): Recipe {
  return {
    model: { path: pipeline },
    data: { train: images, heldOut: heldOutImages, resolution: 64, cacheDir: join(folder, 'cache') },
    lora: { rank: 4, alpha: 4 },
    optimizer: { type: 'adamw', lr: 1e-3 },
    lrSchedule: { type: 'constant', warmupSteps: 0 },
    train: { steps, batchSize: 2, seed: 7 },
    checkpoint: { everySteps: 5, keep: 2 },
    validation: { prompts: [], sigmas: [0.5] },
    output: { dir: join(folder, 'run') },
  }
}
