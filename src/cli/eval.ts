import { statSync } from 'node:fs'
import { Command } from 'commander'
import { loadRecipe } from '../recipe'
import { evaluate } from '../work'
import { interruptible } from './interrupt'
import type { CommonOptions } from './options'
import { Output } from './output'
import { createProgress } from './progress'

export function evalCommand(): Command {
  return new Command('eval')
    .description("held-out loss at fixed noise levels: of a recipe's model, or of a run's trained weights")
    .argument('<recipe-or-run>', 'recipe file (YAML) or run folder')
    .option('--json', 'one JSON document on stdout')
    .addHelpText('after', '\nExamples:\n  flowtune eval recipe.yaml\n  flowtune eval runs/quickstart')
    .action(async (path: string, options: CommonOptions) => {
      const output = new Output(options.json ?? false)
      const progress = createProgress(output)
      const isRun = statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
      const target = isRun ? { runDir: path } : await loadRecipe(path)
      const summary = await interruptible(output, (signal) =>
        evaluate(target, { signal, onEvent: (event) => progress.show(event) }),
      ).finally(() => progress.stop())
      output.document(summary)
      output.line(`held-out loss ${summary.loss.toFixed(5)} over ${summary.images} images`)
      for (const { sigma, loss } of summary.perSigma) output.line(`  sigma ${sigma.toFixed(2)}  ${loss.toFixed(5)}`)
    })
}
