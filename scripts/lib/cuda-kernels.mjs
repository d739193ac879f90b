// The kernel files through NVIDIA's compiler and assembler.

import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { say } from './say.mjs'
import { root } from './shell.mjs'

const KERNELS = join(root, 'crates', 'flowtune-engine', 'kernels')
// A100, RTX 30, RTX 40, H100, B200, RTX 50.
const CARDS = ['sm_80', 'sm_86', 'sm_89', 'sm_90', 'sm_100', 'sm_120']

/** Each file to PTX as the build makes it, and that to machine code for each card; prints what each kernel takes. */
export function assembleKernels({ home, env }) {
  say('compiling the kernels for each card')
  const used = new Map()
  const files = readdirSync(KERNELS).filter((name) => name.endsWith('.cu'))
  const wrong = files.flatMap((file) => compile(home, env, file, used))
  print(used)
  for (const [kernel, cards] of used) {
    const spilling = CARDS.filter((card) => cards[card]?.spills > 0)
    if (spilling.length > 0) wrong.push(`${kernel} spills registers on ${spilling.join(', ')}`)
  }
  for (const what of wrong) say(`failed: ${what}`)
  return wrong.length === 0 && used.size > 0
}

/** What of the file does not compile, in words. */
function compile(home, env, file, used) {
  const out = join(home, '..', 'ptx')
  mkdirSync(out, { recursive: true })
  const ptx = join(out, file.replace(/\.cu$/, '.ptx'))
  const nvcc = ['-ptx', '-std=c++17', '-O3', '-arch=compute_80', '-o', ptx, join(KERNELS, file)]
  if (tool(home, env, 'nvcc', nvcc) === undefined) return [file]
  return CARDS.filter((card) => !assemble(home, env, ptx, card, used)).map((card) => `${file} for ${card}`)
}

function assemble(home, env, ptx, card, used) {
  const report = tool(home, env, 'ptxas', ['-v', `-arch=${card}`, '-o', '/dev/null', ptx])
  if (report === undefined) return false
  for (const part of report.split('Compiling entry function ').slice(1)) {
    const name = /^'(.+?)'/.exec(part)[1]
    const registers = Number(/Used (\d+) registers/.exec(part)[1])
    const spills = [...part.matchAll(/(\d+) bytes (?:stack frame|spill stores|spill loads)/g)]
    const kernel = used.get(name) ?? {}
    kernel[card] = { registers, spills: spills.reduce((sum, [, bytes]) => sum + Number(bytes), 0) }
    used.set(name, kernel)
  }
  return true
}

/** What a program of the toolchain reports, or nothing when it failed, which it then has said itself. */
function tool(home, env, name, args) {
  const options = { encoding: 'utf8', env: { ...process.env, ...env } }
  const { status, stdout, stderr, error } = spawnSync(join(home, 'bin', name), args, options)
  if (error) throw error
  if (status === 0) return stdout + stderr
  say(stdout + stderr)
  return undefined
}

/** Registers of a thread and bytes spilled or on the stack. */
function print(used) {
  const width = Math.max(6, ...[...used.keys()].map((name) => name.length))
  const row = (name, cells) => say([name.padEnd(width), ...cells.map((cell) => cell.padStart(7))].join(' '))
  row('kernel', CARDS)
  for (const [name, cards] of [...used].sort(([a], [b]) => a.localeCompare(b))) {
    row(
      name,
      CARDS.map((card) => (cards[card] ? `${cards[card].registers}/${cards[card].spills}` : '-')),
    )
  }
  say('registers of a thread / bytes spilled or on the stack')
}
