import { Command, Option } from 'commander'
import type { LoraFormat } from '../types'
import { exportLora } from '../work'
import { interruptible } from './interrupt'
import type { CommonOptions } from './options'
import { Output } from './output'
import { createProgress } from './progress'

interface ExportCliOptions extends CommonOptions {
  format: LoraFormat
  out: string
}

export function exportCommand(): Command {
  const formats = new Option('--format <name>', 'whose names it gets').choices(['diffusers', 'comfyui', 'kohya'])
  return new Command('export')
    .description("write a LoRA in another program's format, and check that it does the same")
    .argument('<run-or-lora>', 'run folder, LoRA folder or file, in any of the formats')
    .addOption(formats.makeOptionMandatory())
    .requiredOption('--out <file.safetensors>', 'the file to write; must not exist')
    .option('--json', 'one JSON document on stdout')
    .addHelpText(
      'after',
      `
Examples:
  flowtune export runs/my-dog --format comfyui --out ComfyUI/models/loras/my-dog.safetensors
  flowtune export from-kohya.safetensors --format diffusers --out my-lora.safetensors`,
    )
    .action(async (lora: string, { json, format, out }: ExportCliOptions) => {
      const output = new Output(json ?? false)
      const progress = createProgress(output)
      const summary = await interruptible(output, (signal) =>
        exportLora({ lora, format, out }, { signal, onEvent: (event) => progress.show(event) }),
      ).finally(() => progress.stop())
      output.document(summary)
      output.line(`${summary.adapters} adapters in ${summary.path}, read again and the same in effect`)
    })
}
