import { describe, expect, it } from 'vitest'
import { createAdapter, createPipeline, FlowMatchingPipeline, Flux2Adapter, Tensor } from '../src/index'

/** 0, 1, 2, … */
function counting<const S extends readonly number[]>(...shape: S) {
  const length = shape.reduce((product, extent) => product * extent, 1)
  const data = Float32Array.from({ length }, (_, i) => i)
  return Tensor.fromFloat32<S>(data, shape)
}

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

  it('numbers references in time, each from its own corner', () => {
    const ids = adapter.prepareImageIds([counting(1, 4, 1, 2), counting(4, 2, 1)])
    expect([ids.shape, ids.dtype]).toEqual([[1, 4, 4], 'int64'])
    expect([...ids.toBigInt64Array()].map(Number)).toEqual([10, 0, 0, 0, 10, 0, 1, 0, 20, 0, 0, 0, 20, 1, 0, 0])
    expect(() => adapter.prepareImageIds([counting(4, 2) as Tensor])).toThrow(/\[1, 128, h, w\] or \[128, h, w\]/)
  })

  it('puts the references of each sample beside the noisy tokens', async () => {
    const noisyLatents = counting(2, 4, 1, 2)
    const batch = {
      imageLatents: noisyLatents,
      textEmbeddings: counting(2, 3, 5),
      references: [[], [counting(4, 1, 1), counting(1, 4, 1, 2)]],
    }
    const inputs = await adapter.prepareInputs({ noisyLatents, timesteps: Tensor.zeros([2]), batch })
    expect(inputs.hiddenStates.shape).toEqual([2, 2, 4])
    expect(inputs.references?.[0]).toBeUndefined()
    const { hiddenStates, ids } = inputs.references?.[1] ?? {}
    expect([...(hiddenStates?.toFloat32Array() ?? [])]).toEqual([0, 1, 2, 3, 0, 2, 4, 6, 1, 3, 5, 7])
    expect([...(ids?.toBigInt64Array() ?? [])].map(Number)).toEqual([10, 0, 0, 0, 20, 0, 0, 0, 20, 0, 1, 0])
  })

  it('prepares inputs with the guidance of its options, or of the batch', async () => {
    const batch = { imageLatents: counting(2, 4, 1, 2), textEmbeddings: counting(2, 3, 5) }
    const context = { noisyLatents: batch.imageLatents, timesteps: Tensor.fromFloat32([250, 1000], [2]), batch }
    const inputs = await adapter.prepareInputs(context)
    expect(inputs.hiddenStates.shape).toEqual([2, 2, 4])
    expect(inputs.encoderHiddenStates.toFloat32Array()).toEqual(batch.textEmbeddings.toFloat32Array())
    expect([...inputs.timestep.toFloat32Array()]).toEqual([0.25, 1])
    expect([inputs.imgIds.shape, inputs.txtIds.shape]).toEqual([
      [2, 2, 4],
      [2, 3, 4],
    ])
    expect([...(inputs.guidance?.toFloat32Array() ?? [])]).toEqual([3.5, 3.5])
    const guided = { ...batch, guidance: Tensor.fromFloat32([1, 2], [2]) }
    const { guidance } = await adapter.prepareInputs({ ...context, batch: guided })
    expect([...(guidance?.toFloat32Array() ?? [])]).toEqual([1, 2])
    expect((await new Flux2Adapter({ useGuidanceEmbeds: false }).prepareInputs(context)).guidance).toBeUndefined()
  })

  it.each([
    ['the empty prompt', Tensor.fromFloat32([9], [1, 1]), [9, 2, 9]],
    ['zeros', undefined, [0, 2, 0]],
  ])('replaces dropped captions by %s', async (_, emptyPrompt, expected) => {
    const noisyLatents = counting(3, 4, 1, 2)
    const inputs = await adapter.prepareInputs({
      noisyLatents,
      timesteps: Tensor.fromFloat32([500, 500, 500], [3]),
      dropCaption: [true, false, true],
      emptyPrompt,
      batch: { imageLatents: noisyLatents, textEmbeddings: Tensor.fromFloat32([1, 2, 3], [3, 1, 1]) },
    })
    expect([...inputs.encoderHiddenStates.toFloat32Array()]).toEqual(expected)
  })

  it('names the rank of latents that are not 4-D', async () => {
    const shape: number[] = [1, 4, 2]
    const noisyLatents = Tensor.zeros(shape)
    const batch = { imageLatents: noisyLatents, textEmbeddings: counting(1, 3, 5) }
    const prepare = adapter.prepareInputs({ noisyLatents, timesteps: Tensor.fromFloat32([1], [1]), batch })
    await expect(prepare).rejects.toThrow(/noisyLatents must have shape \[batch, 128, h, w\] \(rank 4, not 3\)/)
    await expect(prepare).rejects.toMatchObject({ code: 'SHAPE_MISMATCH' })
  })
})

describe('by name', () => {
  it('makes adapters and pipelines', async () => {
    const adapter = createAdapter('flux2', { guidanceScale: 2 })
    expect(adapter).toBeInstanceOf(Flux2Adapter)
    const pipeline = createPipeline('flux2', {}, { flowShift: 1, mixUniformRatio: 0 })
    expect(pipeline).toBeInstanceOf(FlowMatchingPipeline)
    expect(pipeline.adapter).toBeInstanceOf(Flux2Adapter)
  })

  it('names what is registered', () => {
    const make = () => createAdapter('hunyuan' as 'flux2')
    expect(make).toThrow(/adapter must be one of flux2, got "hunyuan"; registerAdapter adds others/)
    expect(make).toThrow(expect.objectContaining({ code: 'RECIPE_INVALID' }))
  })
})
