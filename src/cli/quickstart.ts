import { join } from 'node:path'
import { Command } from 'commander'
import { packageRoot } from '../package-root'
import { loadRecipe } from '../recipe'
import type { Recipe } from '../types'
import { type CommonOptions, integer } from './options'
import { Output } from './output'
import { override } from './override'
import { describeSummary } from './summary'
import { runTraining } from './train'

interface QuickstartOptions extends CommonOptions {
  out?: string
  steps?: number
}

export function quickstartCommand(): Command {
  return new Command('quickstart')
    .description('fine-tune the embedded tiny FLUX.2 on the embedded images, on the CPU, in about two minutes')
    .option(
      '--out <dir>',
      'run folder; one that holds something gets a numbered one beside it (default: runs/quickstart)',
    )
    .option('--steps <n>', 'optimizer steps, fewer for a quick look', integer(1))
    .option('--json', 'events as JSON lines on stdout')
    .addHelpText('after', '\nExample:\n  flowtune quickstart --out my-first-run')
    .action(async (options: QuickstartOptions) => {
      const output = new Output(options.json ?? false)
      const recipe = quickstartRecipe(await loadRecipe(join(packageRoot(), 'recipes', 'quickstart.yaml')), options)
      output.line(`Fine-tuning ${recipe.model.path} with the images in ${recipe.data.train}`)
      const summary = await runTraining(recipe, undefined, output)
      for (const line of describeSummary(summary)) output.line(line)
    })
}

function quickstartRecipe(recipe: Recipe, { out = join('runs', 'quickstart'), steps }: QuickstartOptions): Recipe {
  const { warmupSteps = 0, ...lrSchedule } = recipe.lrSchedule ?? {}
  return {
    ...override(recipe, { output: out, steps }),
    lrSchedule: { ...lrSchedule, warmupSteps: Math.min(warmupSteps, (steps ?? recipe.train.steps) - 1) },
  }
}
