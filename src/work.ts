import { resolve } from 'node:path'
import { guard, guardAsync } from './errors'
import { type RunOptions, runJob } from './job'
import { native } from './native'
import { resolveRecipe } from './recipe'
import type { ComputeDtype, Quantization } from './recipe-types'
import { TrainingRun } from './run'
import type {
  DeviceInfo,
  DownloadSummary,
  EvaluateSummary,
  Explanation,
  ExportOptions,
  ExportSummary,
  Inspection,
  MergeOptions,
  MergeSummary,
  Plan,
  PrepareSummary,
  Recipe,
  SampleOptions,
  SampleSummary,
  VerifyReport,
} from './types'

export interface TrainOptions extends RunOptions {
  /** A run folder: continue it from its last checkpoint, with the recipe that it began with. */
  resume?: string
}

/**
 * Starts a training run on a thread of its own. Relative paths in the recipe start at the working directory.
 *
 * @throws FlowtuneError `RECIPE_INVALID` before anything is loaded; later failures reach {@link TrainingRun.wait}
 */
export async function train(recipe: Recipe, { resume, ...run }: TrainOptions = {}): Promise<TrainingRun> {
  return new TrainingRun({ recipe: resolveRecipe(recipe), resume: resume && resolve(resume) }, run)
}

/** Fills the cache of latents and text embeddings that training reads. */
export async function prepare(recipe: Recipe, run: RunOptions = {}): Promise<PrepareSummary> {
  return runJob('prepare', { recipe: resolveRecipe(recipe) }, run)
}

/** Makes one image. */
export async function sample(options: SampleOptions, run: RunOptions = {}): Promise<SampleSummary> {
  const { lora, out, dump, references = [] } = options
  const given = Object.entries({ lora, dump }).flatMap(([key, path]) => (path ? [[key, resolve(path)]] : []))
  const files = references.map((path) => resolve(path))
  const paths = { out: resolve(out), references: files, ...Object.fromEntries(given) }
  return runJob('sample', { ...options, ...paths }, run)
}

/** Writes a LoRA in another program's format, reads the file again and compares the effect on every layer. */
export async function exportLora(options: ExportOptions, run: RunOptions = {}): Promise<ExportSummary> {
  const { lora, format, out } = options
  return runJob('export', { lora: resolve(lora), format, out: resolve(out) }, run)
}

/** Adds a LoRA to the weights of its base and writes the transformer. */
export async function mergeLora(options: MergeOptions, run: RunOptions = {}): Promise<MergeSummary> {
  return runJob('merge', { ...options, lora: resolve(options.lora), out: resolve(options.out) }, run)
}

/** What {@link download} takes beside the model. */
export interface DownloadOptions extends RunOptions {
  /** Branch, tag or commit. Default `main`. */
  revision?: string
}

/**
 * Fetches a model ahead, only the files that are needed, into the cache that `huggingface_hub` uses too. What is there
 * already is not fetched again, and an interrupted download goes on where it ended.
 *
 * @param model `owner/name` of a pipeline on a hub, or `owner/name/file.safetensors` of a transformer
 * @throws FlowtuneError `HUB_UNAVAILABLE`, `HUB_GATED`, `HUB_NOT_FOUND`, `HUB_CORRUPT`, `IO`, `CANCELLED`
 */
export async function download(model: string, options: DownloadOptions = {}): Promise<DownloadSummary> {
  const { revision, ...run } = options
  return runJob('download', { model, revision }, run)
}

/** Held-out loss at fixed σ: of a recipe's model, or of a run folder's trained weights. */
export async function evaluate(target: Recipe | { runDir: string }, run: RunOptions = {}): Promise<EvaluateSummary> {
  const options = 'runDir' in target ? { runDir: resolve(target.runDir) } : { recipe: resolveRecipe(target) }
  return runJob('evaluate', options, run)
}

/** What {@link verify} takes beside paths. */
export interface VerifyOptions extends RunOptions {
  /** Type that training cases are computed in; other cases are left out unless it is `float32`. Default `float32`. */
  dtype?: ComputeDtype
  /** What the base of their LoRAs is kept in. Default `none`. */
  quantization?: Quantization
}

/**
 * Computes parity cases and compares each tensor with what the reference stack computed; in bfloat16, losses and the
 * directions of gradients.
 */
export async function verify(paths: string | string[], options: VerifyOptions = {}): Promise<VerifyReport> {
  const { dtype = 'float32', quantization = 'none', ...run } = options
  return runJob('verify', { paths: [paths].flat().map((path) => resolve(path)), dtype, quantization }, run)
}

/** Says what a model folder, a hub's model in the cache, a safetensors file, a LoRA or a run folder holds. */
export function inspect(path: string): Inspection {
  return guard(() => JSON.parse(native().inspect(path)) as Inspection)
}

/**
 * Says what a recipe means in numbers, from the model's configuration and the list of images alone: no weights are read.
 *
 * @throws FlowtuneError `RECIPE_INVALID`, `CHECKPOINT_LAYOUT` when there is no model folder
 */
export async function explain(recipe: Recipe): Promise<Explanation> {
  const json = JSON.stringify(resolveRecipe(recipe))
  const { explanationJson, svg } = await guardAsync(() => native().explain(json, process.cwd()))
  return { ...(JSON.parse(explanationJson) as Omit<Explanation, 'svg'>), svg }
}

/** What {@link plan} takes beside a recipe. */
export interface PlanOptions {
  /** Gigabytes (10⁹ bytes) that the run may take. Default: what this machine has available. */
  memory?: number
  /** Leave out how long it takes, for which products are timed for half a second. Default false. */
  noTime?: boolean
}

/**
 * What a run of this recipe takes: memory by component, disk, time, and what to switch where it does not fit. Reads headers
 * and configurations of the model's files, no weights.
 *
 * @throws FlowtuneError `CHECKPOINT_LAYOUT` when the model's files are not there; `RECIPE_INVALID`
 */
export async function plan(recipe: Recipe, { memory, noTime }: PlanOptions = {}): Promise<Plan> {
  const json = JSON.stringify(resolveRecipe(recipe))
  return JSON.parse(
    await guardAsync(() => native().plan(json, process.cwd(), JSON.stringify({ memory, noTime }))),
  ) as Plan
}

/** Version of the Rust core. */
export function version(): string {
  return native().version()
}

/**
 * What computes: the device that `useDevice` or `FLOWTUNE_DEVICE` asked for, or that was found.
 *
 * @throws FlowtuneError `DEVICE_UNAVAILABLE` when the device asked for is not here; `NATIVE_UNAVAILABLE`
 */
export function device(): DeviceInfo {
  return guard(() => JSON.parse(native().device()) as DeviceInfo)
}
