import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { evaluate, inspect, loadRecipe, type RunEvent, resolveRecipe, train } from '../src/index'
import { eventsOf, filesIn } from './helpers/files'
import { temporaryFolder } from './helpers/paths'
import { tinyRecipe } from './helpers/recipe'

/** How late a 10 ms timer was at worst, in milliseconds, and what share of its ticks came, until `stop` is called. */
function watchEventLoop(): { stop(): { worst: number; share: number } } {
  const started = performance.now()
  let last = started
  const seen = { worst: 0, ticks: 0 }
  const timer = setInterval(() => {
    const now = performance.now()
    seen.worst = Math.max(seen.worst, now - last - 10)
    seen.ticks += 1
    last = now
  }, 10)
  return {
    stop() {
      clearInterval(timer)
      return { worst: seen.worst, share: (10 * seen.ticks) / (performance.now() - started) }
    },
  }
}

async function collect(run: AsyncIterable<RunEvent>): Promise<RunEvent[]> {
  const events: RunEvent[] = []
  for await (const event of run) events.push(event)
  return events
}

const isPng = (path: string) => readFileSync(path).subarray(1, 4).toString() === 'PNG'

describe('train', () => {
  it('tells its events to several iterators, all of them, to the end, and leaves a complete run folder', async () => {
    const recipe = tinyRecipe(temporaryFolder(), 6)
    const run = await train(recipe)
    const [first, second] = await Promise.all([collect(run), collect(run)])
    expect(second).toEqual(first)
    expect(await collect(run)).toEqual(first)
    const summary = await run.wait()
    expect(run.status()).toBe('finished')
    expect(first.filter(({ type }) => type === 'started')).toHaveLength(1)
    expect(first.flatMap((event) => (event.type === 'step' ? event.step : []))).toEqual([1, 2, 3, 4, 5, 6])
    expect(first.flatMap((event) => (event.type === 'evaluation' ? event.step : []))).toEqual([0, 5, 6])
    expect(first.at(-1)).toEqual({ type: 'finished', ...summary })

    expect(filesIn(summary.runDir).filter((file) => !file.startsWith('checkpoints/'))).toEqual([
      'events.jsonl',
      'lora/pytorch_lora_weights.safetensors',
      'plot.svg',
      'recipe.yaml',
      'report.html',
      'samples/step-000000-00.png',
      'samples/step-000006-00.png',
    ])
    expect(eventsOf(summary.runDir)).toEqual(first.filter(({ type }) => type !== 'progress'))
    expect(await loadRecipe(join(summary.runDir, 'recipe.yaml'))).toEqual(resolveRecipe(recipe))
    expect(inspect(summary.runDir)).toMatchObject({ kind: 'run', checkpoints: [4, 6], finished: { steps: 6 } })
    expect(inspect(summary.weights)).toMatchObject({ kind: 'lora', rank: 4 })
    expect([...(summary.samplesBefore ?? []), ...(summary.samplesAfter ?? [])].map(isPng)).toEqual([true, true])
    expect(readFileSync(String(summary.plot), 'utf8')).toMatch(/<svg[\s\S]*<\/svg>\s*$/)
    expect(readFileSync(String(summary.report), 'utf8')).toMatch(/<html[\s\S]*<\/html>\s*$/)

    const before = await evaluate(recipe)
    expect(before).toMatchObject({ loss: summary.evaluationBefore, images: 2 })
    expect(before.perSigma.map(({ sigma }) => sigma)).toEqual([0.3, 0.7])
    const after = await evaluate({ runDir: summary.runDir })
    expect(after.loss).toBeCloseTo(Number(summary.evaluationAfter), 6)
    expect(after.loss).not.toBe(before.loss)
  })

  it('stops half-way through an AbortSignal, saves, and leaves the event loop free', async () => {
    const controller = new AbortController()
    const run = await train(tinyRecipe(temporaryFolder(), 1000), { signal: controller.signal })
    const loop = watchEventLoop()
    const steps: number[] = []
    let checkpoint: string | undefined
    for await (const event of run) {
      if (event.type === 'step') steps.push(event.step)
      if (event.type === 'checkpoint') checkpoint = event.path
      if (event.type !== 'step' || event.step !== 31) continue
      expect(run.status()).toBe('running')
      controller.abort()
      expect(run.status()).toBe('cancelling')
    }
    const { worst, share } = loop.stop()
    await expect(run.wait()).rejects.toMatchObject({ name: 'FlowtuneError', code: 'CANCELLED' })
    expect(run.status()).toBe('cancelled')
    expect(steps.length).toBeGreaterThanOrEqual(31)
    expect(steps.length).toBeLessThan(1000)
    expect(checkpoint).toMatch(new RegExp(`step-${steps.at(-1)}$`))
    expect(existsSync(join(String(checkpoint), 'manifest.json'))).toBe(true)
    expect(share).toBeGreaterThan(0.5)
    expect(worst).toBeLessThan(100)
  })

  it('saves what it has done when it is cancelled while it evaluates', async () => {
    const recipe = tinyRecipe(temporaryFolder(), 20)
    const sigmas = Array.from({ length: 500 }, (_, i) => (i + 1) / 500)
    const run = await train({ ...recipe, validation: { everySteps: 6, sigmas } })
    for await (const event of run) if (event.type === 'step' && event.step === 6) run.cancel()
    await expect(run.wait()).rejects.toMatchObject({ code: 'CANCELLED', message: expect.stringMatching(/step-6$/) })
    expect(inspect(recipe.output.dir)).toMatchObject({ checkpoints: [4, 6] })
  })

  it('can be cancelled while nobody iterates', async () => {
    const run = await train(tinyRecipe(temporaryFolder(), 1000))
    run.cancel()
    await expect(run.wait()).rejects.toMatchObject({ code: 'CANCELLED' })
  })

  it('does not begin when its signal is aborted already', async () => {
    const folder = temporaryFolder()
    await expect(train(tinyRecipe(folder, 5), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'CANCELLED',
    })
    expect(existsSync(join(folder, 'run'))).toBe(false)
  })

  it('throws a failure to those who iterate and to those who wait', async () => {
    const recipe = tinyRecipe(temporaryFolder(), 5)
    recipe.data.train = temporaryFolder()
    const run = await train(recipe)
    await expect(collect(run)).rejects.toMatchObject({ code: 'DATA_UNREADABLE' })
    await expect(run.wait()).rejects.toMatchObject({ code: 'DATA_UNREADABLE' })
    expect(run.status()).toBe('failed')
  })

  it('never writes into a folder that holds something', async () => {
    const recipe = tinyRecipe(temporaryFolder(), 1)
    const first = await (await train(recipe)).wait()
    const files = filesIn(first.runDir)
    const second = await (await train(recipe)).wait()
    expect(second.runDir).toBe(`${first.runDir}-2`)
    expect(filesIn(first.runDir)).toEqual(files)
  })
})
