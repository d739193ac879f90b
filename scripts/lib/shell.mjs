// Running other programs. Only Node built-ins: these scripts run before `npm ci`.

import { spawn, spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

// npm and the programs in node_modules/.bin are .cmd files on Windows, which only a shell starts.
const shell = process.platform === 'win32'
const bin = join(root, 'node_modules', '.bin')
const separator = shell ? ';' : ':'
const env = { ...process.env, PATH: `${bin}${separator}${process.env.PATH ?? ''}` }

/** Runs a program in the repository root with its output shown; gives its exit status (1 when a signal ended it). */
export function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env, shell, ...options })
  if (error) throw error
  return status ?? 1
}

/** Runs a program with its standard output shown and also kept. */
export function runKeeping(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], env, shell })
    let output = ''
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text
      process.stdout.write(text)
    })
    child.on('error', reject).on('close', (status) => resolve({ status: status ?? 1, output }))
  })
}

/**
 * The triple this machine builds for. `napi build` names it to cargo, which then keeps its products in a folder of
 * their own: tests and lints that name it too share them.
 */
export function hostTarget() {
  return /^host: (.+)$/m.exec(read('rustc', ['-vV']) ?? '')[1]
}

/** What a program prints, or nothing when it cannot be run. */
export function read(command, args) {
  const { status, stdout } = spawnSync(command, args, { cwd: root, encoding: 'utf8', env, shell })
  return status === 0 ? stdout.trim() : undefined
}

/** What a program prints; it is an error when it fails. */
export function runCapturing(command, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    env,
    shell,
    maxBuffer: 1 << 28,
    ...options,
  })
  if (error) throw error
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${stdout}${stderr}`)
  return stdout
}

/** Runs a program with nothing shown: its exit status and everything that it printed. */
export function runQuietly(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: root,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      shell: shell && command === 'npm',
      ...options,
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output += text
      })
    }
    child.on('error', reject).on('close', (status) => resolve({ status: status ?? 1, output }))
  })
}
