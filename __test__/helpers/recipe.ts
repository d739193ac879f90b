import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Recipe } from '../../src/index'
import { images, pipeline } from './paths'

/** Copies `count` captioned images, from number `first` on, into a new folder. */
export function copyImages(folder: string, first: number, count: number): string {
  mkdirSync(folder, { recursive: true })
  for (let i = first; i < first + count; i += 1) {
    const name = String(i).padStart(4, '0')
    for (const file of [`${name}.png`, `${name}.txt`]) copyFileSync(join(images, file), join(folder, file))
  }
  return folder
}

/** Trains the random pipeline on a few small images; a step takes some hundredths of a second. */
export function tinyRecipe(folder: string, steps: number) {
  return {
    model: { path: pipeline },
    data: {
      train: copyImages(join(folder, 'images'), 0, 6),
      heldOut: copyImages(join(folder, 'held-out'), 6, 2),
      resolution: 32,
      textTokens: 32,
      cacheDir: join(folder, 'cache'),
    },
    lora: { rank: 4, alpha: 4 },
    flowMatching: { captionDropout: 0.2 },
    optimizer: { lr: 1e-2 },
    lrSchedule: { warmupSteps: Math.min(3, steps - 1) },
    train: { steps, batchSize: 2, gradientAccumulation: 2, seed: 7 },
    checkpoint: { everySteps: 4, keep: 10 },
    validation: { prompts: ['red heart'], everySteps: 5, sigmas: [0.3, 0.7], sampleSteps: 2 },
    output: { dir: join(folder, 'run') },
  } satisfies Recipe
}

/** Writes a recipe as a file; JSON is YAML. */
export function recipeFile(folder: string, recipe: object): string {
  const path = join(folder, 'recipe.yaml')
  writeFileSync(path, JSON.stringify(recipe, null, 2))
  return path
}
