import type { ComputeDtype, Quantization } from '../recipe-types'
import type { SigmaLoss } from './events'

/** Images of one size. */
export interface BucketSummary {
  /** Pixels. */
  width: number
  /** Pixels. */
  height: number
  /** How many images are trained at this size. */
  images: number
}

/** What `prepare` cached. */
export interface PrepareSummary {
  /** Folder of the cache. */
  cacheDir: string
  /** Held-out ones included. */
  images: number
  /** Sizes that they are trained at, smallest first. */
  buckets: BucketSummary[]
  /** Distinct captions and prompts, the empty one included. */
  captions: number
  /** Images with a mask. */
  masks: number
  /** Reference images, counted for each image that they belong to. */
  references: number
  /** Files left out because they could not be read (`data.onBadFile: skip`). */
  skipped: string[]
}

/**
 * Whose names a LoRA's file has: `diffusers` and PEFT; `comfyui`, which AI Toolkit writes too; `kohya`'s sd-scripts and
 * musubi-tuner.
 */
export type LoraFormat = 'diffusers' | 'comfyui' | 'kohya'

/** Which LoRA to write in which format. */
export interface ExportOptions {
  /** A run folder, or a LoRA in any {@link LoraFormat}: its file or its folder. */
  lora: string
  /** Whose names to write. */
  format: LoraFormat
  /** The `.safetensors` file; must not exist. */
  out: string
}

/** The file that was written. */
export interface ExportSummary {
  /** The file. */
  path: string
  /** Its names. */
  format: LoraFormat
  /** Layers with an adapter. */
  adapters: number
  /**
   * Largest difference, over all layers, of what the file adds to a weight from what the LoRA adds, relative to the
   * largest element of that.
   */
  maxRelativeDifference: number
}

/** Which LoRA to add to which base. */
export interface MergeOptions {
  /** Folder of a FLUX.2 pipeline in diffusers layout, or its id on a hub: `owner/name`, `@revision` behind it. */
  model: string
  /**
   * Another transformer for that pipeline: a folder, or a `.safetensors` or `.gguf` file in any layout that is known, which
   * may be a hub's: `owner/name/file.safetensors`.
   */
  transformer?: string
  /** A run folder, or a LoRA in any {@link LoraFormat}: its file or its folder. */
  lora: string
  /** Type of the weights that are written; sums are float32. Default `float32`. */
  weightsDtype?: ComputeDtype
  /** The folder to make: a transformer in diffusers layout. */
  out: string
}

/** The transformer that was written. */
export interface MergeSummary {
  /** The folder. */
  path: string
  /** Layers that an adapter was added to. */
  merged: number
  /** Weights in all. */
  weights: number
}

/** What `download` brought. */
export interface DownloadSummary {
  /** The model's folder in the cache, or the file. */
  path: string
  /** The commit. */
  revision: string
  /** Files that are needed. */
  files: number
  /** Bytes that came from the hub, the others being here already. */
  downloadedBytes: number
}

/** How a hub would be used. */
export interface HubSettings {
  /** Base of its URLs. */
  endpoint: string
  /** Folder of the cache. */
  cache: string
  /** Whether there is a token. */
  token: boolean
  /** Whether only the cache may be used. */
  offline: boolean
}

/** What image to make. */
export interface SampleOptions {
  /** Folder of a FLUX.2 pipeline in diffusers layout, or its id on a hub: `owner/name`, `@revision` behind it. */
  model: string
  /**
   * Another transformer for that pipeline: a folder, or a `.safetensors` or `.gguf` file in any layout that is known, which
   * may be a hub's: `owner/name/file.safetensors`.
   */
  transformer?: string
  /** A LoRA in diffusers/PEFT form: its file or its folder. */
  lora?: string
  /** What it shows. */
  prompt: string
  /** Default: the empty prompt. */
  negativePrompt?: string
  /**
   * Images to make it from, in the order in which the prompt speaks of them. Each is taken in its own size, its middle cut to
   * multiples of 16 pixels; larger ones are scaled down to about 1024² pixels.
   */
  references?: string[]
  /** Pixels, multiples of 16. */
  width: number
  /** Pixels, a multiple of 16. */
  height: number
  /** Euler steps. Default 28, for distilled models 4. */
  steps?: number
  /** Classifier-free guidance; 1 switches it off. Default 4, for distilled models 1. */
  guidanceScale?: number
  /** Seed of the initial noise. Default 0. */
  seed?: number
  /** Type that the transformer computes in, and of its weights. Default `float32`. */
  dtype?: ComputeDtype
  /** What the transformer's weights are kept in instead. Default `none`. */
  quantization?: Quantization
  /** The PNG to write; must not exist. */
  out: string
  /** Also write embeddings, initial latents and the image as safetensors here; must not exist. */
  dump?: string
}

/** What `sample` wrote. */
export interface SampleSummary {
  /** The PNG. */
  path: string
  /** The tensors, where they were asked for. */
  dump?: string
  /** Wall-clock, loading included. */
  seconds: number
}

/** Held-out loss at fixed σ. */
export interface EvaluateSummary {
  /** Mean over the noise levels. */
  loss: number
  /** By noise level. */
  perSigma: SigmaLoss[]
  /** Held-out images. */
  images: number
}

/** One tensor of a parity case. */
export interface TensorCheck {
  /** Its name in the case. */
  name: string
  /** Worst error, as a share of the largest expected value (of images: absolute); the largest double when it is not finite. */
  error: number
  /** The largest error that is allowed. */
  bound: number
  /** Whether the error is within the bound. */
  ok: boolean
}

/** One parity case. */
export interface CaseReport {
  /** Name of its folder. */
  name: string
  /** `adapter`, `schedule`, `train`, `vae`, `text`, `sample` or `pipeline`; what a case says it is, or `unknown`. */
  kind: string
  /** Whether every tensor is within its bound. */
  ok: boolean
  /** What was compared. */
  tensors: TensorCheck[]
  /** Why the case could not be computed at all, then with no tensors. */
  message?: string
}

/** All parity cases. */
export interface VerifyReport {
  /** Whether every case is. */
  ok: boolean
  /** By name. */
  cases: CaseReport[]
}
