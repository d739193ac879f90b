import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import {
  AutoencoderKLFlux2,
  DataLoader,
  type DownloadSummary,
  download,
  explain,
  type FlowtuneError,
  Flux2Transformer,
  inspect,
  loadRecipe,
  type ProgressEvent,
  plan,
  prepare,
  type Recipe,
  type RunEvent,
  resolveRecipe,
  sample,
  TextEncoder,
  train,
} from '../src/index'
import { cli, documents } from './helpers/cli'
import { filesIn } from './helpers/files'
import { commit, hubModel, TestHub, transformerBytes, transformerFile } from './helpers/hub'
import { pipeline, root, temporaryFolder } from './helpers/paths'
import { copyImages, recipeFile, tinyRecipe } from './helpers/recipe'
import { tensorsOf } from './helpers/safetensors'

afterEach(() => void vi.unstubAllEnvs())

/** A hub that this process asks, too. */
async function startHub(): Promise<{ hub: TestHub; home: string }> {
  const hub = await TestHub.start()
  const home = temporaryFolder()
  for (const [name, value] of Object.entries(hub.environment(home))) vi.stubEnv(name, value)
  return { hub, home }
}

function recipeOf(folder: string, model: Recipe['model'], steps = 2): Recipe {
  return {
    ...tinyRecipe(folder, steps),
    model,
    validation: { sampleSteps: 1, prompts: [] },
    checkpoint: { everySteps: 1 },
  }
}

const finished = async (recipe: Recipe, resume?: string) => (await train(recipe, { resume })).wait()
// Tensors: the header names the model that it was trained on.
const loraOf = (run: string) => tensorsOf(join(run, 'lora', 'pytorch_lora_weights.safetensors'))
const modelOf = async (run: string) => (await loadRecipe(join(run, 'recipe.yaml'))).model

