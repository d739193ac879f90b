import { Command } from 'commander'
import { stringify } from 'yaml'
import { inspect } from '../work'
import type { CommonOptions } from './options'
import { Output } from './output'

export function inspectCommand(): Command {
  return new Command('inspect')
    .description("say what a model folder, safetensors file, LoRA or run folder holds, or a hub's model in the cache")
    .argument('<path>', 'file or folder, or OWNER/NAME on a hub')
    .option('--json', 'one JSON document on stdout')
    .addHelpText('after', '\nExamples:\n  flowtune inspect models/flux2-tiny\n  flowtune inspect runs/quickstart/lora')
    .action((path: string, options: CommonOptions) => {
      const output = new Output(options.json ?? false)
      const found = inspect(path)
      output.document(found)
      output.line(stringify(found).trimEnd())
    })
}
