import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { Gradients, loadSafetensors, Parameter, saveSafetensors, Tensor } from '../src/index'
import { distance, values } from './helpers/model'
import { temporaryFolder } from './helpers/paths'

/** float64 noise, so that differences can be taken. */
function numbers(shape: number[], seed: number): Tensor {
  return Tensor.randn(shape, { seed }).to('float64')
}

/** A function of tensors with what it computes in plain JavaScript, element by element where that is enough. */
interface Operation {
  shapes: number[][]
  run: (...x: Tensor[]) => Tensor
  shape: number[]
  plain: (...x: number[][]) => number[]
}

const at = (x: number[] | undefined, i: number) => x?.[i] ?? Number.NaN
const each = (f: (x: number) => number) => (x: number[]) => x.map(f)
const positive = (x: Tensor) => x.square().add(0.5)

const operations: Record<string, Operation> = {
  'add number': { shapes: [[2, 3]], shape: [2, 3], run: (x) => x.add(1.5), plain: each((x) => x + 1.5) },
  'sub number': { shapes: [[2, 3]], shape: [2, 3], run: (x) => x.sub(1.5), plain: each((x) => x - 1.5) },
  'mul number': { shapes: [[2, 3]], shape: [2, 3], run: (x) => x.mul(-2), plain: each((x) => -2 * x) },
  'div number': { shapes: [[2, 3]], shape: [2, 3], run: (x) => x.div(4), plain: each((x) => x / 4) },
  neg: { shapes: [[2, 3]], shape: [2, 3], run: (x) => x.neg(), plain: each((x) => -x) },
  square: { shapes: [[2, 3]], shape: [2, 3], run: (x) => x.square(), plain: each((x) => x * x) },
  abs: { shapes: [[2, 3]], shape: [2, 3], run: (x) => x.abs(), plain: each(Math.abs) },
  sqrt: { shapes: [[6]], shape: [6], run: (x) => positive(x).sqrt(), plain: each((x) => Math.sqrt(x * x + 0.5)) },
  log: { shapes: [[6]], shape: [6], run: (x) => positive(x).log(), plain: each((x) => Math.log(x * x + 0.5)) },
  pow: { shapes: [[6]], shape: [6], run: (x) => positive(x).pow(1.3), plain: each((x) => (x * x + 0.5) ** 1.3) },
  exp: { shapes: [[6]], shape: [6], run: (x) => x.exp(), plain: each(Math.exp) },
  tanh: { shapes: [[6]], shape: [6], run: (x) => x.tanh(), plain: each(Math.tanh) },
  sigmoid: { shapes: [[6]], shape: [6], run: (x) => x.sigmoid(), plain: each((x) => 1 / (1 + Math.exp(-x))) },
  silu: { shapes: [[6]], shape: [6], run: (x) => x.silu(), plain: each((x) => x / (1 + Math.exp(-x))) },
  clamp: {
    shapes: [[6]],
    shape: [6],
    run: (x) => x.clamp(-0.4, 0.3),
    plain: each((x) => Math.min(Math.max(x, -0.4), 0.3)),
  },
  'add, one per sample': {
    shapes: [
      [2, 3],
      [2, 1],
    ],
    shape: [2, 3],
    run: (x, y) => x.add(y),
    plain: (x, y) => x.map((x, i) => x + at(y, Math.floor(i / 3))),
  },
  'sub, a row': {
    shapes: [[2, 3], [3]],
    shape: [2, 3],
    run: (x, y) => x.sub(y),
    plain: (x, y) => x.map((x, i) => x - at(y, i % 3)),
  },
  'mul, both repeated': {
    shapes: [[2, 1], [3]],
    shape: [2, 3],
    run: (x, y) => x.mul(y),
    plain: (x, y) => [0, 1, 2, 3, 4, 5].map((i) => at(x, Math.floor(i / 3)) * at(y, i % 3)),
  },
  'div, a scalar': {
    shapes: [[2, 3], []],
    shape: [2, 3],
    run: (x, y) => x.div(positive(y)),
    plain: (x, y) => x.map((x) => x / (at(y, 0) ** 2 + 0.5)),
  },
  sum: { shapes: [[2, 3]], shape: [], run: (x) => x.sum(), plain: (x) => [x.reduce((a, b) => a + b)] },
  'sum over rows': {
    shapes: [[2, 3]],
    shape: [3],
    run: (x) => x.sum({ dims: [0] }),
    plain: (x) => [0, 1, 2].map((i) => at(x, i) + at(x, i + 3)),
  },
  'mean, kept': {
    shapes: [[2, 3]],
    shape: [2, 1],
    run: (x) => x.mean({ dims: [1], keepDims: true }),
    plain: (x) => [0, 3].map((i) => (at(x, i) + at(x, i + 1) + at(x, i + 2)) / 3),
  },
  matmul: {
    shapes: [
      [2, 3],
      [3, 2],
    ],
    shape: [2, 2],
    run: (x, y) => x.matmul(y),
    plain: (x, y) =>
      [0, 1, 2, 3].map((i) => [0, 1, 2].reduce((sum, k) => sum + at(x, 3 * (i >> 1) + k) * at(y, 2 * k + (i & 1)), 0)),
  },
  reshape: { shapes: [[2, 3]], shape: [3, 2], run: (x) => x.reshape([3, 2]), plain: (x) => x },
  permute: {
    shapes: [[2, 3]],
    shape: [3, 2],
    run: (x) => x.permute([1, 0]),
    plain: (x) => [0, 3, 1, 4, 2, 5].map((i) => at(x, i)),
  },
  narrow: { shapes: [[4, 2]], shape: [2, 2], run: (x) => x.narrow(0, 1, 2), plain: (x) => x.slice(2, 6) },
  broadcastTo: { shapes: [[1, 3]], shape: [2, 3], run: (x) => x.broadcastTo([2, 3]), plain: (x) => [...x, ...x] },
  cat: {
    shapes: [
      [1, 3],
      [2, 3],
    ],
    shape: [3, 3],
    run: (x, y) => Tensor.cat([x, y]),
    plain: (x, y) => [...x, ...y],
  },
}

