/**
 * Stable error codes. New ones may be added, none changes its meaning.
 *
 * | code | meaning |
 * |---|---|
 * | `RECIPE_INVALID` | a recipe's key or value, or its YAML |
 * | `INVALID_ARGUMENT` | an argument of a function or a command |
 * | `CHECKPOINT_LAYOUT` | weights of an unknown layout, a truncated or foreign file |
 * | `WEIGHTS_MISSING` | a tensor that the model needs is not in the file |
 * | `SHAPE_MISMATCH` | a tensor's shape or element type |
 * | `CACHE_STALE` | a cache made from other images, captions or weights |
 * | `DATA_UNREADABLE` | an image, a caption or a folder |
 * | `LOSS_DIVERGED` | a loss that is not finite, or above `flowMatching.maxLoss` |
 * | `OUT_OF_MEMORY` | host or device memory |
 * | `DEVICE_UNAVAILABLE` | the device asked for is not here |
 * | `NATIVE_UNAVAILABLE` | the Rust core could not be loaded |
 * | `HUB_UNAVAILABLE` | a hub that cannot be reached or may not be asked, and a cache that lacks what is needed |
 * | `HUB_GATED` | a hub's model whose licence was not accepted, or that wants another token |
 * | `HUB_NOT_FOUND` | a model, revision or file that a hub does not have |
 * | `HUB_CORRUPT` | a download that is not what the hub announced |
 * | `CANCELLED` | the run was asked to stop |
 * | `IO` | reading or writing a file |
 * | `INTERNAL` | a bug in flowtune |
 */
export type FlowtuneErrorCode =
  | 'RECIPE_INVALID'
  | 'INVALID_ARGUMENT'
  | 'CHECKPOINT_LAYOUT'
  | 'WEIGHTS_MISSING'
  | 'SHAPE_MISMATCH'
  | 'CACHE_STALE'
  | 'DATA_UNREADABLE'
  | 'LOSS_DIVERGED'
  | 'OUT_OF_MEMORY'
  | 'DEVICE_UNAVAILABLE'
  | 'NATIVE_UNAVAILABLE'
  | 'HUB_UNAVAILABLE'
  | 'HUB_GATED'
  | 'HUB_NOT_FOUND'
  | 'HUB_CORRUPT'
  | 'CANCELLED'
  | 'IO'
  | 'INTERNAL'
  // Keeps completion for the codes above while a newer core may send others.
  | (string & {})

/** Every error that flowtune raises. `code` is stable; `message` names the culprit and says what to do. */
export class FlowtuneError extends Error {
  /** Always `FlowtuneError`. */
  override readonly name = 'FlowtuneError'
  /** Stable: for programs. */
  readonly code: FlowtuneErrorCode

  /** An error with its stable code and a message that says what to do. */
  constructor(code: FlowtuneErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }

  /** Turns anything thrown into a FlowtuneError; what has no code of its own becomes `INTERNAL`. */
  static from(thrown: unknown): FlowtuneError {
    if (thrown instanceof FlowtuneError) return thrown
    const { code, message } = (thrown ?? {}) as { code?: unknown; message?: unknown }
    const text = typeof message === 'string' ? message : String(thrown)
    return new FlowtuneError(typeof code === 'string' ? toCode(code) : 'INTERNAL', text, { cause: thrown })
  }
}

/** napi's own statuses (a wrong argument type, mostly) and Node's system errors, in our codes. */
function toCode(code: string): FlowtuneErrorCode {
  if (/^(InvalidArg|\w+Expected)$/.test(code)) return 'INVALID_ARGUMENT'
  if (code === 'GenericFailure') return 'INTERNAL'
  if (/^E[A-Z]+$/.test(code)) return 'IO'
  return code
}

/** Calls `action`; whatever it throws leaves as a FlowtuneError. */
export function guard<T>(action: () => T): T {
  try {
    return action()
  } catch (thrown) {
    throw FlowtuneError.from(thrown)
  }
}

/** As {@link guard}, of a promise. */
export async function guardAsync<T>(action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (thrown) {
    throw FlowtuneError.from(thrown)
  }
}
