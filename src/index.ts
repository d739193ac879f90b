export { FlowtuneError, type FlowtuneErrorCode } from './errors'
export {
  FlowMatchingPipeline,
  type FlowMatchingPipelineOptions,
  type Timesteps,
} from './flow-matching-pipeline'
export { type FlowMatchingContext, Flux2Adapter, type Flux2AdapterOptions, type Flux2Inputs } from './flux2-adapter'
export type { JobStatus, RunOptions } from './job'
export { loadRecipe, resolveRecipe } from './recipe'
export type { TrainingRun } from './run'
export { type DType, Tensor } from './tensor'
export type * from './types'
export { evaluate, inspect, prepare, sample, type TrainOptions, train, verify, version } from './work'
