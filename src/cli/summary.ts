import type { TrainSummary } from '../types'

/** A finished run in plain words: whether it helped, and where everything lies. */
export function describeSummary(summary: TrainSummary): string[] {
  const { evaluationBefore: before, evaluationAfter: after } = summary
  const lines = ['', `trained ${summary.steps} steps${seconds(summary.trainingSeconds)}`]
  if (before !== undefined && after !== undefined) {
    const change = (100 * (after - before)) / before
    lines.push(
      `loss on held-out images: ${before.toFixed(4)} before → ${after.toFixed(4)} after (${change.toFixed(1)} %)`,
    )
  }
  lines.push(...places(summary).map(([label, path]) => `  ${label.padEnd(14)} ${path}`))
  return lines
}

function places(summary: TrainSummary): Array<[string, string]> {
  const { runDir, weights, samplesBefore = [], samplesAfter = [], plot, report } = summary
  const all: Array<[string, string | undefined]> = [
    ['run folder', runDir],
    ['weights', weights],
    ...samplesBefore.map((path): [string, string] => ['image before', path]),
    ...samplesAfter.map((path): [string, string] => ['image after', path]),
    ['loss plot', plot],
    ['report', report],
  ]
  return all.filter((place): place is [string, string] => place[1] !== undefined)
}

function seconds(value: number | undefined): string {
  return value === undefined ? '' : ` in ${Math.round(value)} s`
}
