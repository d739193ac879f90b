import { loadBinding } from './device/load'
import { FlowtuneError } from './errors'

/** The kinds of long-running work. */
export type JobKind = 'train' | 'prepare' | 'sample' | 'export' | 'merge' | 'download' | 'evaluate' | 'verify'

/** One piece of work on its own thread. */
export interface NativeJob {
  status(): string
  cancel(): void
  /** JSON `{ok: true, value}` or `{ok: false, error: {code, message}}`; after the last event was delivered. */
  wait(): Promise<string>
}

/** A tensor in the core's memory. */
export interface NativeTensor {
  readonly shape: number[]
  readonly dtype: string
  readonly isTracked: boolean
  account(): void
  toFloat32Array(): Float32Array
  toFloat64Array(): Float64Array
  toBigInt64Array(): BigInt64Array
  item(): number
  to(dtype: string): NativeTensor
  detach(): NativeTensor
  share(): NativeTensor
  dispose(): void
  unary(op: string, a: number, b: number): NativeTensor
  binary(op: string, other: NativeTensor): NativeTensor
  reduce(op: string, dims: number[] | undefined, keepDims: boolean): NativeTensor
  reshape(shape: number[]): NativeTensor
  permute(dims: number[]): NativeTensor
  narrow(dim: number, start: number, length: number): NativeTensor
  broadcastTo(shape: number[]): NativeTensor
  backward(gradients: NativeGradients, scale: number): Promise<void>
}

export interface NativeParameter {
  readonly name: string
  readonly shape: number[]
  readonly dtype: string
  trainable: boolean
  tensor(): NativeTensor
  assign(value: NativeTensor): void
}

export interface NativeGradients {
  readonly size: number
  get(parameter: NativeParameter): NativeTensor | null
  clear(): void
  clipNorm(maxNorm: number): Promise<number>
}

export interface NativeNamedTensor {
  name: string
  tensor: NativeTensor
}

export interface NativeAdamW {
  step(gradients: NativeGradients, lr: number): Promise<void>
  state(): NativeNamedTensor[]
  loadState(names: string[], tensors: NativeTensor[]): void
}

export interface NativeCancelToken {
  cancel(): void
}

/** What stops work, and hears its events as JSON. */
export type NativeWatch = [cancel: NativeCancelToken, onEvent: (eventJson: string) => void]

export interface NativeTransformer {
  config(): string
  parameters(): NativeParameter[]
  forward(
    inputs: NativeInputs,
    grad: boolean,
    activationCheckpointing: boolean,
    memoryBudget: number | undefined,
  ): Promise<NativeTensor>
  addLora(optionsJson: string, seed: number): Promise<NativeParameter[]>
  loadLora(path: string): Promise<NativeParameter[]>
  saveLora(folder: string): Promise<string>
  save(folder: string, dtype: string): Promise<string>
  removeLora(): void
  sample(
    inputs: NativeSampleInputs,
    cancel: NativeCancelToken,
    onEvent: (eventJson: string) => void,
  ): Promise<NativeTensor>
}

export interface NativeSampleInputs {
  textEmbeddings: NativeTensor
  negativeTextEmbeddings?: NativeTensor | undefined
  initialLatents: NativeTensor
  steps: number
  guidanceScale: number
  references?: NativeTensor[][] | undefined
}

export interface NativeAutoencoder {
  encode(images: NativeTensor): Promise<NativeTensor>
  imageLatents(mode: NativeTensor): Promise<NativeTensor>
  vaeLatents(imageLatents: NativeTensor): Promise<NativeTensor>
  decode(latent: NativeTensor): Promise<NativeTensor>
  encodeImages(images: NativeTensor): Promise<NativeTensor>
  decodeLatents(imageLatents: NativeTensor): Promise<NativeTensor>
}

export interface NativeTextEncoder {
  tokenize(prompts: string[], textTokens: number | undefined): Promise<NativeTokens>
  textEmbeddings(inputIds: NativeTensor, attentionMask: NativeTensor): Promise<NativeTensor>
}

