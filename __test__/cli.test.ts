import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { EvaluateSummary, PrepareSummary } from '../src/index'
import { cli, documents } from './helpers/cli'
import { filesIn } from './helpers/files'
import { pipeline, root, temporaryFolder } from './helpers/paths'
import { recipeFile, tinyRecipe } from './helpers/recipe'

const COMMANDS = ['quickstart', 'train', 'prepare', 'sample', 'eval', 'verify', 'inspect', 'doctor']

describe('help', () => {
  it('lists the commands', async () => {
    const { status, stdout } = await cli(['--help'])
    expect(status).toBe(0)
    for (const command of COMMANDS) expect(stdout).toContain(command)
  })

  it.each(COMMANDS)('of %s has an example', async (command) => {
    const { status, stdout } = await cli([command, '--help'])
    expect(status).toBe(0)
    expect(stdout).toMatch(/Examples?:\n {2}flowtune /)
  })

  it('tells the version', async () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
    expect(await cli(['--version'])).toMatchObject({ status: 0, stdout: `${version}\n` })
  })
})

describe('exit status', () => {
  it.each([
    [[]],
    [['bogus']],
    [['train']],
    [['train', '--steps', 'many', 'recipe.yaml']],
    [['verify']],
    [['sample', '--model', 'm', '--prompt', 'p', '--out', 'o.png']],
    [['sample', '--model', 'm', '--prompt', 'p', '--out', 'o.png', '--size', '65']],
    [['sample', '--model', 'm', '--prompt', 'p', '--out', 'o.png', '--size', '64', '--seed', '9007199254740993']],
    [['inspect', 'x', '--bogus']],
  ])('is 2 for the usage %j', async (args) => {
    const { status, stdout, stderr } = await cli(args)
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
    expect(stderr).not.toBe('')
  })

  it('is 1 for work that fails, with its code', async () => {
    const { status, stderr } = await cli(['train', 'absent.yaml'])
    expect(status).toBe(1)
    expect(stderr).toMatch(/^error IO: absent\.yaml/)
  })

  it('is 1 with --json too, and stdout is JSON alone', async () => {
    const { status, stdout, stderr } = await cli(['inspect', join(temporaryFolder(), 'absent'), '--json'])
    expect({ status, stderr }).toEqual({ status: 1, stderr: '' })
    expect(JSON.parse(stdout).error.message).toContain('absent')
  })
})

describe('prepare, train, eval and inspect', () => {
  it('work together on a recipe, for people and for machines', async () => {
    const folder = temporaryFolder()
    const { cacheDir: _, ...data } = tinyRecipe(folder, 30).data
    const file = recipeFile(folder, { ...tinyRecipe(folder, 30), data })
    const [prepared] = documents<PrepareSummary>(await cli(['prepare', file, '--json']))
    expect(prepared).toEqual({
      cacheDir: join(folder, '.cache'),
      images: 8,
      buckets: [{ width: 32, height: 32, images: 8 }],
      captions: 10,
      masks: 0,
      references: 0,
      skipped: [],
    })
    const cached = filesIn(join(folder, '.cache'))
    // Eight images; eight captions, the empty prompt and the validation prompt.
    expect(cached).toHaveLength(8 + 8 + 1 + 1)

    // The cache lies beside the run folder, wherever that is.
    const runDir = join(folder, 'elsewhere', 'run')
    const trained = await cli(['train', file, '--output', runDir, '--steps', '4'])
    expect(trained).toMatchObject({ status: 0, stdout: expect.stringContaining(`${runDir}/lora`) })
    expect(trained.stderr.match(/^step .*s left$/gm)).toHaveLength(2)
    expect(filesIn(join(folder, 'elsewhere', '.cache'))).toEqual(cached)
    expect(existsSync(join(folder, 'run'))).toBe(false)

    expect((await cli(['eval', file])).stdout).toMatch(/^held-out loss \d+\.\d{5} over 2 images\n {2}sigma 0\.30 /)
    const [after] = documents<EvaluateSummary>(await cli(['eval', runDir, '--json']))
    expect(after).toEqual({ loss: expect.any(Number), perSigma: [expect.any(Object), expect.any(Object)], images: 2 })
    expect((await cli(['inspect', runDir])).stdout).toContain('kind: run')
    expect((await cli(['inspect', pipeline])).stdout).toContain('class: Flux2KleinPipeline')
  })
})
