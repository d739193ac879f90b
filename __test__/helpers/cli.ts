import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { root } from './paths'

export interface CliResult {
  status: number | null
  stdout: string
  stderr: string
}

/** Runs the built command line as a user would. */
export function cli(args: string[], options: { cwd?: string; onStdout?: (text: string, kill: Kill) => void } = {}) {
  return new Promise<CliResult>((resolve, reject) => {
    const child = spawn(process.execPath, [join(root, 'dist', 'cli.js'), ...args], { cwd: options.cwd ?? root })
    const result = { stdout: '', stderr: '' }
    child.stdout.setEncoding('utf8').on('data', (text) => {
      result.stdout += text
      options.onStdout?.(text, (signal) => child.kill(signal))
    })
    child.stderr.setEncoding('utf8').on('data', (text) => {
      result.stderr += text
    })
    child.on('error', reject).on('close', (status) => resolve({ status, ...result }))
  })
}

export type Kill = (signal: NodeJS.Signals) => void
