import { Command } from 'commander'
import { loadRecipe } from '../recipe'
import type { PrepareSummary } from '../types'
import { prepare } from '../work'
import { interruptible } from './interrupt'
import type { CommonOptions } from './options'
import { Output } from './output'
import { createProgress } from './progress'

/** Longest bar, in characters. */
const BAR = 30

function describePrepared({ images, captions, masks, references, buckets, cacheDir }: PrepareSummary): string[] {
  const extra = [masks > 0 ? `, ${masks} masks` : '', references > 0 ? `, ${references} reference images` : '']
  const most = Math.max(...buckets.map((bucket) => bucket.images))
  const rows = buckets.map(({ width, height, images }) => {
    const size = `${width}×${height}`.padStart(9)
    return `  ${size} ${String(images).padStart(6)} ${'█'.repeat(Math.ceil((BAR * images) / most))}`
  })
  return [...rows, `${images} images and ${captions} captions and prompts${extra.join('')} cached in ${cacheDir}`]
}

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
      for (const line of describePrepared(summary)) output.line(line)
      for (const file of summary.skipped) output.line(`skipped ${file}`)
    })
}
