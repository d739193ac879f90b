import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import type { EvaluationEvent, RunEvent, StepEvent } from '../src/index'
import { type CliResult, cli } from './helpers/cli'
import { eventsOf } from './helpers/files'
import { temporaryFolder } from './helpers/paths'
import { recipeFile, tinyRecipe } from './helpers/recipe'

const STEPS = 20
/** When this step is done the signal is sent, and arrives in the middle of the next, far from the end. */
const SIGNAL_AFTER = 6

/** Long steps, between which a signal hardly falls; checkpoints after every fourth. */
function longSteps(folder: string) {
  const tiny = tinyRecipe(folder, STEPS)
  return { ...tiny, train: { ...tiny.train, gradientAccumulation: 6 } }
}

type Losses = Omit<StepEvent, 'secondsPerStep'> | EvaluationEvent

/** What a run computed, as it last said it, without times. */
function lossesOf(runDir: string): Losses[] {
  const last = new Map<string, Losses>()
  for (const event of eventsOf(runDir)) {
    if (event.type === 'evaluation') last.set(`evaluation ${event.step}`, event)
    if (event.type !== 'step') continue
    const { secondsPerStep: _, ...losses } = event
    last.set(`step ${event.step}`, losses)
  }
  return [...last.values()].sort((a, b) => a.type.localeCompare(b.type) || a.step - b.step)
}

/** The files that do not tell the time of day. */
function resultsOf(runDir: string): Record<string, Buffer> {
  const files = [
    'lora/pytorch_lora_weights.safetensors',
    'samples/step-000000-00.png',
    `samples/step-0000${STEPS}-00.png`,
    `checkpoints/step-${STEPS}/optimizer.safetensors`,
    `checkpoints/step-${STEPS}/weights.safetensors`,
  ]
  return Object.fromEntries(files.map((file) => [file, readFileSync(join(runDir, file))]))
}

/** Trains in a process of its own and sends it `signal` in the middle of a step. */
function interrupted(recipe: string, runDir: string, signal: NodeJS.Signals): Promise<CliResult> {
  return cli(['train', recipe, '--output', runDir, '--json'], {
    onLine(line, kill) {
      const event = JSON.parse(line) as RunEvent
      if (event.type === 'step' && event.step === SIGNAL_AFTER) kill(signal)
    },
  })
}

async function resume(runDir: string): Promise<void> {
  const { status, stdout, stderr } = await cli(['train', '--resume', runDir])
  expect({ status, stdout }).toEqual({ status: 0, stdout: expect.stringContaining(`trained ${STEPS} steps`) })
  expect(stderr).not.toContain('warning')
}

it('a run that was stopped or killed ends like one that was not, byte for byte', async () => {
  const folder = temporaryFolder()
  const recipe = recipeFile(folder, longSteps(folder))
  const [whole, stopped, killed] = ['whole', 'stopped', 'killed'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ]
  expect((await cli(['train', recipe, '--output', whole])).status).toBe(0)
  expect(lossesOf(whole).filter(({ type }) => type === 'step')).toHaveLength(STEPS)

  expect(await interrupted(recipe, stopped, 'SIGINT')).toMatchObject({ status: 130, signal: null })
  const last = eventsOf(stopped).at(-1)
  expect(last).toMatchObject({ type: 'checkpoint' })
  expect(existsSync(join(stopped, 'lora'))).toBe(false)
  await resume(stopped)

  expect(await interrupted(recipe, killed, 'SIGKILL')).toMatchObject({ status: null, signal: 'SIGKILL' })
  expect(eventsOf(killed).some(({ type }) => type === 'checkpoint')).toBe(true)
  expect(existsSync(join(killed, 'checkpoints', `step-${STEPS}`))).toBe(false)
  await resume(killed)

  for (const runDir of [stopped, killed]) {
    expect(lossesOf(runDir)).toEqual(lossesOf(whole))
    expect(resultsOf(runDir)).toEqual(resultsOf(whole))
  }
})

it('a run that was killed before its first checkpoint begins again, with a warning', async () => {
  const folder = temporaryFolder()
  const recipe = recipeFile(folder, { ...longSteps(folder), checkpoint: { everySteps: STEPS } })
  const runDir = join(folder, 'killed')
  await interrupted(recipe, runDir, 'SIGKILL')
  const { status, stderr } = await cli(['train', '--resume', runDir])
  expect({ status, stderr }).toEqual({ status: 0, stderr: expect.stringContaining('NO_CHECKPOINT') })
})

it('a resumed run clears away what a killed one left half-written', async () => {
  const folder = temporaryFolder()
  const recipe = recipeFile(folder, tinyRecipe(folder, 5))
  const runDir = join(folder, 'run')
  expect((await cli(['train', recipe])).status).toBe(0)
  const checkpoints = join(runDir, 'checkpoints')
  const whole = readdirSync(checkpoints)
  for (const left of ['.partial-a1B2c3', '.removed-a1B2c3/checkpoint']) {
    mkdirSync(join(checkpoints, left), { recursive: true })
    writeFileSync(join(checkpoints, left, 'weights.safetensors'), 'half')
  }
  expect((await cli(['train', '--resume', runDir])).status).toBe(0)
  expect(readdirSync(checkpoints)).toEqual(whole)
})

it.each([
  ['another recipe', ['recipe.yaml']],
  ['another number of steps', ['--steps', '3']],
  ['another folder', ['--output', 'elsewhere']],
])('refuses %s for a resumed run, which keeps its own', async (_name, args) => {
  const { status, stderr } = await cli(['train', '--resume', 'run', ...args])
  expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining('--resume') })
})
