import type { FinishedEvent } from './events'

/** What `inspect` found, by `kind`. */
export type Inspection = ModelInspection | RunInspection | TensorsInspection | TransformerInspection

/** A model folder in diffusers layout. */
export interface ModelInspection {
  /** Discriminates the inspections. */
  kind: 'model'
  /** The folder. */
  path: string
  /** Of diffusers, as `Flux2KleinPipeline`. */
  class: string
  /** Whether it is step-distilled. */
  distilled: boolean
  /** Whether it has a guidance embedding. */
  guidance: boolean
  /** Double-stream blocks. */
  doubleBlocks: number
  /** Single-stream blocks. */
  singleBlocks: number
  /** Width of the transformer. */
  dim: number
  /** Attention heads. */
  heads: number
  /** Width of the text embeddings. */
  jointAttentionDim: number
  /** Its weights. */
  transformer: ComponentSize
  /** Its weights. */
  vae: ComponentSize
  /** Its weights. */
  textEncoder: ComponentSize
  /** Tokens a prompt is padded or cut to. */
  textTokens: number
}

/** Weights of a part of a model. */
export interface ComponentSize {
  /** How many tensors. */
  tensors: number
  /** How many numbers. */
  parameters: number
}

/** A file or folder with a transformer only, in diffusers' layout, Black Forest Labs', ComfyUI's or GGUF. */
export interface TransformerInspection {
  /** Discriminates the inspections. */
  kind: 'transformer'
  /** The file or folder. */
  path: string
  /** Whether it is told the guidance scale (dev). */
  guidance: boolean
  /** Double-stream blocks. */
  doubleBlocks: number
  /** Single-stream blocks. */
  singleBlocks: number
  /** Its width. */
  dim: number
  /** Attention heads. */
  heads: number
  /** Width of the text embeddings. */
  jointAttentionDim: number
  /** How many numbers. */
  parameters: number
  /** The header's `__metadata__`; null of a folder and of GGUF. */
  metadata: Record<string, string> | null
}

/** A run folder. */
export interface RunInspection {
  /** Discriminates the inspections. */
  kind: 'run'
  /** The folder. */
  path: string
  /** Folder of the model it started from, or its id on a hub. */
  model: string
  /** What it trains. */
  mode: 'lora' | 'full'
  /** Optimizer steps of the whole run. */
  steps: number
  /** The last step that was taken; null before the first. */
  lastStep: StepLoss | null
  /** Steps of the checkpoints that are there and whole. */
  checkpoints: number[]
  /** How it ended; null while it has not. */
  finished: FinishedEvent | null
}

/** A loss and its step. */
export interface StepLoss {
  /** Counted from 1. */
  step: number
  /** Weighted loss, mean over the step's samples. */
  loss: number
}

/** A tensor in a file. */
export interface InspectedTensor {
  /** Its key. */
  name: string
  /** Extents, outermost first. */
  shape: number[]
}

/** A safetensors file, a folder of them, or a LoRA. */
export interface TensorsInspection {
  /** Discriminates the inspections. */
  kind: 'lora' | 'safetensors'
  /** The file or folder. */
  path: string
  /** How many numbers. */
  parameters: number
  /** Rank of a LoRA; null of anything else. */
  rank: number | null
  /** The header's `__metadata__`; null of a folder. */
  metadata: Record<string, string> | null
  /** By name. */
  tensors: InspectedTensor[]
}