describe('a recipe with a hub’s id', () => {
  it('trains as with the folder, keeps the commit, and resumes with it when the branch has moved', async () => {
    const { hub } = await startHub()
    const local = await finished(recipeOf(temporaryFolder(), { path: pipeline }))
    const events: RunEvent[] = []
    const folder = temporaryFolder()
    const run = await train(recipeOf(folder, { path: hubModel }), { onEvent: (event) => events.push(event) })
    const { runDir } = await run.wait()
    expect(loraOf(runDir)).toEqual(loraOf(local.runDir))
    expect(await modelOf(runDir)).toMatchObject({ path: hubModel, revision: commit('a') })
    expect(inspect(runDir)).toMatchObject({ kind: 'run', model: hubModel })
    const size = transformerBytes().length
    const progress = {
      type: 'progress',
      stage: `downloading ${transformerFile}`,
      done: size,
      total: size,
      unit: 'bytes',
    }
    expect(events).toContainEqual(progress)
    expect(hub.sent.has('teaser.png')).toBe(false)

    // Other weights at main; the run goes on with its own, without a question.
    hub.main = commit('b')
    hub.commits.set(hub.main, new Map([['model_index.json', Buffer.from('{}')]]))
    hub.fetched()
    await finished(recipeOf(folder, { path: hubModel }), runDir)
    expect(hub.requests).toEqual([])
  })

  it('is the same as the folder for every use of the model, each of which fetches what it needs', async () => {
    const { hub, home } = await startHub()
    const folder = temporaryFolder()
    const recipe = recipeOf(folder, { path: hubModel })
    const explanation = await explain(recipe)
    expect(explanation.totalParameters).toBe((await explain({ ...recipe, model: { path: pipeline } })).totalParameters)
    expect(hub.fetched().filter((name) => !name.endsWith('config.json'))).toEqual(['model_index.json'])
    // A plan takes the headers of the weights: the same memory, and none of them in the cache.
    const memory = async (path: string) => (await plan({ ...recipe, model: { path } }, { noTime: true })).memory.phases
    expect(await memory(hubModel)).toEqual(await memory(pipeline))
    expect(filesIn(home).filter((file) => file.endsWith('.safetensors'))).toEqual([])
    hub.fetched()

    const progress: ProgressEvent[] = []
    await AutoencoderKLFlux2.load(hubModel, { onProgress: (event) => progress.push(event) })
    expect(hub.fetched()).toEqual(['vae/diffusion_pytorch_model.safetensors'])
    expect(progress.at(-1)).toMatchObject({
      stage: 'downloading vae/diffusion_pytorch_model.safetensors',
      unit: 'bytes',
    })
    await TextEncoder.load(hubModel)
    expect(hub.fetched()).toContain('text_encoder/model.safetensors')
    await prepare(recipe)
    const { cacheDir } = recipe.data
    const loader = await DataLoader.open({ ...recipe.data, cacheDir, model: hubModel })
    expect(loader.samples).toBe(6)
    expect(hub.fetched()).toEqual([])
    const model = await Flux2Transformer.load(`${hubModel}@${commit('a')}`)
    expect(hub.fetched()).toEqual([transformerFile])
    expect(model.parameters[0]?.shape).toEqual((await Flux2Transformer.load(pipeline)).parameters[0]?.shape)

    const image = async (model: string, transformer?: string) => {
      const out = join(temporaryFolder(), 'x.png')
      await sample({ model, prompt: 'x', width: 32, height: 32, steps: 1, out, ...(transformer && { transformer }) })
      return readFileSync(out)
    }
    const expected = await image(pipeline)
    expect((await image(hubModel)).equals(expected)).toBe(true)
    // diffusers' own layout has a config.json beside it, in the snapshot too.
    expect((await image(pipeline, `${hubModel}/${transformerFile}`)).equals(expected)).toBe(true)
    expect(await download(hubModel, { revision: commit('a') })).toMatchObject({ downloadedBytes: 0 })
    expect(inspect(hubModel)).toMatchObject({
      kind: 'model',
      path: join(home, 'hub', 'models--tests--tiny-flux', 'snapshots', commit('a')),
    })
  })

  it('does not fetch a transformer that another one replaces', async () => {
    const { hub } = await startHub()
    const file = join(pipeline, transformerFile)
    await finished(recipeOf(temporaryFolder(), { path: hubModel, transformer: file }, 1))
    expect(hub.fetched()).not.toContain(transformerFile)
    const { runDir } = await finished(
      recipeOf(temporaryFolder(), { path: hubModel, transformer: `${hubModel}/${transformerFile}` }, 1),
    )
    expect(hub.fetched()).toEqual([transformerFile])
    expect((await modelOf(runDir)).transformer).toBe(`${hubModel}/${transformerFile}@${commit('a')}`)
  })

  it('refuses a distilled model before its weights are fetched', async () => {
    const { hub } = await startHub()
    const files = hub.commits.get(hub.main)
    const index = JSON.parse(files?.get('model_index.json')?.toString() ?? '{}')
    files?.set('model_index.json', Buffer.from(JSON.stringify({ ...index, is_distilled: true })))
    const folder = temporaryFolder()
    await expect(finished(recipeOf(folder, { path: hubModel }))).rejects.toMatchObject({ code: 'RECIPE_INVALID' })
    expect(hub.fetched().filter((name) => name.endsWith('.safetensors'))).toEqual([])
    expect(existsSync(join(folder, 'run'))).toBe(false)
  })

  it('stops a download and leaves no run folder', async () => {
    const { hub } = await startHub()
    hub.stallAfter = 1000
    const folder = temporaryFolder()
    const run = await train(recipeOf(folder, { path: hubModel }), {
      onEvent: (event) => event.type === 'progress' && event.stage.includes('transformer/') && run.cancel(),
    })
    vi.stubEnv('HF_HUB_DOWNLOAD_TIMEOUT', '1')
    await expect(run.wait()).rejects.toMatchObject({ code: 'CANCELLED' })
    expect(existsSync(join(folder, 'run'))).toBe(false)
  })
})

describe('model.path and model.revision', () => {
  const resolved = (model: object, folder = temporaryFolder()) =>
    resolveRecipe({ model, data: { train: 'x' }, train: { steps: 1 } }, folder).model

  it('are an id and its revision where there is no such folder', () => {
    expect(resolved({ path: 'a/b' })).toMatchObject({ path: 'a/b' })
    expect(resolved({ path: 'a/b@v1' })).toMatchObject({ path: 'a/b', revision: 'v1' })
    expect(resolved({ path: 'a/b', transformer: 'c/d/e.gguf@v2' })).toMatchObject({ transformer: 'c/d/e.gguf@v2' })
    const folder = temporaryFolder()
    copyImages(join(folder, 'a', 'b'), 0, 1)
    expect(resolved({ path: 'a/b' }, folder).path).toBe(join(folder, 'a', 'b'))
    expect(resolved({ path: './a/c' }, folder).path).toBe(join(folder, 'a', 'c'))
  })

  it.each([
    [
      { path: '/model', revision: 'v1' },
      '`model.revision` is for a model of a hub, and `model.path` is the path /model',
    ],
    [{ path: 'a/b@v1', revision: 'v2' }, '`model.revision` is said twice'],
    [{ path: 'a/b', revision: '../x' }, '`model.revision`: `../x` is no revision of a/b'],
    [{ path: 'a/b@' }, '`model.path`: `` is no revision of a/b'],
  ])('are refused as %j', (model, message) => {
    expect(() => resolved(model)).toThrow(expect.objectContaining({ code: 'RECIPE_INVALID' }))
    expect(() => resolved(model)).toThrow(message)
  })
})

