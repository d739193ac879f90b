import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Command } from 'commander'
import { packageRoot } from '../package-root'
import { loadRecipe } from '../recipe'
import { type CommonOptions, integer } from './options'
import { Output } from './output'
import { describeSummary } from './summary'
import { runTraining } from './train'

interface QuickstartOptions extends CommonOptions {
  out?: string
  steps?: number
}

export function quickstartCommand(): Command {
  return new Command('quickstart')
    .description('fine-tune the embedded tiny FLUX.2 on the embedded images, on the CPU, in about two minutes')
    .option('--out <dir>', 'run folder (default: runs/quickstart, or the next free name)')
    .option('--steps <n>', 'optimizer steps, fewer for a quick look', integer(1))
    .option('--json', 'events as JSON lines on stdout')
    .addHelpText('after', '\nExample:\n  flowtune quickstart --out my-first-run')
    .action(async (options: QuickstartOptions) => {
      const output = new Output(options.json ?? false)
      const recipe = await loadRecipe(join(packageRoot(), 'recipes', 'quickstart.yaml'))
      const dir = options.out ? resolve(options.out) : nextFree(resolve('runs', 'quickstart'))
      output.line(`Fine-tuning ${recipe.model.path} with the images in ${recipe.data.train}`)
      const summary = await runTraining(
        {
          ...recipe,
          train: { ...recipe.train, ...(options.steps && { steps: options.steps }) },
          output: { ...recipe.output, dir },
        },
        undefined,
        output,
      )
      for (const line of describeSummary(summary)) output.line(line)
    })
}

/** An earlier quickstart is not overwritten. */
function nextFree(path: string): string {
  let candidate = path
  for (let n = 2; existsSync(candidate); n += 1) candidate = `${path}-${n}`
  return candidate
}
