import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { FlowtuneError } from '../errors'
import { loadRecipe } from '../recipe'
import type { Recipe, TrainSummary } from '../types'
import { train } from '../work'
import { UsageError } from './exit'
import { interruptible } from './interrupt'
import { type CommonOptions, integer } from './options'
import { Output } from './output'
import { override } from './override'
import { createProgress } from './progress'
import { describeSummary } from './summary'

interface TrainCliOptions extends CommonOptions {
  resume?: string
  output?: string
  steps?: number
}

export function trainCommand(): Command {
  return new Command('train')
    .description('fine-tune a model as a recipe says')
    .argument('[recipe]', 'recipe file (YAML); none with --resume: the run folder has its own')
    .option('--resume <run-dir>', 'continue a run folder from its last checkpoint')
    .option('--output <dir>', "run folder, instead of the recipe's output.dir")
    .option('--steps <n>', "optimizer steps, instead of the recipe's train.steps", integer(1))
    .option('--json', 'events as JSON lines on stdout')
    .addHelpText(
      'after',
      `
Ctrl+C once finishes the step and saves a checkpoint; twice stops at once.

Examples:
  flowtune train recipe.yaml
  flowtune train recipe.yaml --output runs/try-2 --steps 500
  flowtune train --resume runs/try-2`,
    )
    .action(async (path: string | undefined, options: TrainCliOptions) => {
      checkResume(path, options)
      const output = new Output(options.json ?? false)
      const recipe = override(await loadRecipe(recipePath(path, options.resume)), options)
      const summary = await runTraining(recipe, options.resume, output)
      for (const line of describeSummary(summary)) output.line(line)
    })
}

/** Trains with progress on the terminal, until the end or Ctrl+C. */
export async function runTraining(recipe: Recipe, resume: string | undefined, output: Output): Promise<TrainSummary> {
  const progress = createProgress(output, 'all')
  let runDir = resume
  try {
    return await interruptible(output, async (signal) => {
      const run = await train(recipe, { signal, resume })
      for await (const event of run) {
        if (event.type === 'started') runDir = event.runDir
        progress.show(event)
      }
      return run.wait()
    })
  } catch (thrown) {
    const error = FlowtuneError.from(thrown)
    if (error.code === 'CANCELLED' && runDir) output.note(`to continue: flowtune train --resume ${runDir}`)
    throw error
  } finally {
    progress.stop()
  }
}

/** A resumed run keeps its folder and its recipe; being told another is a misunderstanding. */
function checkResume(path: string | undefined, { resume, output, steps }: TrainCliOptions): void {
  if (resume === undefined) return
  const other = path ?? (output && '--output') ?? (steps && '--steps')
  if (other)
    throw new UsageError(`--resume and ${other} exclude each other: a resumed run keeps its folder and its recipe`)
}

function recipePath(path: string | undefined, resume: string | undefined): string {
  if (path) return path
  if (!resume) throw new UsageError('train needs a recipe file, or --resume with a run folder')
  const own = join(resume, 'recipe.yaml')
  if (!existsSync(own)) throw new FlowtuneError('IO', `${resume}: no recipe.yaml here, so this is no run folder`)
  return own
}