export interface NativeTokens {
  inputIds: NativeTensor
  attentionMask: NativeTensor
  texts: string[]
  truncated: boolean[]
}

export interface NativeFlux2Adapter {
  packLatents(latents: NativeTensor): NativeTensor
  unpackLatents(packed: NativeTensor, height: number, width: number): NativeTensor
  prepareLatentIds(height: number, width: number, batch: number): NativeTensor
  prepareTextIds(tokens: number, batch: number): NativeTensor
  prepareImageIds(references: NativeTensor[]): NativeTensor
  prepareInputs(
    batch: NativeBatch,
    noisyLatents: NativeTensor,
    timesteps: NativeTensor,
    dropCaption: boolean[],
    emptyPrompt: NativeTensor | undefined,
  ): Promise<NativeInputs>
}

export interface NativeInputs {
  hiddenStates: NativeTensor
  encoderHiddenStates: NativeTensor
  timestep: NativeTensor
  imgIds: NativeTensor
  txtIds: NativeTensor
  guidance?: NativeTensor | undefined
  references?: Array<NativeReferenceTokens | null | undefined> | undefined
}

export interface NativeReferenceTokens {
  hiddenStates: NativeTensor
  ids: NativeTensor
}

export interface NativeBatch {
  imageLatents: NativeTensor
  textEmbeddings: NativeTensor
  lossMask?: NativeTensor | undefined
  guidance?: NativeTensor | undefined
  references?: NativeTensor[][] | undefined
}

/** What all randomness of a step is a function of. */
export interface NativeKey {
  seed: number
  step: number
  first: number
}

export interface NativeGiven {
  sigma?: NativeTensor | undefined
  noise?: NativeTensor | undefined
  weight?: NativeTensor | undefined
  dropCaption?: boolean[] | undefined
}

export interface NativeFlowMatching {
  options(): string
  sampleTimesteps(key: NativeKey, batch: number, tokens: number): NativeTimesteps
  draws(key: NativeKey, batch: number): { uniform: Float32Array; normal: Float32Array }
  sigmasOf(uniform: Float32Array, normal: Float32Array, tokens: number): NativeTimesteps
  lossWeights(sigma: NativeTensor, tokens: number): NativeTensor
  prepare(batch: NativeBatch, key: NativeKey, given: NativeGiven): Promise<NativePreparedStep>
  loss(
    step: NativePreparedStep,
    prediction: NativeTensor,
    elements: NativeTensor | undefined,
    names: string[],
    auxiliary: NativeTensor[],
    checkLoss: boolean,
  ): Promise<{ loss: NativeTensor; metricsJson: string }>
}

export interface NativePreparedStep {
  readonly noisyLatents: NativeTensor
  readonly sigma: NativeTensor
  readonly timesteps: NativeTensor
  readonly target: NativeTensor
  readonly noise: NativeTensor
  readonly weight: NativeTensor
  readonly dropCaption: boolean[]
}

export interface NativeTimesteps {
  sigma: NativeTensor
  timesteps: NativeTensor
  method: string
}

export interface NativeLoader {
  readonly samples: number
  readonly emptyPrompt: NativeTensor
  batch(step: number): Promise<NativeLoadedBatch>
  gather(indices: number[]): Promise<NativeLoadedBatch>
}

export interface NativeLoadedBatch {
  imageLatents: NativeTensor
  textEmbeddings: NativeTensor
  lossMask?: NativeTensor
  references: NativeTensor[][]
  captions: string[]
  paths: string[]
}

