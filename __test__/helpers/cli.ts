import { spawn } from 'node:child_process'
import { join } from 'node:path'
import type { RunEvent } from '../../src/index'
import { root } from './paths'

export interface CliResult {
  status: number | null
  /** What ended the process, if a signal did. */
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

export type Kill = (signal: NodeJS.Signals) => void

export interface CliOptions {
  cwd?: string
  /** Variables beside those of this process. */
  env?: Record<string, string>
  /** The command line of another installation. */
  program?: string
  /** Called with each whole line of stdout. */
  onLine?: (line: string, kill: Kill) => void
}

/** Runs the built command line as a user would, in a process of its own. */
export function cli(
  args: string[],
  { cwd = root, env, program = join(root, 'dist', 'cli.js'), onLine }: CliOptions = {},
): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...args], {
      cwd,
      env: { ...process.env, ...env },
    })
    const result = { stdout: '', stderr: '' }
    let lines = 0
    child.stdout.setEncoding('utf8').on('data', (text) => {
      result.stdout += text
      const whole = result.stdout.split('\n').slice(0, -1)
      for (const line of whole.slice(lines)) onLine?.(line, (signal) => child.kill(signal))
      lines = whole.length
    })
    child.stderr.setEncoding('utf8').on('data', (text) => {
      result.stderr += text
    })
    child.on('error', reject).on('close', (status, signal) => resolve({ status, signal, ...result }))
  })
}

/** The JSON documents on stdout, one a line. */
export function documents<T = RunEvent>({ stdout }: CliResult): T[] {
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as T)
}
