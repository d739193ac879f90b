// The distribution of noise levels against its definition: 100,000 draws each, Kolmogorov–Smirnov.

import { describe, expect, it } from 'vitest'
import { FlowMatchingPipeline, type FlowMatchingPipelineOptions, Flux2Adapter, Tensor } from '../src/index'
import {
  type Cdf,
  fitsProbability,
  integral,
  inverseFalling,
  kolmogorovSmirnov,
  normalCdf,
  tabulated,
} from './helpers/statistics'

const DRAWS = 100_000
/** Below this probability a distribution is rejected; seeds are fixed, so a test that passes passes always. */
const P = 1e-4

const adapter = new Flux2Adapter()

function draw(options: FlowMatchingPipelineOptions, tokens?: number, seed = 1): Float32Array {
  const pipeline = new FlowMatchingPipeline(adapter, { mixUniformRatio: 0, ...options })
  return pipeline.sampleTimesteps(DRAWS, { tokens, seed }).sigma.toFloat32Array()
}

const logitNormal =
  (mean: number, std: number): Cdf =>
  (u) =>
    u <= 0 ? 0 : u >= 1 ? 1 : normalCdf((Math.log(u / (1 - u)) - mean) / std)

const uniform: Cdf = (u) => Math.min(Math.max(u, 0), 1)

/** u = 1 − v − 1.29·(cos²(πv/2) − 1 + v) falls from 1 to 0, so u ≤ x where v ≥ its inverse at x. */
const mode: Cdf = (u) =>
  1 - inverseFalling((v) => 1 - v - 1.29 * (Math.cos((Math.PI * v) / 2) ** 2 - 1 + v), Math.min(Math.max(u, 0), 1))

function betaCdf(alpha: number, beta: number): Cdf {
  const density = (t: number) => t ** (alpha - 1) * (1 - t) ** (beta - 1)
  const whole = integral(density, 0, 1, 20_000)
  return tabulated((x) => integral(density, 0, x, 1000) / whole, 2000)
}

/** σ = s/(s + 1/u − 1), so u = σ/(s − (s − 1)·σ). */
function shifted(cdf: Cdf, shift: number): Cdf {
  return tabulated((sigma) => cdf(sigma / (shift - (shift - 1) * sigma)))
}

const dynamic = (tokens: number) => Math.exp(0.5 + ((1.15 - 0.5) * (tokens - 256)) / (4096 - 256))
const linear = (tokens: number) => Math.exp(0.5 + (0.65 * tokens) / 4096)
const sqrt = (tokens: number) => Math.max(1, 3 * Math.sqrt(tokens / 128 ** 2))

describe('strategies under shift 3', () => {
  it.each<[string, FlowMatchingPipelineOptions, Cdf]>([
    ['uniform', { timestepSampling: 'uniform' }, uniform],
    ['logit_normal', { timestepSampling: 'logit_normal' }, logitNormal(0, 1)],
    [
      'logit_normal (0.4, 0.7)',
      { timestepSampling: 'logit_normal', logitMean: 0.4, logitStd: 0.7 },
      logitNormal(0.4, 0.7),
    ],
    ['lognorm, whatever mean and deviation say', { timestepSampling: 'lognorm', logitMean: 2 }, logitNormal(0, 1)],
    ['mode', { timestepSampling: 'mode' }, mode],
    ['mix, when nothing is mixed in', { timestepSampling: 'mix' }, logitNormal(0, 1)],
  ])('%s', (_, options, cdf) => {
    expect(kolmogorovSmirnov(draw(options), shifted(cdf, 3))).toBeGreaterThan(P)
    // A shift of 3.2 is caught.
    expect(kolmogorovSmirnov(draw({ ...options, flowShift: 3.2 }), shifted(cdf, 3))).toBeLessThan(P)
  })
})

