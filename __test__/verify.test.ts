import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { VerifyReport } from '../src/index'
import { cli } from './helpers/cli'
import { cases, pipeline, temporaryFolder } from './helpers/paths'
import { perturb } from './helpers/safetensors'

/** For each kind a case, and a tensor of it that is computed and not only copied. */
const PERTURBED = [
  ['adapter', 'adapter-dev', 'expect.hidden_states'],
  ['adapter', 'adapter-klein', 'expect.img_ids'],
  ['schedule', 'schedule-shift3', 'expect.sigma.logit_normal'],
  ['train', 'train-lora-klein', 'expect.loss'],
  ['vae', 'vae', 'expect.decoded'],
  ['text', 'text-qwen3', 'expect.text_embeddings'],
  ['sample', 'sample-distilled', 'expect.image'],
] as const

async function verify(folder: string): Promise<{ status: number | null; report: VerifyReport }> {
  const { status, stdout } = await cli(['verify', folder, '--json'])
  return { status, report: JSON.parse(stdout) }
}

function copyOf(name: string): string {
  const folder = join(temporaryFolder(), name)
  cpSync(join(cases, name), folder, { recursive: true })
  return folder
}

describe('flowtune verify', () => {
  it('passes every case, with an error and a bound for each tensor', async () => {
    const { status, report } = await verify(cases)
    expect(report.cases.filter(({ ok }) => !ok)).toEqual([])
    expect(status).toBe(0)
    expect(new Set(report.cases.map(({ kind }) => kind))).toEqual(new Set(PERTURBED.map(([kind]) => kind)))
    for (const { tensors } of report.cases) {
      expect(tensors.length).toBeGreaterThan(0)
      for (const { error, bound } of tensors) expect(error).toBeLessThanOrEqual(bound)
    }
  }, 300_000)

  it('passes a whole pipeline: template, token ids, embeddings, image', async () => {
    const { status, report } = await verify(join(pipeline, '..'))
    expect(report.cases.filter(({ ok }) => !ok)).toEqual([])
    expect(status).toBe(0)
  }, 120_000)

  it.each(PERTURBED)('is off when one value of a case of kind %s (%s, %s) is', async (_kind, name, tensor) => {
    const folder = copyOf(name)
    perturb(join(folder, 'tensors.safetensors'), tensor)
    const { status, report } = await verify(folder)
    expect(status).toBe(1)
    const off = report.cases.flatMap(({ tensors }) => tensors).filter(({ ok }) => !ok)
    expect(off.map(({ name }) => name)).toEqual([expect.stringContaining(tensor.replace('expect.', ''))])
  })

  it('is off when a pipeline image is', async () => {
    const folder = join(temporaryFolder(), 'pipeline')
    cpSync(join(pipeline, '..'), folder, { recursive: true })
    perturb(join(folder, 'expect.safetensors'), 'text_embeddings.0')
    expect((await verify(folder)).status).toBe(1)
  })

  it('is off when a case names a kind it does not know', async () => {
    const folder = copyOf('vae')
    const file = join(folder, 'case.json')
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), kind: 'telepathy' }))
    const { status, stdout } = await cli(['verify', folder])
    expect(status).toBe(1)
    expect(stdout).toContain('telepathy')
  })

  it('prints each tensor for people', async () => {
    const { status, stdout } = await cli(['verify', join(cases, 'schedule-shift3')])
    expect(status).toBe(0)
    expect(stdout).toMatch(/sigma\.logit_normal +error \S+ +bound \S+ +ok/)
  })
})
