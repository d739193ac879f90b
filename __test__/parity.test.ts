// The reference cases through the public API, each object built and each step taken by hand.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import {
  AdamW,
  AutoencoderKLFlux2,
  bsmntwTable,
  clipGradNorm,
  createPipeline,
  eulerSigmas,
  FlowMatchingPipeline,
  type FlowMatchingPipelineOptions,
  Flux2Adapter,
  Flux2Transformer,
  loadSafetensors,
  type Parameter,
  type StateDict,
  Tensor,
  TextEncoder,
  type TimeShiftType,
  timeShift,
} from '../src/index'
import { BOUND, Case, expectClose, scalar } from './helpers/parity'
import { fixtures } from './helpers/paths'

describe('adapter', () => {
  it.each(['adapter-dev', 'adapter-klein'])('%s', async (name) => {
    const parity = await Case.open(name)
    const { guidance_scale: guidanceScale, use_guidance_embeds: useGuidanceEmbeds } = parity.info
    const adapter = new Flux2Adapter({ guidanceScale, useGuidanceEmbeds })
    const noisyLatents = parity.input('noisy_latents')
    const [samples = 0, , height = 0, width = 0] = noisyLatents.shape
    const textEmbeddings = parity.input('text_embeddings')
    const inputs = await adapter.prepareInputs({
      noisyLatents,
      timesteps: parity.input('timesteps'),
      batch: { imageLatents: noisyLatents, textEmbeddings },
    })
    parity.expect('hidden_states', inputs.hiddenStates, BOUND.forward)
    parity.expect('encoder_hidden_states', inputs.encoderHiddenStates, BOUND.forward)
    parity.expect('timestep', inputs.timestep, BOUND.forward)
    parity.expect('img_ids', inputs.imgIds, BOUND.exact)
    parity.expect('txt_ids', inputs.txtIds, BOUND.exact)
    if (inputs.guidance) parity.expect('guidance', inputs.guidance, BOUND.forward)
    expect(inputs.guidance === undefined).toBe(!useGuidanceEmbeds)
    parity.expect('hidden_states', adapter.packLatents(noisyLatents), BOUND.forward)
    parity.expect('unpacked', adapter.unpackLatents(inputs.hiddenStates, height, width), BOUND.forward)
    parity.expect('img_ids', adapter.prepareLatentIds(height, width, samples), BOUND.exact)
    parity.expect('txt_ids', adapter.prepareTextIds(textEmbeddings.shape[1] ?? 0, samples), BOUND.exact)
    parity.finish()
  })
})

describe('schedule', () => {
  it.each(['schedule-shift3', 'schedule-clamped'])('%s', async (name) => {
    const parity = await Case.open(name)
    const { flow_shift, sigma_min, sigma_max, logit_mean, logit_std } = parity.info
    const shared = {
      flowShift: flow_shift,
      sigmaMin: sigma_min,
      sigmaMax: sigma_max,
      logitMean: logit_mean,
      logitStd: logit_std,
    }
    const draws = { uniform: parity.input('uniform').toFloat32Array(), normal: parity.input('normal').toFloat32Array() }
    const adapter = new Flux2Adapter()
    const sigmasOf = (options: FlowMatchingPipelineOptions) =>
      new FlowMatchingPipeline(adapter, { ...shared, ...options }).sigmasOf(draws)
    for (const method of parity.names('expect.sigma.')) {
      const plain = method === 'uniform_no_shift'
      const drawn = sigmasOf(
        plain
          ? { useSigmaNoise: false }
          : { timestepSampling: method as FlowMatchingPipelineOptions['timestepSampling'] },
      )
      expect(drawn.method).toBe(method)
      parity.expect(`sigma.${method}`, drawn.sigma, BOUND.forward)
      parity.expect(`timesteps.${method}`, drawn.timesteps, BOUND.forward)
    }
    const { sigma } = sigmasOf({ timestepSampling: 'uniform' })
    for (const scheme of parity.names('expect.weight.')) {
      const lossWeighting = scheme as FlowMatchingPipelineOptions['lossWeighting']
      const pipeline = new FlowMatchingPipeline(adapter, { ...shared, lossWeighting })
      parity.expect(`weight.${scheme}`, pipeline.lossWeights(sigma), BOUND.forward)
    }
    parity.expect('bsmntw_table', Tensor.fromFloat32(bsmntwTable(), [1000]), BOUND.forward)
    const t = parity.input('t').toFloat32Array()
    for (const shift of parity.names('expect.time_shift.')) {
      const [type, tokens] = shift.split('.') as [TimeShiftType, string]
      parity.expect(
        `time_shift.${shift}`,
        Tensor.fromFloat32(timeShift(t, Number(tokens), type), [t.length]),
        BOUND.forward,
      )
    }
    parity.finish()
  })
})

