// A density of noise levels and a weighting of one's own. What is random comes from the draws that the step hands over,
// so steps stay a function of seed and step.
//
//   npx tsx examples/custom-sampler.ts

import { FlowMatchingPipeline, Flux2Adapter, type LossWeight, type SampleTimesteps } from 'flowtune'

/** σ stratified over the batch: sample i lies in the i-th part of 0..1, a little towards noise. */
const stratified: SampleTimesteps = ({ batch, uniform }) =>
  uniform.map((u, i) => {
    const level = (i + u) / batch
    return level ** 0.8
  })

/**
 * Min-SNR with γ = 5 (arXiv:2303.09556), which weights the error of x₀ by min(SNR, γ). Here the SNR is ((1 − σ)/σ)², and
 * an error of the velocity is σ times as large in x₀: σ²·min(SNR, γ).
 */
const minSnr: LossWeight = (sigma) => sigma.map((level) => Math.min((1 - level) ** 2, 5 * level ** 2))

const pipeline = new FlowMatchingPipeline(new Flux2Adapter(), { sampleTimesteps: stratified, lossWeight: minSnr })

const bins = new Array<number>(20).fill(0)
for (let step = 0; step < 500; step += 1) {
  const { sigma } = pipeline.sampleTimesteps(8, { seed: 7, step })
  for (const level of sigma.toFloat32Array()) {
    const bin = Math.min(Math.floor(level * bins.length), bins.length - 1)
    bins[bin] = (bins[bin] ?? 0) + 1
  }
}
bins.forEach((count, i) => {
  console.log(`σ ${(i / bins.length).toFixed(2)}  ${'█'.repeat(count / 8)} ${count}`)
})
const { sigma } = pipeline.sampleTimesteps(4, { seed: 7 })
const weights = pipeline.lossWeights(sigma).toFloat32Array()
sigma.toFloat32Array().forEach((level, i) => {
  console.log(`weight at σ ${level.toFixed(2)}: ${weights[i]?.toFixed(3)}`)
})
