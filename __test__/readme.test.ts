// The README's TypeScript: what stands there compiles, and the training script runs, in a folder of a user's own.

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { root, temporaryFolder } from './helpers/paths'

const blocks = [...readFileSync(join(root, 'README.md'), 'utf8').matchAll(/```ts\n([\s\S]*?)```/g)].map(
  ([, code]) => code ?? '',
)

/** A folder in which `flowtune` is installed. */
function project(): string {
  const folder = temporaryFolder()
  mkdirSync(join(folder, 'node_modules'))
  symlinkSync(root, join(folder, 'node_modules', 'flowtune'), 'junction')
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  return folder
}

function node(folder: string, ...args: string[]): string {
  return execFileSync(process.execPath, args, { cwd: folder, encoding: 'utf8' })
}

function compile(codes: string[]): string {
  const folder = project()
  codes.forEach((code, i) => {
    writeFileSync(join(folder, `block-${i}.ts`), code)
  })
  const compilerOptions = { typeRoots: [join(root, 'node_modules', '@types')] }
  writeFileSync(
    join(folder, 'tsconfig.json'),
    JSON.stringify({ extends: join(root, 'tsconfig.json'), compilerOptions, include: ['*.ts'] }),
  )
  try {
    return node(folder, join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '--noEmit', '-p', folder)
  } catch (error) {
    return String((error as { stdout?: string }).stdout)
  }
}

it('compiles', () => {
  expect(blocks.length).toBeGreaterThanOrEqual(2)
  expect(compile(blocks)).toBe('')
  expect(compile(blocks.map((code) => code.replace('step(model', 'step(loader')))).toContain('error TS')
})

it('trains', () => {
  const script = blocks.find((code) => code.includes('createPipeline')) ?? ''
  const folder = project()
  // The embedded model in place of FLUX.2, and fewer steps.
  const code = script
    .replaceAll("'FLUX.2-klein-base-4B'", JSON.stringify(join(root, 'models', 'flux2-tiny')))
    .replace("train: 'photos'", `train: ${JSON.stringify(join(root, 'examples', 'twemoji'))}, resolution: 64`)
    .replace('1000', '3')
  expect(code).not.toContain('FLUX.2-klein')
  writeFileSync(join(folder, 'script.ts'), code)
  const lines = node(folder, join(root, 'node_modules', 'tsx', 'dist', 'cli.mjs'), 'script.ts')
    .trim()
    .split('\n')
  expect(lines).toHaveLength(3)
  expect(readFileSync(join(folder, 'my-lora', 'pytorch_lora_weights.safetensors')).length).toBeGreaterThan(1000)
})
