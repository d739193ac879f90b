import { Command, Option } from 'commander'
import type { ComputeDtype } from '../recipe-types'
import { mergeLora } from '../work'
import { interruptible } from './interrupt'
import type { CommonOptions } from './options'
import { Output } from './output'
import { createProgress } from './progress'

interface MergeCliOptions extends CommonOptions {
  model: string
  transformer?: string
  lora: string
  dtype: ComputeDtype
  out: string
}

export function mergeCommand(): Command {
  const dtypes = new Option('--dtype <type>', 'type of the weights that are written').choices(['float32', 'bfloat16'])
  return new Command('merge')
    .description('add a LoRA to the weights of its base')
    .requiredOption('--model <dir-or-id>', 'model folder in diffusers layout, or OWNER/NAME on a hub')
    .option('--transformer <path>', 'another transformer for it: a folder, a safetensors or a GGUF file')
    .requiredOption('--lora <path>', 'run folder, LoRA folder or file')
    .requiredOption('--out <dir>', "the transformer's folder to make, in diffusers layout; must not exist")
    .addOption(dtypes.default('bfloat16'))
    .option('--json', 'one JSON document on stdout')
    .addHelpText(
      'after',
      `
Examples:
  flowtune merge --model FLUX.2-klein-base-4B --lora runs/my-dog --out my-dog-transformer
  flowtune sample --model FLUX.2-klein-base-4B --transformer my-dog-transformer --prompt "my dog" --size 512 --out dog.png`,
    )
    .action(async ({ json, dtype, ...options }: MergeCliOptions) => {
      const output = new Output(json ?? false)
      const progress = createProgress(output)
      const summary = await interruptible(output, (signal) =>
        mergeLora({ ...options, weightsDtype: dtype }, { signal, onEvent: (event) => progress.show(event) }),
      ).finally(() => progress.stop())
      output.document(summary)
      output.line(`${summary.merged} of ${summary.weights} weights have an adapter; written to ${summary.path}`)
    })
}
