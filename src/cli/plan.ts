import { Command } from 'commander'
import { loadRecipe } from '../recipe'
import type { DiskPlan, MemoryPhase, MemoryPlan, Plan, PlanSetting, PlanSwitch, TimePlan } from '../types'
import { plan } from '../work'
import { type CommonOptions, positive } from './options'
import { Output } from './output'

interface PlanCliOptions extends CommonOptions {
  memory?: number
}

export function planCommand(): Command {
  return new Command('plan')
    .description('say what a run takes: memory, disk, time, and what to switch where it does not fit')
    .argument('<recipe>', 'recipe file (YAML)')
    .option('--memory <gigabytes>', 'what the run may take, instead of what this machine has available', positive)
    .option('--json', 'one JSON document on stdout')
    .addHelpText(
      'after',
      `
Reads headers and configurations of the model's files, no weights. Times are of this machine, as busy as it is now.

Examples:
  flowtune plan recipe.yaml
  flowtune plan recipe.yaml --memory 16
  flowtune plan recipe.yaml --json | jq .memory.peak`,
    )
    .action(async (path: string, { json, memory }: PlanCliOptions) => {
      const output = new Output(json ?? false)
      const planned = await plan(await loadRecipe(path), { memory })
      output.document(planned)
      for (const line of lines(planned)) output.line(line)
    })
}

function lines({ memory, disk, time, switches, recommended, notes }: Plan): string[] {
  return [
    ...memoryLines(memory),
    '',
    ...diskLines(disk),
    ...(time ? ['', ...timeLines(time)] : []),
    ...(switches.length > 0 ? ['', ...switchLines(switches, recommended)] : []),
    ...notes.flatMap((note) => ['', ...wrapped(note)]),
  ]
}

const PHASES = { encode: 'encoding', train: 'training', sample: 'sample images' }

const COMPONENTS = {
  process: 'Node and addon',
  textEncoder: 'text encoder',
  vae: 'VAE',
  transformer: 'transformer',
  lora: 'LoRA',
  optimizer: 'optimizer',
  data: 'data',
  gradients: 'gradients',
  activations: 'activations',
  work: 'work buffers',
}

/** Columns of the longest bar. */
const BAR = 40

function memoryLines({ peak, phase, limit, fits, phases }: MemoryPlan): string[] {
  const verdict = limit === null ? '' : `, ${fits ? 'within' : 'MORE THAN'} the ${gigabytes(limit)} that it may take`
  const largest = Math.max(...phases.map((each) => each.peak))
  return [
    `memory: ${gigabytes(peak)} at most, ${phase === 'encode' ? 'while encoding' : `for ${PHASES[phase]}`}${verdict}`,
    ...phases.flatMap((each) => ['', ...phaseLines(each, largest)]),
  ]
}

function phaseLines({ name, needed, peak, components }: MemoryPhase, largest: number): string[] {
  const rows = components.map(({ component, bytes }) => {
    const bar = '█'.repeat(Math.round((bytes / largest) * BAR)) || '▏'
    return `    ${COMPONENTS[component].padEnd(15)} ${gigabytes(bytes).padStart(9)}  ${bar}`
  })
  return [
    `  ${PHASES[name].padEnd(17)} ${gigabytes(peak).padStart(9)}${needed ? '' : '  if the cache lacks something'}`,
    ...rows,
  ]
}

function diskLines({ cache, cacheFree, checkpoint, checkpoints, result, outputFree }: DiskPlan): string[] {
  const free = (bytes: number | null) => (bytes === null ? '' : `, ${gigabytes(bytes)} free there`)
  return [
    `disk: cache        ${cache === null ? 'unknown' : gigabytes(cache)}${free(cacheFree)}`,
    `      checkpoints  ${gigabytes(checkpoint)} each, ${checkpoints} kept${free(outputFree)}`,
    `      result       ${gigabytes(result)}`,
  ]
}

function timeLines({
  step,
  training,
  encoding,
  evaluation,
  sampling,
  total,
  stepOperations,
  rate,
}: TimePlan): string[] {
  const parts = { encoding, training, evaluation, 'sample images': sampling }
  const shown = Object.entries(parts).filter(([, seconds]) => seconds > 0)
  return [
    `time: about ${duration(step)} a step: ${(stepOperations / 1e12).toPrecision(3)} TFLOP at ${(rate / 1e12).toPrecision(2)} TFLOP/s`,
    `      about ${duration(total)} in all: ${shown.map(([name, seconds]) => `${name} ${duration(seconds)}`).join(', ')}`,
  ]
}

function switchLines(switches: PlanSwitch[], recommended: PlanSwitch | null): string[] {
  const cells = switches.map(({ settings, peak, time, fits }) => [
    settings.map(words).join(', '),
    gigabytes(peak),
    `${time.toFixed(2)} ×`,
    fits ? 'fits' : '',
  ])
  const width = Math.max(...cells.map(([what]) => what?.length ?? 0), 'each by itself'.length)
  const row = ([what = '', peak = '', time = '', fits = '']: string[]) =>
    `  ${what.padEnd(width)}  ${peak.padStart(9)}  ${time.padStart(7)}  ${fits}`.trimEnd()
  const advice = recommended
    ? [
        `recommended, ${gigabytes(recommended.peak)} and ${recommended.time.toFixed(2)} × the time:`,
        '',
        ...recipeLines(recommended.settings),
      ]
    : ['No combination of these fits: take a smaller model, or a machine with more memory.']
  return [
    `  ${'each by itself'.padEnd(width)}  ${'memory'.padStart(9)}  ${'time'.padStart(7)}`,
    ...cells.map(row),
    '',
    ...advice,
  ]
}

function words({ key, value }: PlanSetting): string {
  return value === null ? `no ${key}` : `${key}: ${value}`
}

/** As they stand in a recipe: keys of a section under its name. */
function recipeLines(settings: PlanSetting[]): string[] {
  const lines: string[] = []
  let open = ''
  for (const { key, value } of [...settings].sort((a, b) => a.key.localeCompare(b.key))) {
    const [section = '', name] = key.split('.')
    if (name && section !== open) lines.push(`  ${section}:`)
    open = name ? section : ''
    const line = value === null ? `# without ${name ?? section}` : `${name ?? section}: ${value}`
    lines.push(name ? `    ${line}` : `  ${line}`)
  }
  return lines
}

function wrapped(text: string): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + word.length < 80) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}

/** 12.3 GB, of 10⁹ bytes; smaller amounts in MB. */
function gigabytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`
}

function duration(seconds: number): string {
  if (seconds < 1) return `${rounded(seconds * 1000)} ms`
  if (seconds < 90) return `${rounded(seconds)} s`
  if (seconds < 5400) return `${rounded(seconds / 60)} min`
  return `${rounded(seconds / 3600)} h`
}

/** Two digits, for what is about so. */
function rounded(value: number): string {
  return String(Number(value.toPrecision(2)))
}
