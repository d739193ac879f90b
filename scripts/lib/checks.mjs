// Checks that are told of as they are made, and once more in a table at the end.

import { performance } from 'node:perf_hooks'
import { say } from './say.mjs'

const rows = []

export const passed = (seen) => ({ ok: true, seen })
export const skipped = (seen) => ({ ok: undefined, seen })
export const judged = (ok, seen) => ({ ok, seen })

/** A line of the table: `work` says what it saw and whether that is right, or throws. */
export async function check(what, work) {
  say(`\n${what}`)
  const start = performance.now()
  const row = await resultOf(work)
  rows.push({ ...row, what, seconds: (performance.now() - start) / 1000 })
  say(`  ${mark(row)}: ${row.seen}`)
}

async function resultOf(work) {
  try {
    return await work()
  } catch (error) {
    return judged(false, error.message.trim().split('\n').slice(-12).join('\n'))
  }
}

const mark = ({ ok }) => (ok === undefined ? 'SKIPPED' : ok ? 'ok' : 'FAILED')

/** The table; the process ends with 1 if anything failed. */
export function printTable(title) {
  const width = Math.max(...rows.map(({ what }) => what.length))
  say(`\n${title}`)
  for (const row of rows) {
    const seen = row.seen.split('\n')[0]
    say(`${mark(row).padEnd(8)}${row.what.padEnd(width + 2)}${row.seconds.toFixed(1).padStart(6)} s  ${seen}`)
  }
  const failed = rows.filter(({ ok }) => ok === false).length
  const left = rows.filter(({ ok }) => ok === undefined).length
  say(`${rows.length - failed - left} ok, ${failed} failed, ${left} skipped`)
  process.exitCode = failed === 0 ? 0 : 1
}
