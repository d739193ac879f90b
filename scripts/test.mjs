// `npm test`: installs, builds, and runs the Rust and the TypeScript tests. Works as the first command after a clone.
//
// Rust tests use the release profile and name the target, like the build of the addon: the dependencies are then
// compiled once for both, which on two cores is most of the time, and training in the tests runs at its real speed.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import './build.mjs'
import { say } from './lib/say.mjs'
import { hostTarget, run, runKeeping } from './lib/shell.mjs'

// The addon's crate has symbols that only Node provides; vitest tests it.
const PACKAGES = ['--workspace', '--exclude', 'flowtune-node']
const CARGO = ['test', '--release', '--target', hostTarget(), ...PACKAGES, '--no-fail-fast']

async function cargoTests() {
  say('running the Rust tests')
  const { status, output } = await runKeeping('cargo', CARGO)
  const results = [...output.matchAll(/^test result: \S+ (\d+) passed; (\d+) failed;/gm)]
  const passed = results.reduce((sum, [, count]) => sum + Number(count), 0)
  const failed = results.reduce((sum, [, , count]) => sum + Number(count), 0)
  return { passed, failed: atLeastOne(failed, status) }
}

function vitestTests() {
  say('running the TypeScript tests')
  const folder = mkdtempSync(join(tmpdir(), 'flowtune-vitest-'))
  const file = join(folder, 'results.json')
  try {
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`]
    const status = run('vitest', ['run', ...reporters, ...process.argv.slice(2)])
    const { numPassedTests: passed, numFailedTests: failed } = readResults(file)
    return { passed, failed: atLeastOne(failed, status) }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A runner that crashed wrote none. */
function readResults(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return { numPassedTests: 0, numFailedTests: 0 }
  }
}

/** What fails without a test of its own failing (a compile error, a crash) counts as one. */
function atLeastOne(failed, status) {
  return status === 0 ? failed : Math.max(failed, 1)
}

const results = [await cargoTests(), vitestTests()]
const passed = results.reduce((sum, result) => sum + result.passed, 0)
const failed = results.reduce((sum, result) => sum + result.failed, 0)
process.exitCode = failed === 0 && passed > 0 ? 0 : 1
say(`\n${passed} passed, ${failed} failed`)
