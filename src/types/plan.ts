/** What a run takes. Bytes, and seconds. */
export interface Plan {
  /** Memory. */
  memory: MemoryPlan
  /** Disk. */
  disk: DiskPlan
  /** How long it takes; null when that was left out. */
  time: TimePlan | null
  /** Training images; null when their folder cannot be read. */
  images: number | null
  /** Where training does not fit: what makes it smaller, each by itself, cheapest first. */
  switches: PlanSwitch[]
  /** The cheapest combination with which training fits, where it does not and there is one; else null. */
  recommended: PlanSwitch | null
  /** What else there is to know, in sentences. */
  notes: string[]
}

/** Memory of a run, in bytes: of the whole process, resident. */
export interface MemoryPlan {
  /** The most that is in memory at once. */
  peak: number
  /** When. */
  phase: MemoryPhase['name']
  /** What the run may take: what was asked for, or what this machine has available; null when it does not say. */
  limit: number | null
  /** Whether the peak is within the limit; null without one. */
  fits: boolean | null
  /** In order. */
  phases: MemoryPhase[]
}

/** Memory of a part of a run. */
export interface MemoryPhase {
  /** Encoding of captions, then images; training steps; sample images, where the recipe has prompts. */
  name: 'encode' | 'train' | 'sample'
  /** Whether the run certainly has it: a cache that may be complete needs no encoding. */
  needed: boolean
  /** The most that is in memory at once. */
  peak: number
  /** What it is for at that moment; adds up to the peak. */
  components: ComponentMemory[]
}

/** Memory of a component. */
export interface ComponentMemory {
  /**
   * `activations` are what a forward keeps for its backward, those of the block that is computed again included; `work` is
   * everything that operations need while they run; `data` latents and text embeddings.
   */
  component:
    | 'process'
    | 'textEncoder'
    | 'vae'
    | 'transformer'
    | 'lora'
    | 'optimizer'
    | 'data'
    | 'gradients'
    | 'activations'
    | 'work'
  /** How much. */
  bytes: number
}

/** What a run leaves on disk, in bytes. */
export interface DiskPlan {
  /** Latents and text embeddings of all images and captions; null when the images cannot be read. */
  cache: number | null
  /** Free where the cache lies; null when the system does not say. */
  cacheFree: number | null
  /** One checkpoint: what trains, and the optimizer's moments. */
  checkpoint: number
  /** Checkpoints that are kept. */
  checkpoints: number
  /** The trained weights. */
  result: number
  /** Free where the run folder lies; null when the system does not say. */
  outputFree: number | null
}

/** Estimates in seconds, from the rate of a few products here and now: a machine that has other work takes longer. */
export interface TimePlan {
  /** Of an optimizer step. */
  step: number
  /** All steps. */
  training: number
  /** Of all captions and images; 0 where the cache may have them. */
  encoding: number
  /** The held-out loss, each time that it is taken. */
  evaluation: number
  /** Sample images, before and after. */
  sampling: number
  /** The whole run. */
  total: number
  /** Operations of an optimizer step; a multiply-add is two. */
  stepOperations: number
  /** Operations a second that a step is expected to reach. */
  rate: number
}

/** A change of a recipe, and what it comes to. */
export interface PlanSwitch {
  /** What to write into the recipe. */
  settings: PlanSetting[]
  /** Peak of training with it, in bytes. */
  peak: number
  /** Whether that fits. */
  fits: boolean
  /** Time of a sample's share of a step, as a multiple of that without the change. */
  time: number
}

/** A line of a recipe. */
export interface PlanSetting {
  /** E.g. `model.quantization`. */
  key: string
  /** E.g. `int8`; null takes the key out. */
  value: string | number | boolean | null
}
