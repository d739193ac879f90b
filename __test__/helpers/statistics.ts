/** A cumulative distribution function. */
export type Cdf = (x: number) => number

/**
 * Probability that draws from `cdf` lie as far from it as `sample` does: the Kolmogorov–Smirnov test, with Stephens'
 * correction for finite samples.
 */
export function kolmogorovSmirnov(sample: ArrayLike<number>, cdf: Cdf): number {
  const sorted = Float64Array.from(sample).sort()
  const n = sorted.length
  let distance = 0
  for (let i = 0; i < n; ) {
    const value = sorted[i] as number
    let end = i
    while (end < n && sorted[end] === value) end += 1
    // Just below a value that clamping gave many draws, the distribution function has not jumped yet.
    const below = end - i > 1 ? cdf(value - 1e-9) : cdf(value)
    distance = Math.max(distance, Math.abs(cdf(value) - end / n), Math.abs(below - i / n))
    i = end
  }
  return kolmogorovQ((Math.sqrt(n) + 0.12 + 0.11 / Math.sqrt(n)) * distance)
}

/** 2·Σ (−1)^(k−1)·e^(−2k²λ²). */
function kolmogorovQ(lambda: number): number {
  if (lambda < 0.2) return 1
  let sum = 0
  for (let k = 1; k <= 100; k += 1) sum += (k % 2 === 1 ? 1 : -1) * Math.exp(-2 * k * k * lambda * lambda)
  return Math.min(1, Math.max(0, 2 * sum))
}

/** Of a standard normal, by integrating its density. */
export function normalCdf(x: number): number {
  if (x < -9) return 0
  if (x > 9) return 1
  return 0.5 + integral((t) => Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI), 0, x)
}

/** ∫ f from a to b by Simpson's rule. */
export function integral(f: (x: number) => number, a: number, b: number, steps = 400): number {
  const h = (b - a) / steps
  let sum = f(a) + f(b)
  for (let i = 1; i < steps; i += 1) sum += (i % 2 === 1 ? 4 : 2) * f(a + i * h)
  return (sum * h) / 3
}

/** Where a function that falls from 1 at 0 to 0 at 1 has the value `y`. */
export function inverseFalling(f: (x: number) => number, y: number): number {
  let [low, high] = [0, 1]
  for (let i = 0; i < 60; i += 1) {
    const middle = (low + high) / 2
    if (f(middle) > y) low = middle
    else high = middle
  }
  return (low + high) / 2
}

/** The function of a grid of values, linear in between: for functions that are dear. */
export function tabulated(f: Cdf, points = 20_000): Cdf {
  const table = Float64Array.from({ length: points + 1 }, (_, i) => f(i / points))
  return (x) => {
    const at = Math.min(Math.max(x, 0), 1) * points
    const i = Math.min(Math.floor(at), points - 1)
    return (table[i] as number) + (at - i) * ((table[i + 1] as number) - (table[i] as number))
  }
}

/** Whether `hits` of `n` fit the probability `p`: within five standard deviations. */
export function fitsProbability(hits: number, n: number, p: number): boolean {
  return Math.abs(hits - n * p) <= 5 * Math.sqrt(n * p * (1 - p))
}