describe('strategies without shift', () => {
  it.each([
    [2.5, 1.5],
    [1.2, 4],
  ])('beta (%d, %d)', (betaAlpha, betaBeta) => {
    const cdf = betaCdf(betaAlpha, betaBeta)
    const options = { timestepSampling: 'beta', betaAlpha, betaBeta } as const
    expect(kolmogorovSmirnov(draw(options), cdf)).toBeGreaterThan(P)
    expect(kolmogorovSmirnov(draw({ ...options, flowShift: 9 }), cdf)).toBeGreaterThan(P)
    expect(kolmogorovSmirnov(draw({ ...options, betaAlpha: betaAlpha * 1.05 }), cdf)).toBeLessThan(P)
  })

  it('beta is never mixed with uniform batches, as in Automodel', () => {
    const options = { timestepSampling: 'beta', mixUniformRatio: 1 } as const
    expect(kolmogorovSmirnov(draw(options), betaCdf(2.5, 1.5))).toBeGreaterThan(P)
  })

  it('useSigmaNoise: false is uniform whatever else is asked for', () => {
    const options = { useSigmaNoise: false, timestepSampling: 'mode', flowShift: 5, mixUniformRatio: 1 } as const
    expect(kolmogorovSmirnov(draw(options), uniform)).toBeGreaterThan(P)
    expect(kolmogorovSmirnov(draw(options), (x) => uniform(x) ** 1.03)).toBeLessThan(P)
    const pipeline = new FlowMatchingPipeline(adapter, options)
    expect(pipeline.sampleTimesteps(1).method).toBe('uniform_no_shift')
  })
})

describe('shifts', () => {
  it.each<[FlowMatchingPipelineOptions['flowShift'], number, number]>([
    [1, 4096, 1],
    [3, 64, 3],
    ['dynamic', 256, dynamic(256)],
    ['dynamic', 1024, dynamic(1024)],
    ['dynamic', 9216, dynamic(9216)],
    ['linear', 1024, linear(1024)],
    ['linear', 4096, linear(4096)],
    ['sqrt', 1024, sqrt(1024)],
    ['sqrt', 4096, sqrt(4096)],
    ['sqrt', 16_384, sqrt(16_384)],
  ])('%s at %d tokens is %d', (flowShift, tokens, shift) => {
    const sigma = draw({ flowShift }, tokens)
    expect(kolmogorovSmirnov(sigma, shifted(logitNormal(0, 1), shift))).toBeGreaterThan(P)
    expect(kolmogorovSmirnov(sigma, shifted(logitNormal(0, 1), (shift * 3.2) / 3))).toBeLessThan(P)
  })
})

