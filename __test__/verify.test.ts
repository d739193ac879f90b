import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { VerifyReport } from '../src/index'
import { cli } from './helpers/cli'
import { cases, pipeline, root, temporaryFolder } from './helpers/paths'
import { perturb, remove, tensorsOf, writeTensors } from './helpers/safetensors'

/** For each kind a case, and a tensor of it that is computed and not only copied. */
const PERTURBED = [
  ['adapter', 'adapter-dev', 'expect.hidden_states'],
  ['adapter', 'adapter-klein', 'expect.img_ids'],
  ['schedule', 'schedule-shift3', 'expect.sigma.logit_normal'],
  ['train', 'train-lora-klein', 'expect.loss'],
  ['train', 'train-edit', 'expect.prediction.0'],
  ['vae', 'vae', 'expect.decoded'],
  ['text', 'text-qwen3', 'expect.text_embeddings'],
  ['sample', 'sample-distilled', 'expect.image'],
] as const

async function verify(folder: string): Promise<{ status: number | null; report: VerifyReport }> {
  const { status, stdout } = await cli(['verify', folder, '--json'])
  return { status, report: JSON.parse(stdout) }
}

/** The tensors that are off, and why cases could not be computed. */
function off({ cases }: VerifyReport) {
  return cases.flatMap(({ name, tensors, message }) => [
    ...(message ? [{ name, message }] : []),
    ...tensors.filter(({ ok }) => !ok),
  ])
}

function copyOf(name: string): string {
  const folder = join(temporaryFolder(), name)
  cpSync(join(cases, name), folder, { recursive: true })
  return folder
}

function edited(name: string, change: (info: Record<string, unknown>) => object): string {
  const folder = copyOf(name)
  const file = join(folder, 'case.json')
  writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, 'utf8')))))
  return folder
}

describe('flowtune verify', () => {
  it('passes every case, with an error and a bound for each tensor', async () => {
    const { status, report } = await verify(cases)
    expect(off(report)).toEqual([])
    expect({ status, ok: report.ok }).toEqual({ status: 0, ok: true })
    expect(report.cases.map(({ name }) => name)).toEqual(readdirSync(cases).sort())
    expect(new Set(report.cases.map(({ kind }) => kind))).toEqual(new Set(PERTURBED.map(([kind]) => kind)))
    for (const each of report.cases) {
      expect(Object.keys(each)).toEqual(['name', 'kind', 'ok', 'tensors'])
      expect(each.tensors.length).toBeGreaterThan(0)
      for (const { name, error, bound, ok, ...rest } of each.tensors) {
        expect({ name, ok, rest }).toEqual({ name: expect.any(String), ok: true, rest: {} })
        expect(error).toBeLessThanOrEqual(bound)
      }
    }
  }, 300_000)

  it('passes a whole pipeline: template, token ids, embeddings, image', async () => {
    const { status, report } = await verify(join(pipeline, '..'))
    expect(off(report)).toEqual([])
    expect(report.cases.map(({ kind }) => kind)).toEqual(['pipeline'])
    const parts = report.cases.flatMap(({ tensors }) => tensors.map(({ name }) => name.replace(/\.\d+$/, '')))
    expect(new Set(parts)).toEqual(
      new Set(['text', 'input_ids', 'attention_mask', 'text_embeddings', 'negative_text_embeddings', 'image']),
    )
    expect(status).toBe(0)
  }, 120_000)

  it('passes a whole pipeline with reference images, and does not when one of them is another', async () => {
    const folder = join(cases, '..', 'edit')
    const { status, report } = await verify(folder)
    expect(off(report)).toEqual([])
    expect(status).toBe(0)
    const copy = join(temporaryFolder(), 'edit')
    cpSync(folder, copy, { recursive: true })
    const expected = JSON.parse(readFileSync(join(copy, 'expect.json'), 'utf8'))
    writeFileSync(join(copy, 'expect.json'), JSON.stringify({ ...expected, pipeline: join(root, 'models/flux2-tiny') }))
    cpSync(join(copy, 'wide.png'), join(copy, 'tall.png'))
    const changed = await verify(copy)
    expect(changed.status).toBe(1)
    expect(off(changed.report).map(({ name }) => name)).toEqual(['image.0'])
  }, 120_000)

  it.each(PERTURBED)('is off when one value of a case of kind %s (%s, %s) is', async (_kind, name, tensor) => {
    const folder = copyOf(name)
    perturb(join(folder, 'tensors.safetensors'), tensor)
    const { status, report } = await verify(folder)
    expect({ status, ok: report.ok }).toEqual({ status: 1, ok: false })
    expect(off(report).map(({ name }) => name)).toEqual([expect.stringContaining(tensor.replace('expect.', ''))])
  })

  it.each(['text_embeddings.0', 'input_ids.0', 'image.0'])('is off when %s of a pipeline is', async (tensor) => {
    const folder = join(temporaryFolder(), 'pipeline')
    cpSync(join(pipeline, '..'), folder, { recursive: true })
    perturb(join(folder, 'expect.safetensors'), tensor)
    const { status, report } = await verify(folder)
    expect(status).toBe(1)
    expect(off(report).map(({ name }) => name)).toEqual([tensor])
  })

  it('is off when a case names a kind it does not know', async () => {
    const { status, report } = await verify(edited('vae', (info) => ({ ...info, kind: 'telepathy' })))
    expect(status).toBe(1)
    expect(report.cases).toEqual([
      { name: 'vae', kind: 'telepathy', ok: false, tensors: [], message: expect.stringContaining('telepathy') },
    ])
  })

  it('is off when a case has a key it does not know', async () => {
    const { status, report } = await verify(edited('vae', (info) => ({ ...info, tea: 'green' })))
    expect(status).toBe(1)
    expect(report.cases[0]?.message).toContain('tea')
  })

  it.each(['in.surprise', 'expect.surprise'])(
    'is off when a case holds a tensor %s, which it does not know',
    async (name) => {
      const folder = copyOf('adapter-klein')
      const file = join(folder, 'tensors.safetensors')
      const tensors = tensorsOf(file)
      writeTensors(file, [...tensors, { name, dtype: 'F32', shape: [1], bytes: Buffer.alloc(4) }])
      const { status, report } = await verify(folder)
      expect(status).toBe(1)
      expect(report.cases[0]?.message).toContain(name)
    },
  )

  it('is off when a case lacks a tensor', async () => {
    const folder = copyOf('vae')
    remove(join(folder, 'tensors.safetensors'), 'expect.decoded')
    const { status, report } = await verify(folder)
    expect(status).toBe(1)
    expect(report.cases[0]?.message).toContain('expect.decoded')
  })

  it('prints each tensor for people, and why a case could not be computed', async () => {
    const good = await cli(['verify', join(cases, 'schedule-shift3')])
    expect(good.status).toBe(0)
    expect(good.stdout).toMatch(/sigma\.logit_normal +error \S+ +bound \S+ +ok/)
    expect(good.stdout).toMatch(/^1 cases?, 0 off$/m)
    const bad = await cli(['verify', edited('vae', (info) => ({ ...info, kind: 'telepathy' }))])
    expect(bad.status).toBe(1)
    expect(bad.stdout).toMatch(/^vae \(telepathy\): OFF\n {2}.*telepathy/)
  })
})
