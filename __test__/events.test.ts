import { describe, expect, it } from 'vitest'
import { FlowtuneError } from '../src/errors'
import { EventStream } from '../src/event-stream'
import { EventLog } from '../src/events'
import type { RunEvent } from '../src/index'

const checkpoint = (step: number): RunEvent => ({ type: 'checkpoint', step, path: '' })
const step = (n: number): RunEvent => ({
  type: 'step',
  step: n,
  totalSteps: 100,
  loss: 1,
  gradNorm: 1,
  lr: 1,
  secondsPerStep: 1,
  sigmaMean: 0.5,
})

function drain(log: EventLog): RunEvent[] {
  const events: RunEvent[] = []
  for (let event = log.shift(); event; event = log.shift()) events.push(event)
  return events
}

async function collect(stream: EventStream): Promise<RunEvent[]> {
  const events: RunEvent[] = []
  for await (const event of stream) events.push(event)
  return events
}

describe('EventLog', () => {
  it('lets the oldest steps go and keeps everything else', () => {
    const log = new EventLog(4)
    const events = [checkpoint(0), step(1), step(2), checkpoint(2), step(3), step(4), step(5)]
    for (const event of events) log.push(event)
    expect(drain(log)).toEqual([checkpoint(0), checkpoint(2), step(4), step(5)])
  })

  it('copies into a log of its own', () => {
    const log = new EventLog()
    log.push(step(1))
    const copy = log.copy()
    log.push(step(2))
    expect(drain(copy)).toEqual([step(1)])
  })
})

describe('EventStream', () => {
  const stream = () => new EventStream(new EventLog(), () => {})

  it('gives events before and after someone waits, then ends', async () => {
    const events = stream()
    events.push(step(1))
    const collected = collect(events)
    await new Promise(setImmediate)
    events.push(step(2))
    events.end()
    expect(await collected).toEqual([step(1), step(2)])
    expect(await events.next()).toEqual({ done: true, value: undefined })
  })

  it('gives all events before it throws the failure, once', async () => {
    const events = stream()
    events.push(step(1))
    events.end(new FlowtuneError('LOSS_DIVERGED', 'too large'))
    expect(await events.next()).toEqual({ done: false, value: step(1) })
    await expect(events.next()).rejects.toMatchObject({ code: 'LOSS_DIVERGED' })
    expect((await events.next()).done).toBe(true)
  })

  it('detaches when its loop is left', async () => {
    const detached: EventStream[] = []
    const events = new EventStream(new EventLog(), (closed) => detached.push(closed))
    events.push(step(1))
    for await (const _ of events) break
    expect(detached).toEqual([events])
  })
})
