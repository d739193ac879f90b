import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type RunEvent, train } from '../src/index'
import { cli } from './helpers/cli'
import { temporaryFolder } from './helpers/paths'
import { tinyRecipe } from './helpers/recipe'

/** The longest that a 10 ms timer was late, in milliseconds, until `stop` is called. */
function watchEventLoop(): { stop(): { worst: number; ticks: number } } {
  let last = performance.now()
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
      return seen
    },
  }
}

async function collect(run: AsyncIterable<RunEvent>): Promise<RunEvent[]> {
  const events: RunEvent[] = []
  for await (const event of run) events.push(event)
  return events
}

describe('train', () => {
  it('tells its events to several iterators, all of them, to the end', async () => {
    const run = await train(tinyRecipe(temporaryFolder(), 6))
    const [first, second] = await Promise.all([collect(run), collect(run)])
    const late = await collect(run)
    expect(first.filter(({ type }) => type === 'step')).toHaveLength(6)
    expect(first.find(({ type }) => type === 'started')).toBeDefined()
    expect(first.at(-1)?.type).toBe('finished')
    expect(second).toEqual(first)
    expect(late).toEqual(first)
    const summary = await run.wait()
    expect(run.status()).toBe('finished')
    expect(summary.steps).toBe(6)
    expect(existsSync(summary.weights)).toBe(true)
  })

  it('stops half-way through an AbortSignal, saves, and leaves the event loop free', async () => {
    const folder = temporaryFolder()
    const controller = new AbortController()
    const run = await train(tinyRecipe(folder, 1000), { signal: controller.signal })
    const loop = watchEventLoop()
    const steps: number[] = []
    let checkpoint: string | undefined
    for await (const event of run) {
      if (event.type === 'step') steps.push(event.step)
      if (event.type === 'checkpoint') checkpoint = event.path
      if (event.type === 'step' && event.step === 12) controller.abort()
    }
    const { worst, ticks } = loop.stop()
    await expect(run.wait()).rejects.toMatchObject({ code: 'CANCELLED' })
    expect(run.status()).toBe('cancelled')
    expect(steps.length).toBeGreaterThanOrEqual(12)
    expect(steps.length).toBeLessThan(1000)
    expect(checkpoint && existsSync(checkpoint)).toBe(true)
    expect(ticks).toBeGreaterThan(5)
    expect(worst).toBeLessThan(100)
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
})

describe('flowtune train', () => {
  it('saves at Ctrl+C, ends with 130, and resumes to the end', async () => {
    const folder = temporaryFolder()
    const recipe = join(folder, 'recipe.yaml')
    // JSON is YAML.
    writeFileSync(recipe, JSON.stringify(tinyRecipe(folder, 40)))
    let interrupted = false
    const first = await cli(['train', recipe, '--json'], {
      onStdout: (text, kill) => {
        if (interrupted || !text.includes('"type":"step"')) return
        interrupted = true
        kill('SIGINT')
      },
    })
    expect(first.status).toBe(130)
    const second = await cli(['train', recipe, '--resume', join(folder, 'run'), '--json'])
    expect(second.stderr).toBe('')
    expect(second.status).toBe(0)
    const events = second.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as RunEvent)
    expect(events.at(-1)).toMatchObject({ type: 'finished', steps: 40 })
    const steps = events.filter(({ type }) => type === 'step')
    expect(steps.length).toBeGreaterThan(0)
    expect(steps.length).toBeLessThan(40)
  })
})