describe('train', () => {
  it.each(['train-lora-dev', 'train-lora-klein', 'train-full-klein', 'train-edit', 'train-edit-same'])(
    '%s',
    async (name) => {
      const parity = await Case.open(name)
      const { transformer, mode, lora, steps, pipeline: flow, optimizer: o } = parity.info
      const [adapters, weights] = split(parity.weights(), (weight) => weight.includes('.lora_'))
      const model = await Flux2Transformer.fromConfig(transformer, { weights })
      const parameters = mode === 'lora' ? await addLora(model, lora, adapters) : trainAll(model)
      const pipeline = createPipeline(
        'flux2',
        { guidanceScale: flow.guidance_scale ?? 1, useGuidanceEmbeds: transformer.guidance_embeds },
        { flowShift: flow.flow_shift, lossWeighting: flow.loss_weighting, cfgDropoutProb: 0 },
      )
      const { lr, beta1, beta2, eps, weight_decay: weightDecay } = o
      const optimizer = new AdamW(parameters, { lr, beta1, beta2, eps, weightDecay })
      const losses: number[] = []
      for (let i = 0; i < steps; i += 1) {
        const batch = {
          imageLatents: parity.input(`image_latents.${i}`),
          textEmbeddings: parity.input(`text_embeddings.${i}`),
          references: references(parity, i),
        }
        const given = { noise: parity.input(`noise.${i}`), sigma: parity.input(`sigma.${i}`) }
        const { loss, prediction, metrics } = await pipeline.step(model, batch, { ...given, step: i })
        expect(loss.item()).toBeCloseTo(metrics.loss, 5)
        losses.push(metrics.loss)
        const gradients = await loss.backward()
        const norm = await clipGradNorm(gradients, o.max_grad_norm)
        if (i === 0) {
          parity.expect('prediction.0', prediction, BOUND.forward)
          parity.expect('grad_norm.0', scalar(norm), BOUND.gradient)
          expect(gradients.size).toBe(parameters.length)
          for (const parameter of parameters) {
            parity.expect(`grad.0.${parameter.name}`, gradients.get(parameter) as Tensor, BOUND.gradient)
          }
        }
        await optimizer.step(gradients)
      }
      parity.expect('loss', Tensor.fromFloat32(losses, [steps]), BOUND.forward)
      for (const parameter of parameters) parity.expect(`final.${parameter.name}`, parameter.tensor, BOUND.gradient)
      parity.finish()
    },
  )

  /** `in.references.<step>.<sample>.<number>`, where the case has some. */
  function references(parity: Case, step: number): Tensor[][] | undefined {
    const names = parity.names(`in.references.${step}.`)
    if (names.length === 0) return undefined
    const of = (sample: number) => names.filter((name) => name.startsWith(`${sample}.`)).sort()
    return [0, 1].map((sample) => of(sample).map((name) => parity.input(`references.${step}.${name}`)))
  }

  async function addLora(
    model: Flux2Transformer,
    lora: { rank: number; alpha: number; target_modules: string[] },
    adapters: StateDict,
  ): Promise<Parameter[]> {
    const parameters = await model.addLora({ rank: lora.rank, alpha: lora.alpha, targets: lora.target_modules })
    expect(parameters.map((parameter) => parameter.name).sort()).toEqual(Object.keys(adapters).sort())
    for (const parameter of parameters) parameter.assign(adapters[parameter.name] as Tensor)
    expect(model.trainableParameters.map((parameter) => parameter.name)).toEqual(parameters.map(({ name }) => name))
    return parameters
  }

  function trainAll(model: Flux2Transformer): Parameter[] {
    model.setTrainable(true)
    return model.parameters
  }

  function split(tensors: StateDict, first: (name: string) => boolean): [StateDict, StateDict] {
    const entries = Object.entries(tensors)
    return [
      Object.fromEntries(entries.filter(([name]) => first(name))),
      Object.fromEntries(entries.filter(([name]) => !first(name))),
    ]
  }
})

