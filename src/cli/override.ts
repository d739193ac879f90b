import { dirname, join, resolve } from 'node:path'
import type { Recipe } from '../types'

/** What the command line may say instead of the recipe. */
export interface Overrides {
  /** The run folder. */
  output?: string
  /** Optimizer steps. */
  steps?: number
}

/** A resolved recipe with some of it said otherwise; a cache that lies beside the run folder by default moves along. */
export function override(recipe: Recipe, { output, steps }: Overrides): Recipe {
  const { data, train, output: place } = recipe
  const dir = output ? resolve(output) : place?.dir
  const isDefault = place?.dir !== undefined && data.cacheDir === cacheBeside(place.dir)
  return {
    ...recipe,
    data: { ...data, ...(dir && isDefault && { cacheDir: cacheBeside(dir) }) },
    train: { ...train, ...(steps && { steps }) },
    output: { ...place, dir },
  }
}

function cacheBeside(dir: string): string {
  return join(dirname(dir), '.cache')
}
