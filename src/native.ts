import { createRequire } from 'node:module'
import { FlowtuneError } from './errors'

/** The five kinds of long-running work. */
export type JobKind = 'train' | 'prepare' | 'sample' | 'evaluate' | 'verify'

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
  toFloat32Array(): Float32Array
  toBigInt64Array(): BigInt64Array
  dispose(): void
}

export interface NativeFlux2Adapter {
  packLatents(latents: NativeTensor): NativeTensor
  unpackLatents(packed: NativeTensor, height: number, width: number): NativeTensor
  prepareLatentIds(height: number, width: number, batch: number): NativeTensor
  prepareTextIds(tokens: number, batch: number): NativeTensor
  prepareInputs(
    noisyLatents: NativeTensor,
    textEmbeddings: NativeTensor,
    timesteps: NativeTensor,
    dropCaption: boolean[],
    emptyPrompt?: NativeTensor,
    guidance?: NativeTensor,
  ): NativeInputs
}

export interface NativeInputs {
  hiddenStates: NativeTensor
  encoderHiddenStates: NativeTensor
  timestep: NativeTensor
  imgIds: NativeTensor
  txtIds: NativeTensor
  guidance?: NativeTensor | undefined
}

export interface NativePipeline {
  sampleTimesteps(batch: number, tokens: number, seed: number, step: number): NativeTimesteps
}

export interface NativeTimesteps {
  sigma: NativeTensor
  timesteps: NativeTensor
  method: string
}

/** What the addon exports. The generated declarations are not used, so that types can be checked before it is built. */
export interface NativeBinding {
  version(): string
  resolveRecipe(recipeJson: string, baseDir: string): string
  inspect(path: string): string
  startJob(kind: JobKind, optionsJson: string, onEvent: (eventJson: string) => void): NativeJob
  Tensor: {
    fromFloat32(data: Float32Array, shape: number[]): NativeTensor
    fromInt64(data: BigInt64Array, shape: number[]): NativeTensor
  }
  Flux2Adapter: new (options: { guidanceScale?: number; useGuidanceEmbeds?: boolean }) => NativeFlux2Adapter
  FlowMatchingPipeline: new (adapter: NativeFlux2Adapter, optionsJson: string) => NativePipeline
}

let binding: NativeBinding | undefined

/**
 * The Rust core, loaded at the first call.
 *
 * @throws FlowtuneError `NATIVE_UNAVAILABLE` when there is no addon for this platform, or it cannot be loaded
 */
export function native(): NativeBinding {
  binding ??= load()
  return binding
}

function load(): NativeBinding {
  try {
    return createRequire(import.meta.url)('#native') as NativeBinding
  } catch (cause) {
    throw new FlowtuneError('NATIVE_UNAVAILABLE', explain(cause), { cause })
  }
}

function explain(cause: unknown): string {
  const reason = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause)
  return [
    `flowtune's Rust core for ${process.platform}-${process.arch} could not be loaded (${reason}).`,
    'From the npm package: install again without --omit=optional and without --no-optional.',
    'From a checkout: run `npm run build`.',
  ].join(' ')
}