describe.each(Object.entries(operations))('%s', (_, { shapes, shape, run, plain }) => {
  it('has the value of plain JavaScript', () => {
    const inputs = shapes.map((each, i) => numbers(each, i + 1))
    const output = run(...inputs)
    expect(output.shape).toEqual(shape)
    expect(distance(values(output), plain(...inputs.map(values)))).toBeLessThan(1e-12)
  })

  it('has the gradient of central differences', async () => {
    const parameters = shapes.map((each, i) => new Parameter(`x${i}`, numbers(each, i + 1)))
    const seed = numbers(shape, 9)
    const loss = () =>
      run(...parameters.map((parameter) => parameter.tensor))
        .mul(seed)
        .sum()
    const gradients = await loss().backward()
    for (const parameter of parameters) {
      const start = values(parameter.tensor)
      const h = 1e-6
      const slopes = start.map((_, i) => {
        const lossAt = (step: number) => {
          const moved = start.map((value, j) => (i === j ? value + step : value))
          parameter.assign(Tensor.fromFloat64(moved, parameter.shape))
          return loss().item()
        }
        return (lossAt(h) - lossAt(-h)) / (2 * h)
      })
      parameter.assign(Tensor.fromFloat64(start, parameter.shape))
      expect(distance(values(gradients.get(parameter)), slopes), parameter.name).toBeLessThan(1e-7)
    }
  })
})