it('vae', async () => {
  const parity = await Case.open('vae')
  const vae = await AutoencoderKLFlux2.fromConfig(parity.info.vae, parity.weights())
  const image = parity.input('image')
  const mode = await vae.encode(image)
  parity.expect('mode', mode, BOUND.forward)
  const latents = await vae.imageLatents(mode)
  parity.expect('image_latents', latents, BOUND.forward)
  parity.expect('image_latents', await vae.encodeImages(image), BOUND.forward)
  parity.expect('decoded', await vae.decode(await vae.vaeLatents(latents)), BOUND.forward)
  parity.finish()
})

describe('text', () => {
  it.each(['text-qwen3', 'text-mistral', 'text-mistral-left'])('%s', async (name) => {
    const parity = await Case.open(name)
    const { family, config, layers } = parity.info
    const encoder = await TextEncoder.fromConfig({ ...config, model_type: family }, layers, parity.weights())
    const embeddings = await encoder.textEmbeddings(parity.input('input_ids'), parity.input('attention_mask'))
    parity.expect('text_embeddings', embeddings, BOUND.forward)
    parity.finish()
  })
})

describe('sample', () => {
  it.each(['sample-cfg', 'sample-distilled'])('%s', async (name) => {
    const parity = await Case.open(name)
    const { transformer, vae: vaeConfig, steps, guidance_scale: guidanceScale, height, width } = parity.info
    const model = await Flux2Transformer.fromConfig(transformer, { weights: parity.weights('transformer.') })
    const vae = await AutoencoderKLFlux2.fromConfig(vaeConfig, parity.weights('vae.'))
    const negative = parity.input('negative_text_embeddings')
    const tokens = (height / 16) * (width / 16)
    parity.expect('sigmas', Tensor.fromFloat32(eulerSigmas(tokens, steps), [steps + 1]), BOUND.forward)
    const latents = await model.sample({
      textEmbeddings: parity.input('text_embeddings'),
      negativeTextEmbeddings: guidanceScale === null ? undefined : negative,
      initialLatents: parity.input('initial_latents'),
      steps,
      guidanceScale: guidanceScale ?? 1,
    })
    parity.expect('vae_latents', await vae.vaeLatents(latents), BOUND.forward)
    parity.expect('image', await vae.decodeLatents(latents), BOUND.forward)
    parity.finish()
  })
})

it('pipeline: from prompt to pixels', async () => {
  const folder = join(fixtures, 'parity', 'pipeline')
  const model = join(folder, 'pipeline')
  const { runs } = JSON.parse(readFileSync(join(folder, 'expect.json'), 'utf8'))
  const { tensors } = await loadSafetensors(join(folder, 'expect.safetensors'))
  const encoder = await TextEncoder.load(model)
  const vae = await AutoencoderKLFlux2.load(model)
  const transformer = await Flux2Transformer.load(model)
  for (const [i, run] of runs.entries()) {
    const want = (name: string) => tensors[`${name}.${i}`] as Tensor
    const tokens = await encoder.tokenize(run.prompt)
    expect(tokens.texts).toEqual([run.text])
    expectClose('input_ids', tokens.inputIds, want('input_ids'), BOUND.exact)
    expectClose('attention_mask', tokens.attentionMask, want('attention_mask'), BOUND.exact)
    const textEmbeddings = await encoder.textEmbeddings(tokens.inputIds, tokens.attentionMask)
    expectClose('text_embeddings', textEmbeddings, want('text_embeddings'), BOUND.forward)
    const negativeTextEmbeddings = await encoder.encode('')
    expectClose('negative_text_embeddings', negativeTextEmbeddings, want('negative_text_embeddings'), BOUND.forward)
    const { steps, guidance_scale: guidanceScale } = run
    const initialLatents = want('initial_latents')
    const latents = await transformer.sample({
      textEmbeddings,
      negativeTextEmbeddings,
      initialLatents,
      steps,
      guidanceScale,
    })
    expectClose('image', await vae.decodeLatents(latents), want('image'), BOUND.image)
  }
})