/** What the addon exports. The generated declarations are not used, so that types can be checked before it is built. */
export interface NativeBinding {
  version(): string
  /** JSON: {@link DeviceInfo}. */
  device(): string
  /** JSON: {@link HubSettings}. */
  hubSettings(): string
  resolveRecipe(recipeJson: string, baseDir: string): string
  inspect(path: string): string
  explain(recipeJson: string, baseDir: string): Promise<{ explanationJson: string; svg: string }>
  plan(recipeJson: string, baseDir: string, optionsJson: string): Promise<string>
  startJob(kind: JobKind, optionsJson: string, onEvent: (eventJson: string) => void): NativeJob
  Tensor: {
    fromFloat32(data: Float32Array, shape: number[]): NativeTensor
    fromFloat64(data: Float64Array, shape: number[]): NativeTensor
    fromInt64(data: BigInt64Array, shape: number[]): NativeTensor
    full(value: number, shape: number[]): NativeTensor
    randn(shape: number[], seed: number, step: number): NativeTensor
    cat(tensors: NativeTensor[], dim: number): NativeTensor
  }
  Parameter: new (name: string, value: NativeTensor) => NativeParameter
  Gradients: new () => NativeGradients
  AdamW: new (parameters: NativeParameter[], optionsJson: string) => NativeAdamW
  setNumThreads(count: number): void
  learningRate(optionsJson: string, lr: number, totalSteps: number, index: number): number
  CancelToken: new () => NativeCancelToken
  Flux2Transformer: {
    load(path: string, optionsJson: string, ...watch: NativeWatch): Promise<NativeTransformer>
    fromConfig(
      configJson: string,
      names: string[],
      tensors: NativeTensor[],
      seed: number | undefined,
      optionsJson: string,
    ): Promise<NativeTransformer>
  }
  AutoencoderKLFlux2: {
    load(path: string, ...watch: NativeWatch): Promise<NativeAutoencoder>
    fromConfig(configJson: string, names: string[], tensors: NativeTensor[]): Promise<NativeAutoencoder>
  }
  TextEncoder: {
    load(path: string, ...watch: NativeWatch): Promise<NativeTextEncoder>
    fromConfig(
      configJson: string,
      layers: number[],
      names: string[],
      tensors: NativeTensor[],
    ): Promise<NativeTextEncoder>
  }
  Flux2Adapter: new (options: { guidanceScale?: number; useGuidanceEmbeds?: boolean }) => NativeFlux2Adapter
  FlowMatching: new (optionsJson: string, emptyPrompt: NativeTensor | undefined) => NativeFlowMatching
  timeShift(t: Float32Array, tokens: number, kind: string): Float32Array
  bsmntwTable(): Float32Array
  eulerSigmas(tokens: number, steps: number): Float32Array
  loadSafetensors(path: string): Promise<{ tensors: NativeNamedTensor[]; metadata: Record<string, string> }>
  saveSafetensors(
    path: string,
    names: string[],
    tensors: NativeTensor[],
    metadata: Record<string, string>,
  ): Promise<void>
  loadImage(bytes: Uint8Array, name: string, width: number, height: number): Promise<NativeTensor>
  savePng(image: NativeTensor, path: string): Promise<void>
  openLoaders(
    recipeJson: string,
    baseDir: string,
    cancel: NativeCancelToken,
    onEvent: (eventJson: string) => void,
  ): Promise<{ train: NativeLoader; heldOut?: NativeLoader | undefined }>
}

let binding: NativeBinding | undefined

/**
 * The Rust core for the device that was asked for, loaded at the first call.
 *
 * @throws FlowtuneError `NATIVE_UNAVAILABLE` when there is no addon for this platform, or it cannot be loaded;
 * `DEVICE_UNAVAILABLE` when the device asked for is not here; `INVALID_ARGUMENT` when `FLOWTUNE_DEVICE` is no device or
 * `FLOWTUNE_NUM_THREADS` no number of threads
 */
export function native(): NativeBinding {
  if (binding) return binding
  const loaded = loadBinding()
  const threads = threadsAskedFor(process.env.FLOWTUNE_NUM_THREADS)
  if (threads) loaded.setNumThreads(threads)
  binding = loaded
  return binding
}

function threadsAskedFor(text: string | undefined): number | undefined {
  if (!text) return undefined
  const count = Number(text)
  if (Number.isInteger(count) && count >= 1 && count <= 1024) return count
  const message = `FLOWTUNE_NUM_THREADS must be a whole number from 1 to 1024, got "${text}"; unset it for one per core`
  throw new FlowtuneError('INVALID_ARGUMENT', message)
}