describe('Tensor', () => {
  it('gives back what it was made from', () => {
    const tensor = Tensor.fromFloat32([0, 1, 2, 3, 4, 5], [2, 3])
    expect([tensor.shape, tensor.dtype, tensor.length]).toEqual([[2, 3], 'float32', 6])
    expect(values(tensor)).toEqual([0, 1, 2, 3, 4, 5])
    expect(Tensor.fromInt64([1n, -2n], [2]).toBigInt64Array()).toEqual(BigInt64Array.of(1n, -2n))
    expect(Tensor.fromFloat64([0.1], [1]).toFloat64Array()).toEqual(Float64Array.of(0.1))
    expect(Tensor.full(2, []).item()).toBe(2)
  })

  it('copies typed arrays, in and out', () => {
    const data = Float32Array.of(1, 2)
    const tensor = Tensor.fromFloat32(data, [2])
    data[0] = 9
    tensor.toFloat32Array()[1] = 9
    expect(values(tensor)).toEqual([1, 2])
  })

  it('divides by a number as JavaScript does, rounded once', () => {
    const numbers = Float32Array.from({ length: 1000 }, (_, i) => i + 1)
    const quotients = Tensor.fromFloat32(numbers, [1000]).div(1000).toFloat32Array()
    expect(quotients).toEqual(numbers.map((x) => x / 1000))
  })

  it('converts between floating types', () => {
    const tensor = Tensor.fromFloat32([1 / 3, 65504, -1e-3], [3])
    for (const dtype of ['float64', 'bfloat16', 'float16'] as const) {
      const cast = tensor.to(dtype)
      expect(cast.dtype).toBe(dtype)
      expect(distance(values(cast), values(tensor)), dtype).toBeLessThan(dtype === 'float64' ? 1e-7 : 4e-3)
    }
    expect(() => tensor.to('int64')).toThrow(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
    expect(() => tensor.to('int8' as 'int64')).toThrow(/dtype must be one of float32.*got "int8"/)
  })

  it.each<[string, () => unknown, RegExp]>([
    ['a shape for other data', () => Tensor.fromFloat32([1, 2, 3], [2]), /fromVec: data must have shape for \[2\]/],
    ['integers of floats', () => Tensor.zeros([2]).toBigInt64Array(), /only an int64 tensor has integers.*float32/],
    ['the item of many', () => Tensor.zeros([2]).item(), /tensor must have shape with one element, but has \[2\]/],
    [
      'operands',
      () => Tensor.zeros([2, 3]).add(Tensor.zeros([2, 2])),
      /add: other must .* broadcasts with \[2, 3\], but has \[2, 2\]/,
    ],
    [
      'types of operands',
      () => Tensor.zeros([2]).add(Tensor.fromFloat64([1, 2], [2])),
      /add: expected dtype float32, got float64/,
    ],
    [
      'a matrix product',
      () => Tensor.zeros([2, 3]).matmul(Tensor.zeros([2, 3])),
      /matmul: other must have shape .*3, n\], but has \[2, 3\]/,
    ],
    [
      'a dimension that is not there',
      () => Tensor.zeros([2]).sum({ dims: [1] }),
      /sum: x must have shape with a dimension 1, but has \[2\]/,
    ],
    [
      'entries that are not there',
      () => Tensor.zeros([2]).narrow(0, 1, 2),
      /narrow: x must .* at least 3 entries in dimension 0, but has \[2\]/,
    ],
    [
      'an order of other dimensions',
      () => Tensor.zeros([2, 3]).permute([0, 0]),
      /permute: x must have shape with 2 dimensions, in the order \[0, 0\]/,
    ],
    ['nothing to join', () => Tensor.cat([]), /cat: parts/],
  ])('refuses %s', (_, use, message) => {
    expect(use).toThrow(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
    expect(use).toThrow(message)
  })

  it('is gone after dispose, while another handle stays', () => {
    const tensor = Tensor.zeros([2])
    const clone = tensor.clone()
    tensor.dispose()
    tensor.dispose()
    expect(() => tensor.shape).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    expect(values(clone)).toEqual([0, 0])
    let kept: Tensor
    {
      using scoped = Tensor.zeros([3])
      kept = scoped
    }
    expect(() => kept.length).toThrow('this tensor was disposed of')
  })
})

describe('backward', () => {
  it('uses the graph up', async () => {
    const w = new Parameter('w', Tensor.full(3, [1]))
    const square = w.tensor.square()
    const loss = square.add(1).sum()
    await loss.backward()
    await expect(loss.backward()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(() => square.add(1)).toThrow(/a backward has used these values up/)
    expect(square.detach().add(1).item()).toBe(10)
  })

  it('accumulates, scaled, in a set that is handed on', async () => {
    const w = new Parameter('w', Tensor.full(3, [1]))
    const gradients = new Gradients()
    for (let i = 0; i < 4; i += 1) await w.tensor.square().backward({ gradients, scale: 0.25 })
    expect(gradients.get(w)?.item()).toBe(6)
    gradients.clear()
    expect([gradients.size, gradients.get(w)]).toEqual([0, undefined])
  })

  it('joins graphs that were separate', async () => {
    const w = new Parameter('w', Tensor.full(3, [1]))
    const [a, b] = [w.tensor.square(), w.tensor.pow(3)]
    expect((await a.add(b).backward()).get(w)?.item()).toBeCloseTo(6 + 27, 5)
  })

  it('skips what is frozen', async () => {
    const [w, v] = [new Parameter('w', Tensor.full(3, [1])), new Parameter('v', Tensor.full(2, [1]))]
    v.trainable = false
    const gradients = await w.tensor.mul(v.tensor).backward()
    expect([gradients.size, gradients.get(w)?.item(), gradients.get(v)]).toEqual([1, 2, undefined])
  })
})

describe('safetensors', () => {
  it('keeps types, shapes, values and metadata', async () => {
    const path = join(temporaryFolder(), 'tensors.safetensors')
    const tensor = Tensor.randn([2, 3], { seed: 1 })
    const tensors = {
      float32: tensor,
      float64: tensor.to('float64'),
      bfloat16: tensor.to('bfloat16'),
      float16: tensor.to('float16'),
      int64: Tensor.fromInt64([1n, 2n], [2]),
      scalar: Tensor.full(1, []),
    }
    await saveSafetensors(path, { old: tensor })
    await saveSafetensors(path, tensors, { step: '7' })
    const back = await loadSafetensors(path)
    expect(back.metadata).toEqual({ step: '7' })
    expect(Object.keys(back.tensors).sort()).toEqual(Object.keys(tensors).sort())
    for (const [name, { dtype, shape }] of Object.entries(tensors)) {
      expect([back.tensors[name]?.dtype, back.tensors[name]?.shape]).toEqual([dtype, shape])
    }
    expect(values(back.tensors.bfloat16)).toEqual(values(tensors.bfloat16))
    expect(back.tensors.int64?.toBigInt64Array()).toEqual(BigInt64Array.of(1n, 2n))
  })

  it('names a file that is not there, or cannot be written', async () => {
    await expect(loadSafetensors('absent.safetensors')).rejects.toThrow(/absent\.safetensors/)
    await expect(saveSafetensors('/absent/x.safetensors', {})).rejects.toMatchObject({ code: 'IO' })
  })
})
