import { Command } from 'commander'
import type { ComputeDtype, Quantization } from '../recipe-types'
import { sample } from '../work'
import { UsageError } from './exit'
import { interruptible } from './interrupt'
import { type CommonOptions, collected, decimal, dtypeOption, integer, quantizationOption } from './options'
import { Output } from './output'
import { createProgress } from './progress'

interface SampleCliOptions extends CommonOptions {
  model: string
  transformer?: string
  lora?: string
  prompt: string
  negative?: string
  reference?: string[]
  size?: number
  width?: number
  height?: number
  steps?: number
  guidance?: number
  seed?: number
  dtype: ComputeDtype
  quantization: Quantization
  out: string
  dump?: string
}

export function sampleCommand(): Command {
  return new Command('sample')
    .description('make an image from a prompt')
    .requiredOption('--model <dir-or-id>', 'model folder in diffusers layout, or OWNER/NAME on a hub')
    .option('--transformer <path>', 'another transformer for it: a folder, a safetensors or a GGUF file')
    .requiredOption('--prompt <text>', 'what to draw')
    .requiredOption('--out <file.png>', 'the image to write; must not exist')
    .option('--lora <path>', 'LoRA file or folder to apply')
    .option('--negative <text>', 'what to steer away from')
    .option('--reference <image>', 'an image to make it from; may be given again, for the next', collected)
    .option('--size <pixels>', 'width and height, a multiple of 16', integer(16))
    .option('--width <pixels>', 'width, a multiple of 16', integer(16))
    .option('--height <pixels>', 'height, a multiple of 16', integer(16))
    .option('--steps <n>', 'Euler steps', integer(1))
    .option('--guidance <scale>', 'classifier-free guidance; 1 switches it off', decimal)
    .option('--seed <n>', 'seed of the initial noise', integer(0))
    .addOption(dtypeOption('type of the transformer and of its weights'))
    .addOption(quantizationOption("what the transformer's weights are kept in instead"))
    .option('--dump <file.safetensors>', 'also write embeddings, initial latents and the image as tensors')
    .option('--json', 'one JSON document on stdout')
    .addHelpText(
      'after',
      `
Examples:
  flowtune sample --model models/flux2-tiny --prompt "red heart" --size 64 --out heart.png
  flowtune sample --model flux2-klein-base-4b --lora runs/mine/lora --prompt "my cat" --width 768 --height 512 --out cat.png
  flowtune sample --model flux2-klein-base-4B --reference cat.png --reference hat.png --prompt "the cat of image 1 in the hat of image 2" --size 768 --out both.png`,
    )
    .action(async (options: SampleCliOptions) => {
      const output = new Output(options.json ?? false)
      const progress = createProgress(output)
      const { negative, reference, guidance, size, json, ...rest } = options
      const renamed = { negativePrompt: negative, references: reference, guidanceScale: guidance }
      const request = { ...rest, ...dimensions(options), ...renamed }
      const summary = await interruptible(output, (signal) =>
        sample(request, { signal, onEvent: (event) => progress.show(event) }),
      ).finally(() => progress.stop())
      output.document(summary)
      output.line(summary.path)
      if (summary.dump) output.line(summary.dump)
    })
}

function dimensions({ size, width = size, height = size }: SampleCliOptions): { width: number; height: number } {
  if (width === undefined || height === undefined) throw new UsageError('sample needs --size, or --width and --height')
  for (const pixels of [width, height]) {
    if (pixels % 16 !== 0) throw new UsageError(`${pixels} pixels: width and height are multiples of 16`)
  }
  return { width, height }
}