describe('flowtune download', () => {
  it('fetches once, and says where', async () => {
    const hub = await TestHub.start()
    const env = hub.environment()
    const [first] = documents<DownloadSummary>(await cli(['download', hubModel, '--json'], { env }))
    const bytes = [...hub.sent.values()].reduce((sum, sent) => sum + sent, 0)
    expect(first).toMatchObject({ revision: commit('a'), files: filesIn(pipeline).length, downloadedBytes: bytes })
    expect(filesIn(first?.path ?? '')).toEqual(filesIn(pipeline))
    const again = await cli(['download', hubModel, '--revision', commit('a')], { env })
    expect(again.stdout).toBe(`${first?.files} files at commit ${commit('a')}, 0 B fetched\n${first?.path}\n`)
  })

  it('goes on where a killed process ended', async () => {
    const hub = await TestHub.start()
    const env = hub.environment()
    const blobs = join(env.HF_HOME ?? '', 'hub', 'models--tests--tiny-flux', 'blobs')
    const partial = () => (existsSync(blobs) ? readdirSync(blobs) : []).find((name) => name.endsWith('.incomplete'))
    const came = () => {
      const name = partial()
      return name ? statSync(join(blobs, name)).size : 0
    }
    hub.stallAfter = 100_000
    const child = spawn(process.execPath, [join(root, 'dist', 'cli.js'), 'download', hubModel], {
      env: { ...process.env, ...env },
      stdio: 'ignore',
    })
    await vi.waitFor(() => expect(came()).toBe(100_000), { timeout: 10_000 })
    const gone = new Promise((resolve) => child.on('close', resolve))
    child.kill('SIGKILL')
    await gone
    expect(came()).toBe(100_000)
    hub.requests = []
    expect(await cli(['download', hubModel], { env })).toMatchObject({ status: 0 })
    expect(hub.requests).toContain(`GET /cdn/${commit('a')}/${transformerFile} bytes=100000-`)
    expect(hub.sent.get(transformerFile)).toBe(transformerBytes().length)
    expect(partial()).toBeUndefined()
  })

  it('by two processes at once fetches each file once', async () => {
    const hub = await TestHub.start()
    const env = hub.environment()
    const results = await Promise.all([1, 2].map(() => cli(['download', hubModel, '--json'], { env })))
    expect(results.map(({ status }) => status)).toEqual([0, 0])
    for (const name of filesIn(pipeline)) {
      expect(hub.sent.get(name), name).toBe(hub.commits.get(hub.main)?.get(name)?.length)
    }
  })

  it.each<[string, string[], Record<string, string>, string, RegExp]>([
    [
      'an id that nobody has',
      ['tests/absent'],
      {},
      'HUB_NOT_FOUND',
      /no folder `tests\/absent` here, and no such model at http/,
    ],
    ['a revision that is not there', [hubModel, '--revision', 'v9'], {}, 'HUB_NOT_FOUND', /no revision `v9`/],
    ['what cannot be an id', ['model'], {}, 'INVALID_ARGUMENT', /neither on disk nor a hub's id/],
    ['a folder', [pipeline], {}, 'INVALID_ARGUMENT', /is on disk/],
    [
      'offline',
      [hubModel],
      { HF_HUB_OFFLINE: '1' },
      'HUB_UNAVAILABLE',
      /no folder .* no model of that name .* in the cache/,
    ],
    ['a wrong endpoint', [hubModel], { HF_ENDPOINT: 'hub' }, 'INVALID_ARGUMENT', /HF_ENDPOINT must begin with https/],
  ])('explains %s', async (_, args, variables, code, message) => {
    const hub = await TestHub.start()
    const result = await cli(['download', ...args, '--json'], { env: { ...hub.environment(), ...variables } })
    expect(result).toMatchObject({ status: 1, stderr: '' })
    const [{ error } = { error: undefined }] = documents<{ error: FlowtuneError }>(result)
    expect(error).toMatchObject({ code, message: expect.stringMatching(message) })
  })

  it('explains a path with a typo in a recipe', async () => {
    const hub = await TestHub.start()
    const folder = temporaryFolder()
    const file = recipeFile(folder, recipeOf(folder, { path: 'models/flux2-tyni' }))
    const { stderr, status } = await cli(['train', file], { env: hub.environment() })
    expect({ stderr, status }).toEqual({
      status: 1,
      stderr: expect.stringContaining('no folder `models/flux2-tyni` here'),
    })
  })
})
