export { DataLoader, type DataLoaderOptions, type LoadedBatch } from './data/data-loader'
export type { CaptionedImage, EncodeBatchesOptions } from './data/encode-batches'
export { type ImageSize, loadImage, savePng } from './data/image'
export type { DeviceName } from './device/name'
export { useDevice } from './device/use'
export { FlowtuneError, type FlowtuneErrorCode } from './errors'
export type { Batch, FlowMatchingContext } from './flow/context'
export {
  type AdapterArguments,
  type AdapterFactory,
  type AdapterName,
  type AdapterRegistry,
  createAdapter,
  createPipeline,
  type PipelineOf,
  registerAdapter,
} from './flow/create'
export { eulerSigmas } from './flow/euler-sigmas'
export {
  FlowMatchingPipeline,
  type SamplingMethod,
  type StepMetrics,
  type StepOptions,
  type StepResult,
  type Timesteps,
} from './flow/flow-matching-pipeline'
export { Flux2Adapter, type Flux2AdapterOptions, type Flux2Context } from './flow/flux2-adapter'
export { type Awaitable, ModelAdapter } from './flow/model-adapter'
export type {
  FlowMatchingPipelineOptions,
  LossWeight,
  SampleTimesteps,
  StepKey,
  TimestepDraws,
} from './flow/options'
export { bsmntwTable, type TimeShiftType, timeShift } from './flow/time-shift'
export type { JobStatus, RunOptions } from './job'
export { AutoencoderKLFlux2 } from './models/autoencoder'
export type { ReferenceLatents, ReferenceTokens } from './models/references'
export { TextEncoder, type TokenizedPrompts, type TokenOptions } from './models/text-encoder'
export {
  type Flux2Config,
  type Flux2Inputs,
  Flux2Transformer,
  type ForwardOptions,
  type LoadOptions,
  type LoraOptions,
  type SampleLatentsOptions,
} from './models/transformer'
export { AdamW, type AdamWOptions } from './optim/adamw'
export { LrSchedule, type LrScheduleOptions, type LrScheduleState } from './optim/lr-schedule'
export type { Optimizer, OptimizerStepOptions } from './optim/optimizer'
export { loadRecipe, resolveRecipe } from './recipe'
export type { TrainingRun } from './run'
export { clipGradNorm, Gradients } from './tensor/gradients'
export { Parameter } from './tensor/parameter'
export { loadSafetensors, type SafetensorsFile, type StateDict, saveSafetensors } from './tensor/safetensors'
export {
  type BackwardOptions,
  type BroadcastRank,
  type DType,
  type RankOf,
  type ReduceOptions,
  type Shape,
  Tensor,
} from './tensor/tensor'
export type * from './types'
export type { WatchOptions } from './watch'
export {
  type DownloadOptions,
  device,
  download,
  evaluate,
  explain,
  exportLora,
  inspect,
  mergeLora,
  type PlanOptions,
  plan,
  prepare,
  sample,
  type TrainOptions,
  train,
  type VerifyOptions,
  verify,
  version,
} from './work'
