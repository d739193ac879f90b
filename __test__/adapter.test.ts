import { describe, expect, it } from 'vitest'
import { FlowMatchingPipeline, Flux2Adapter, Tensor } from '../src/index'

/** 0, 1, 2, … */
function counting(...shape: number[]): Tensor {
  const length = shape.reduce((product, extent) => product * extent, 1)
  return Tensor.fromFloat32(
    Float32Array.from({ length }, (_, i) => i),
    shape,
  )
}

describe('Tensor', () => {
  it('gives back what it was made from', () => {
    const tensor = counting(2, 3)
    expect([tensor.shape, tensor.dtype]).toEqual([[2, 3], 'float32'])
    expect([...tensor.toFloat32Array()]).toEqual([0, 1, 2, 3, 4, 5])
    expect(Tensor.fromInt64([1n, -2n], [2]).toBigInt64Array()).toEqual(BigInt64Array.of(1n, -2n))
  })

  it('refuses a shape that does not fit, and use after dispose', () => {
    expect(() => Tensor.fromFloat32([1, 2, 3], [2])).toThrow(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
    expect(() => counting(2).toBigInt64Array()).toThrow(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
    const tensor = counting(2)
    tensor.dispose()
    expect(() => tensor.toFloat32Array()).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
  })
})

describe('Flux2Adapter', () => {
  const adapter = new Flux2Adapter()

  it('packs channels last and back', () => {
    const packed = adapter.packLatents(counting(1, 2, 2, 3))
    expect(packed.shape).toEqual([1, 6, 2])
    expect([...packed.toFloat32Array()]).toEqual([0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11])
    const unpacked = adapter.unpackLatents(packed, 2, 3)
    expect(unpacked.shape).toEqual([1, 2, 2, 3])
    expect([...unpacked.toFloat32Array()]).toEqual([...counting(1, 2, 2, 3).toFloat32Array()])
  })

  it('numbers image positions with w fastest, text positions on the last axis', () => {
    const image = adapter.prepareLatentIds(2, 2, 1)
    expect([image.shape, image.dtype]).toEqual([[1, 4, 4], 'int64'])
    expect([...image.toBigInt64Array()].map(Number)).toEqual([0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0])
    const text = adapter.prepareTextIds(3, 1)
    expect([...text.toBigInt64Array()].map(Number)).toEqual([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2])
  })

  it('prepares inputs with the guidance of its options', () => {
    const context = {
      noisyLatents: counting(2, 4, 1, 2),
      textEmbeddings: counting(2, 3, 5),
      timesteps: Tensor.fromFloat32([250, 1000], [2]),
    }
    const inputs = adapter.prepareInputs(context)
    expect(inputs.hiddenStates.shape).toEqual([2, 2, 4])
    expect(inputs.encoderHiddenStates.toFloat32Array()).toEqual(context.textEmbeddings.toFloat32Array())
    expect([...inputs.timestep.toFloat32Array()]).toEqual([0.25, 1])
    expect([inputs.imgIds.shape, inputs.txtIds.shape]).toEqual([
      [2, 2, 4],
      [2, 3, 4],
    ])
    expect([...(inputs.guidance?.toFloat32Array() ?? [])]).toEqual([3.5, 3.5])
    expect(new Flux2Adapter({ useGuidanceEmbeds: false }).prepareInputs(context).guidance).toBeUndefined()
  })

  it('replaces dropped captions', () => {
    const inputs = adapter.prepareInputs({
      noisyLatents: counting(3, 4, 1, 2),
      textEmbeddings: Tensor.fromFloat32([1, 2, 3], [3, 1, 1]),
      timesteps: Tensor.fromFloat32([500, 500, 500], [3]),
      dropCaption: [true, false, true],
      emptyPrompt: Tensor.fromFloat32([9], [1, 1]),
    })
    expect([...inputs.encoderHiddenStates.toFloat32Array()]).toEqual([9, 2, 9])
  })

  it('names the rank of latents that are not 4-D', () => {
    const context = { textEmbeddings: counting(1, 3, 5), timesteps: Tensor.fromFloat32([1], [1]) }
    const prepare = () => adapter.prepareInputs({ ...context, noisyLatents: counting(1, 4, 2) })
    expect(prepare).toThrow(/3/)
    expect(prepare).toThrow(expect.objectContaining({ code: 'SHAPE_MISMATCH' }))
  })
})

describe('FlowMatchingPipeline', () => {
  it('draws the same noise levels from the same seed, within its bounds', () => {
    const pipeline = new FlowMatchingPipeline(new Flux2Adapter(), { sigmaMin: 0.2, sigmaMax: 0.9 })
    const { sigma, timesteps } = pipeline.sampleTimesteps(64, { seed: 3 })
    const values = sigma.toFloat32Array()
    expect(values.length).toBe(64)
    expect(values.every((value) => value >= Math.fround(0.2) && value <= Math.fround(0.9))).toBe(true)
    expect(new Set(values).size).toBeGreaterThan(32)
    expect(timesteps.toFloat32Array()).toEqual(values.map((value) => value * 1000))
    expect(pipeline.sampleTimesteps(64, { seed: 3 }).sigma.toFloat32Array()).toEqual(values)
    expect(pipeline.sampleTimesteps(64, { seed: 4 }).sigma.toFloat32Array()).not.toEqual(values)
  })
})
