// What must not compile, and what must. `vitest` checks this file with tsc; nothing of it runs.

import { describe, expectTypeOf, it } from 'vitest'
import {
  type Batch,
  createAdapter,
  createPipeline,
  DataLoader,
  type FlowMatchingContext,
  FlowMatchingPipeline,
  Flux2Adapter,
  type Flux2Inputs,
  type Flux2Transformer,
  LrSchedule,
  ModelAdapter,
  type Parameter,
  type Recipe,
  type StepResult,
  Tensor,
  timeShift,
} from '../src/index'

declare const model: Flux2Transformer
declare const shape: number[]
const latents = Tensor.zeros([1, 128, 4, 4])
const text = Tensor.zeros([1, 8, 64])
const batch: Batch = { imageLatents: latents, textEmbeddings: text }
const pipeline = createPipeline('flux2')

describe('ranks', () => {
  it('are known of shapes that are written out', () => {
    expectTypeOf(latents).toEqualTypeOf<Tensor<4>>()
    expectTypeOf(Tensor.fromFloat32([1, 2], [2])).toEqualTypeOf<Tensor<1>>()
    expectTypeOf(latents.reshape([1, 16, 128])).toEqualTypeOf<Tensor<3>>()
    expectTypeOf(latents.sum()).toEqualTypeOf<Tensor<0>>()
    expectTypeOf(latents.square().add(1)).toEqualTypeOf<Tensor<4>>()
    expectTypeOf(latents.mul(latents)).toEqualTypeOf<Tensor<4>>()
  })

  it('are open otherwise, and then fit everywhere', () => {
    const unknown = Tensor.zeros(shape)
    new Flux2Adapter().packLatents(unknown)
    const scaled: Tensor<4> = latents.mul(Tensor.zeros([1]))
    pipeline.step(model, { imageLatents: scaled, textEmbeddings: unknown })
  })

  it('are refused where they do not fit', () => {
    const adapter = new Flux2Adapter()
    // @ts-expect-error packs 4-D latents
    adapter.packLatents(text)
    // @ts-expect-error unpacks 3-D tokens
    adapter.unpackLatents(latents, 4, 4)
    // @ts-expect-error latents are 4-D
    pipeline.step(model, { imageLatents: text, textEmbeddings: text })
    // @ts-expect-error embeddings are 3-D
    pipeline.step(model, { imageLatents: latents, textEmbeddings: latents })
    // @ts-expect-error one σ per sample
    pipeline.step(model, batch, { sigma: latents })
    // @ts-expect-error noise is of the latents' rank
    pipeline.step(model, batch, { noise: text })
    // @ts-expect-error one guidance per sample
    pipeline.step(model, { ...batch, guidance: text })
    pipeline.step(model, { ...batch, references: [[latents, Tensor.zeros([128, 2, 3])], []] })
    // @ts-expect-error a list for each sample
    pipeline.step(model, { ...batch, references: [latents] })
  })
})

describe('names', () => {
  it('of batch keys', () => {
    // @ts-expect-error snake case
    pipeline.step(model, { image_latents: latents, textEmbeddings: text })
    // @ts-expect-error a key too few
    pipeline.step(model, { imageLatents: latents })
    // @ts-expect-error a key too many
    pipeline.step(model, { imageLatents: latents, textEmbeddings: text, depth: latents })
  })

  it('of strategies, options and types', () => {
    // @ts-expect-error unknown strategy
    new FlowMatchingPipeline(new Flux2Adapter(), { timestepSampling: 'logitNormal' })
    // @ts-expect-error unknown option
    new FlowMatchingPipeline(new Flux2Adapter(), { timestepSampler: 'mode' })
    // @ts-expect-error unknown shift
    createPipeline('flux2', {}, { flowShift: 'cubic' })
    // @ts-expect-error unknown weighting
    createPipeline('flux2', {}, { lossWeighting: 'quadratic' })
    // @ts-expect-error unknown adapter
    createAdapter('hunyuan')
    // @ts-expect-error unknown option of the adapter
    createAdapter('flux2', { guidance: 1 })
    // @ts-expect-error this adapter's options are required
    createAdapter('calm')
    createAdapter('calm', { strength: 1 })
    // @ts-expect-error unknown option of a step
    pipeline.step(model, batch, { epoch: 1 })
    // @ts-expect-error unknown type
    latents.to('float8')
    // @ts-expect-error unknown kind
    timeShift(0.5, 1024, 'cosine')
    // @ts-expect-error unknown course
    new LrSchedule({ type: 'square', lr: 1, totalSteps: 1 })
    // @ts-expect-error unknown key
    DataLoader.open({ model: 'm', train: 'images', batchSise: 2 })
    // @ts-expect-error unknown key of a recipe
    const recipe: Recipe = { model: { path: 'm' }, data: { train: 'i' }, train: { steps: 1 }, flowMaching: {} }
    expectTypeOf(recipe).toEqualTypeOf<Recipe>()
  })
})

describe('adapters of one’s own', () => {
  interface Depth extends Batch {
    depth: Tensor<4>
  }

  class WithDepth extends Flux2Adapter<Depth> {
    override async prepareInputs(context: FlowMatchingContext<Depth>): Promise<Flux2Inputs> {
      expectTypeOf(context.batch.depth).toEqualTypeOf<Tensor<4>>()
      // @ts-expect-error not in this batch
      context.batch.normals
      return super.prepareInputs(context)
    }
  }

  it('type the batch of a step', () => {
    const own = new FlowMatchingPipeline(new WithDepth())
    expectTypeOf(own.step(model, { ...batch, depth: latents })).toEqualTypeOf<Promise<StepResult>>()
    // @ts-expect-error without what the adapter needs
    own.step(model, batch)
  })

  it('type the model and the inputs', () => {
    class Linear extends ModelAdapter<{ x: Tensor<4> }, Batch, Parameter> {
      prepareInputs(context: FlowMatchingContext) {
        return { x: context.noisyLatents }
      }
      forward(weight: Parameter, inputs: { x: Tensor<4> }) {
        return inputs.x.mul(weight.tensor)
      }
    }
    const own = new FlowMatchingPipeline(new Linear())
    expectTypeOf(own.step).parameter(0).toEqualTypeOf<Parameter>()
    // @ts-expect-error a transformer is not what this adapter runs
    own.step(model, batch)
  })

  it('must give what the pipeline takes', () => {
    // @ts-expect-error forward is missing
    class Half extends ModelAdapter {
      prepareInputs() {
        return {}
      }
    }
    class Wrong extends Flux2Adapter {
      // @ts-expect-error a loss per element is a tensor
      override computeLoss() {
        return 3
      }
    }
    expectTypeOf<Half | Wrong>().not.toBeAny()
  })
})
