// Whether the device that is in use computes what it should: what the reference stack computed, and a short training run.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageRoot } from '../package-root'
import { loadRecipe } from '../recipe'
import type { CaseReport, Recipe, RunEvent, TensorCheck } from '../types'
import { train, verify } from '../work'

/** How a selftest went. */
export interface SelftestReport {
  ok: boolean
  /** Against what PyTorch, diffusers and peft computed. */
  cases: CaseReport[]
  /** Held-out losses of a short run of the quickstart, against flowtune's own on the CPU. */
  training: LossCheck[]
  /** Of the run's steps. */
  secondsPerStep: number
}

/** A loss against what it should be; its error is the difference as a share of that. */
export interface LossCheck extends TensorCheck {
  value: number
  expected: number
}

/** Steps of the short run. */
const STEPS = 20

/**
 * The held-out loss of that run on the CPU in float32, and by what share of it another device may differ. The loss before is
 * a forward pass alone; AdamW's first steps go by the signs of the gradients, and so turn small differences into larger ones.
 */
const EXPECTED = [
  { name: 'held-out loss before', expected: 3.06479, bound: 1e-3 },
  { name: `held-out loss after ${STEPS} steps`, expected: 1.2579, bound: 2e-2 },
]

/** Runs it on the device in use. */
export async function selftest(options: {
  signal?: AbortSignal
  onEvent?: (event: RunEvent) => void
}): Promise<SelftestReport> {
  // In the package the smaller cases, in a checkout all of them.
  const folder = join(packageRoot(), '__test__', 'fixtures', 'parity', 'cases')
  const { cases, ok } = await verify(folder, options)
  const { losses, secondsPerStep } = await shortRun(options)
  const training = EXPECTED.map(({ name, expected, bound }, i) => {
    const value = losses[i] ?? Number.NaN
    const error = Math.abs(value - expected) / expected
    return { name, value, expected, error, bound, ok: error <= bound }
  })
  return { ok: ok && training.every((check) => check.ok), cases, training, secondsPerStep }
}

async function shortRun({ signal, onEvent }: { signal?: AbortSignal; onEvent?: (event: RunEvent) => void }) {
  const folder = mkdtempSync(join(tmpdir(), 'flowtune-selftest-'))
  try {
    const run = await train(await shortRecipe(folder), { signal, onEvent })
    const { evaluationBefore, evaluationAfter, trainingSeconds = 0, steps } = await run.wait()
    return { losses: [evaluationBefore, evaluationAfter], secondsPerStep: trainingSeconds / steps }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The quickstart without its sample images, in a folder that goes. */
async function shortRecipe(folder: string): Promise<Recipe> {
  const {
    validation: _,
    checkpoint: __,
    ...recipe
  } = await loadRecipe(join(packageRoot(), 'recipes', 'quickstart.yaml'))
  return {
    ...recipe,
    data: { ...recipe.data, cacheDir: join(folder, 'cache') },
    train: { ...recipe.train, steps: STEPS },
    output: { ...recipe.output, dir: join(folder, 'run') },
  }
}