describe('clamps and mixtures', () => {
  it('puts the mass beyond a clamp onto it', () => {
    const [sigmaMin, sigmaMax] = [Math.fround(0.3), Math.fround(0.8)]
    const whole = shifted(logitNormal(0, 1), 3)
    const clamped: Cdf = (x) => (x < sigmaMin ? 0 : x >= sigmaMax ? 1 : whole(x))
    const sigma = draw({ sigmaMin, sigmaMax })
    expect(kolmogorovSmirnov(sigma, clamped)).toBeGreaterThan(P)
    expect(fitsProbability(sigma.filter((x) => x === sigmaMin).length, DRAWS, whole(sigmaMin))).toBe(true)
    expect(fitsProbability(sigma.filter((x) => x === sigmaMax).length, DRAWS, 1 - whole(sigmaMax))).toBe(true)
  })

  it.each(['logit_normal', 'mix'] as const)('%s: a share of the batches is uniform', (timestepSampling) => {
    const ratio = 0.3
    const pipeline = new FlowMatchingPipeline(adapter, { timestepSampling, mixUniformRatio: ratio })
    const sigma = new Float32Array(DRAWS)
    let mixed = 0
    for (let step = 0; step < DRAWS; step += 1) {
      using drawn = new Disposing(pipeline.sampleTimesteps(1, { step }))
      sigma[step] = drawn.sigma.item()
      if (drawn.method === 'uniform') mixed += 1
    }
    expect(fitsProbability(mixed, DRAWS, ratio)).toBe(true)
    const mixture = shifted((u) => ratio * uniform(u) + (1 - ratio) * logitNormal(0, 1)(u), 3)
    expect(kolmogorovSmirnov(sigma, mixture)).toBeGreaterThan(P)
    expect(kolmogorovSmirnov(sigma, shifted(logitNormal(0, 1), 3))).toBeLessThan(P)
  })

  it('mixes whole batches, never part of one', () => {
    const pipeline = new FlowMatchingPipeline(adapter, { timestepSampling: 'mode', mixUniformRatio: 0.5 })
    const methods = Array.from({ length: 50 }, (_, step) => pipeline.sampleTimesteps(4, { step }).method)
    expect(new Set(methods)).toEqual(new Set(['uniform', 'mode']))
  })

  /** Frees the two tensors of a draw at the end of a block. */
  class Disposing implements Disposable {
    readonly sigma: Tensor
    readonly method: string
    readonly #timesteps: Tensor

    constructor(drawn: { sigma: Tensor; timesteps: Tensor; method: string }) {
      this.sigma = drawn.sigma
      this.method = drawn.method
      this.#timesteps = drawn.timesteps
    }

    [Symbol.dispose](): void {
      this.sigma.dispose()
      this.#timesteps.dispose()
    }
  }
})

describe('randomness as a function of seed, step and sample', () => {
  const pipeline = new FlowMatchingPipeline(adapter, { mixUniformRatio: 0 })
  const sigmas = (batch: number, key: object) => [...pipeline.sampleTimesteps(batch, key).sigma.toFloat32Array()]

  it('gives a sample the same draw in every batch', () => {
    const eight = sigmas(8, { seed: 5, step: 3 })
    expect(sigmas(8, { seed: 5, step: 3 })).toEqual(eight)
    expect([...sigmas(4, { seed: 5, step: 3 }), ...sigmas(4, { seed: 5, step: 3, first: 4 })]).toEqual(eight)
    expect(sigmas(8, { seed: 6, step: 3 })).not.toEqual(eight)
    expect(sigmas(8, { seed: 5, step: 4 })).not.toEqual(eight)
  })

  it('takes seeds up to 2⁵³', () => {
    const [large, next] = [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER - 1]
    expect(sigmas(2, { seed: large })).not.toEqual(sigmas(2, { seed: next }))
  })

  it('hands the same draws to functions of the user', () => {
    const custom = new FlowMatchingPipeline(adapter, {
      sampleTimesteps: ({ uniform, normal, tokens }) => {
        expect(tokens).toBe(64)
        const { sigma } = pipeline.sigmasOf({ uniform, normal }, { tokens })
        return sigma.toFloat32Array()
      },
    })
    const key = { seed: 5, step: 3, first: 2, tokens: 64 }
    const drawn = custom.sampleTimesteps(16, key)
    expect(drawn.method).toBe('custom')
    expect([...drawn.sigma.toFloat32Array()]).toEqual(sigmas(16, key))
    const levels = drawn.sigma.toFloat32Array()
    expect([...drawn.timesteps.toFloat32Array()]).toEqual([...levels].map((sigma) => Math.fround(sigma * 1000)))
  })

  it('draws standard normal noise', () => {
    const noise = Tensor.randn([100, 1000], { seed: 3 }).toFloat32Array()
    const cdf = tabulated((x) => normalCdf(x * 20 - 10))
    const at: Cdf = (x) => cdf((x + 10) / 20)
    expect(kolmogorovSmirnov(noise, at)).toBeGreaterThan(P)
    expect(
      kolmogorovSmirnov(
        noise.map((x) => x * 1.03),
        at,
      ),
    ).toBeLessThan(P)
  })
})
