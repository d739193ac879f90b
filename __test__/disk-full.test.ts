import { spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readdirSync, rmSync, statfsSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { FlowtuneError, inspect, type RunEvent, train } from '../src/index'
import { cli, documents } from './helpers/cli'
import { eventsOf, filesIn } from './helpers/files'
import { hubModel, TestHub } from './helpers/hub'
import { temporaryFolder } from './helpers/paths'
import { recipeFile, tinyRecipe } from './helpers/recipe'

/** A file system of 4 MiB, which goes when the test ends; nothing where the system does not let us mount one. */
function smallDisk(): string | undefined {
  const folder = temporaryFolder()
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', folder]).status !== 0) return undefined
  onTestFinished(() => void spawnSync('umount', [folder]))
  return folder
}

/** Fills the disk but for `free` bytes. */
function fill(file: string, free: number): void {
  const { bavail, bsize } = statfsSync(join(file, '..'))
  const ballast = openSync(file, 'w')
  writeSync(ballast, Buffer.alloc(bavail * bsize - free, 1))
  closeSync(ballast)
}

it('a disk that is full when a checkpoint is saved costs no earlier checkpoint, and the run goes on later', async (context) => {
  const disk = smallDisk()
  if (!disk) {
    console.warn('disk-full.test.ts is skipped: it must be root to mount a small tmpfs')
    return context.skip()
  }
  const folder = temporaryFolder()
  const runDir = join(disk, 'run')
  const ballast = join(disk, 'ballast')
  // Twenty steps, so that the disk is full by the time of the second checkpoint.
  const checkpoint = { everySteps: 20, keep: 10 }
  const recipe = { ...tinyRecipe(folder, 60), lora: { rank: 16 }, checkpoint, output: { dir: runDir } }
  const result = await cli(['train', recipeFile(folder, recipe), '--json'], {
    onLine(line) {
      const event = JSON.parse(line) as RunEvent
      // Events still fit; a checkpoint with its moments does not.
      if (event.type === 'checkpoint' && event.step === 20) fill(ballast, 64 * 1024)
    },
  })
  expect(result).toMatchObject({ status: 1, stderr: '' })
  const last = documents<{ error: { code: string; message: string } }>(result).at(-1)
  expect(last?.error).toEqual({ code: 'IO', message: expect.stringContaining(join(runDir, 'checkpoints')) })
  expect(last?.error.message).toMatch(/space/)
  expect(eventsOf(runDir).at(-1)).toMatchObject({ type: 'step', step: 40 })
  expect(inspect(runDir)).toMatchObject({ checkpoints: [20] })
  expect(readdirSync(join(runDir, 'checkpoints'))).toEqual(['step-20'])
  const files = filesIn(runDir)
  expect(files.filter((file) => !file.startsWith('samples/'))).toEqual([
    'checkpoints/step-20/manifest.json',
    'checkpoints/step-20/optimizer.safetensors',
    'checkpoints/step-20/progress.json',
    'checkpoints/step-20/weights.safetensors',
    'events.jsonl',
    'recipe.yaml',
  ])

  const again = await (await train(recipe, { resume: runDir })).wait().catch((thrown) => thrown)
  expect(again).toBeInstanceOf(FlowtuneError)
  expect(again.code).toBe('IO')
  expect(filesIn(runDir)).toEqual(files)

  rmSync(ballast)
  expect(await (await train(recipe, { resume: runDir })).wait()).toMatchObject({ steps: 60 })
  expect(inspect(runDir)).toMatchObject({ checkpoints: [20, 40, 60] })
})

it('a disk that is full from the start leaves nothing half-written', async (context) => {
  const disk = smallDisk()
  if (!disk) return context.skip()
  const folder = temporaryFolder()
  const cache = join(disk, 'cache')
  mkdirSync(cache)
  fill(join(disk, 'ballast'), 32 * 1024)
  const tiny = tinyRecipe(folder, 3)
  const thrown = await train({ ...tiny, data: { ...tiny.data, cacheDir: cache } })
    .then((run) => run.wait())
    .catch((error) => error)
  expect(thrown).toBeInstanceOf(FlowtuneError)
  expect(thrown).toMatchObject({ code: 'IO', message: expect.stringContaining(cache) })
  for (const file of filesIn(cache)) expect(file).toMatch(/\/[0-9a-f]{64}\.safetensors$/)
})

it('a disk that is full during a download keeps what has come, and the download goes on later', async (context) => {
  const disk = smallDisk()
  if (!disk) return context.skip()
  const hub = await TestHub.start()
  const env = hub.environment(join(disk, 'hf'))
  const ballast = join(disk, 'ballast')
  fill(ballast, 700 * 1024)
  const result = await cli(['download', hubModel, '--json'], { env })
  expect(result).toMatchObject({ status: 1, stderr: '' })
  const [last] = documents<{ error: { code: string; message: string } }>(result)
  expect(last?.error).toEqual({
    code: 'IO',
    message: expect.stringMatching(/\.incomplete: cannot be written .*space.*HF_HOME/),
  })
  const blobs = join(disk, 'hf', 'hub', 'models--tests--tiny-flux', 'blobs')
  const partial = readdirSync(blobs).find((name) => name.endsWith('.incomplete')) ?? ''
  const { size } = statSync(join(blobs, partial))
  expect(size).toBeGreaterThan(0)
  rmSync(ballast)
  hub.requests = []
  expect(await cli(['download', hubModel], { env })).toMatchObject({ status: 0 })
  expect(hub.requests).toContainEqual(expect.stringMatching(`^GET /cdn/.* bytes=${size}-$`))
})
