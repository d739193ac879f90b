import { Command } from 'commander'
import { loadRecipe } from '../recipe'
import { prepare } from '../work'
import { interruptible } from './interrupt'
import type { CommonOptions } from './options'
import { Output } from './output'
import { createProgress } from './progress'

export function prepareCommand(): Command {
  return new Command('prepare')
    .description('fill the cache of latents and text embeddings that training reads')
    .argument('<recipe>', 'recipe file (YAML)')
    .option('--json', 'one JSON document on stdout')
    .addHelpText('after', '\nExample:\n  flowtune prepare recipe.yaml')
    .action(async (path: string, options: CommonOptions) => {
      const output = new Output(options.json ?? false)
      const progress = createProgress(output)
      const recipe = await loadRecipe(path)
      const summary = await interruptible(output, (signal) =>
        prepare(recipe, { signal, onEvent: progress.show.bind(progress) }),
      ).finally(() => progress.stop())
      output.document(summary)
      output.line(`${summary.images} images and ${summary.captions} captions cached in ${summary.cacheDir}`)
      for (const file of summary.skipped) output.line(`skipped ${file}`)
    })
}
