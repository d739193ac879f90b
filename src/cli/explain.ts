import { existsSync, writeFileSync } from 'node:fs'
import { Command } from 'commander'
import { loadRecipe } from '../recipe'
import type { Explanation, ModuleGroup, SigmaBucket } from '../types'
import { explain } from '../work'
import { UsageError } from './exit'
import type { CommonOptions } from './options'
import { Output } from './output'

interface ExplainOptions extends CommonOptions {
  svg?: string
}

export function explainCommand(): Command {
  return new Command('explain')
    .description('say what a recipe means: noise levels, shift, weighting, what trains; nothing is loaded')
    .argument('<recipe>', 'recipe file (YAML)')
    .option('--svg <file>', 'also draw the noise levels; the file must not exist')
    .option('--json', 'one JSON document on stdout')
    .addHelpText('after', '\nExamples:\n  flowtune explain recipe.yaml\n  flowtune explain recipe.yaml --svg sigma.svg')
    .action(async (path: string, options: ExplainOptions) => {
      const output = new Output(options.json ?? false)
      if (options.svg && existsSync(options.svg)) {
        throw new UsageError(`${options.svg} exists already; give another name, or move it away`)
      }
      const { svg, ...explanation } = await explain(await loadRecipe(path))
      if (options.svg) writeFileSync(options.svg, svg, { flag: 'wx' })
      output.document(explanation)
      for (const line of lines({ ...explanation, svg })) output.line(line)
      if (options.svg) output.line(`\n${options.svg}`)
    })
}

function lines(explanation: Explanation): string[] {
  return [
    ...explanation.buckets.flatMap(densityLines),
    '',
    ...samplingLines(explanation),
    '',
    // Where σ is drawn without a shift, a table of shifts would mislead.
    ...(explanation.buckets.some(({ shift }) => shift !== null) ? [...shiftLines(explanation), ''] : []),
    ...trainingLines(explanation),
  ]
}

const BLOCKS = ' ▁▂▃▄▅▆▇█'
/** Lines of a plot. */
const HEIGHT = 6

/** The density as columns of blocks, one column a bin. */
function densityLines({ width, height, tokens, shift, density, mean, quantiles }: SigmaBucket): string[] {
  const top = Math.max(...density)
  const rows = Array.from({ length: HEIGHT }, (_, i) => {
    const floor = HEIGHT - 1 - i
    const cell = (value: number) => {
      const eighths = Math.round(Math.min(Math.max((value / top) * HEIGHT - floor, 0), 1) * 8)
      return BLOCKS[eighths] ?? ' '
    }
    return `  │${density.map(cell).join('')}│`
  })
  const [low, middle, high] = quantiles.map((sigma) => sigma.toFixed(2))
  return [
    `σ at ${width}×${height} pixels, ${tokens} tokens, ${shift === null ? 'no shift' : `shift ${shift.toFixed(3)}`}`,
    ...rows,
    `  └${'─'.repeat(density.length)}┘`,
    `  0 image${' '.repeat(density.length - 14)}noise 1`,
    `  mean ${mean.toFixed(3)}; a tenth below ${low}, half below ${middle}, nine tenths below ${high}`,
  ]
}

function samplingLines(explanation: Explanation): string[] {
  const { lossWeighting, weights, guidance, captionDropout, captionDropoutMode } = explanation
  const sampling = explanation.useSigmaNoise ? explanation.timestepSampling : 'uniform, without shift'
  const points = [0, (weights.length - 1) / 2, weights.length - 1].flatMap((i) => {
    const [sigma, weight] = weights[i] ?? []
    return sigma === undefined || weight === undefined ? [] : [`${weight.toFixed(2)} at σ ${sigma}`]
  })
  const range = lossWeighting === 'none' ? '' : ` (${points.join(', ')})`
  const standIn = captionDropoutMode === 'zero' ? 'zeros' : 'the empty prompt'
  return [
    `timestep sampling  ${sampling}`,
    `loss weighting     ${lossWeighting}${range}`,
    `guidance           ${guidance === null ? 'none: this model has no guidance embedding' : guidance}`,
    `caption dropout    ${captionDropout} (${standIn})`,
  ]
}

function shiftLines({ flowShift, shifts, buckets }: Explanation): string[] {
  const own = new Set(buckets.map(({ tokens }) => tokens))
  const rows = shifts.map(({ resolution, tokens, mu, shift }) => {
    const cells = [`${resolution}²`.padStart(7), String(tokens).padStart(7), (mu?.toFixed(3) ?? '–').padStart(8)]
    return `${cells.join('')}${shift.toFixed(3).padStart(8)}${own.has(tokens) ? '  this recipe' : ''}`
  })
  return [`flow shift: ${flowShift}`, ' pixels tokens      μ   shift', ...rows]
}

function trainingLines(explanation: Explanation): string[] {
  const { mode, modules, trainableParameters, totalParameters, steps, samplesPerStep, images } = explanation
  const share = ((100 * trainableParameters) / totalParameters).toFixed(2)
  const samples = steps * samplesPerStep
  const epochs = images ? `, ${(samples / images).toFixed(1)} times each of ${images} images` : ''
  const cells = modules.map(({ name, count, shape, parameters }: ModuleGroup) => {
    return [`${count}×`, name, shape.join('×'), grouped(parameters)]
  })
  const widths = [0, 1, 2, 3].map((column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)))
  // The name stands left, numbers stand right.
  const cell = (text: string, column: number) =>
    column === 1 ? text.padEnd(widths[column] ?? 0) : text.padStart(widths[column] ?? 0)
  return [
    `${steps} steps of ${samplesPerStep} samples: ${grouped(samples)} samples${epochs}`,
    `trains ${grouped(trainableParameters)} parameters (${mode}), ${share} % of the transformer's ${grouped(totalParameters)}`,
    ...cells.map((row) => `  ${row.map(cell).join(' ')}`),
  ]
}

/** 1234567 → 1,234,567. */
function grouped(count: number): string {
  return count.toLocaleString('en-US')
}
