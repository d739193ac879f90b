import { FlowtuneError } from '../errors'
import type { NativeReferenceTokens, NativeTensor } from '../native'
import { Tensor } from '../tensor/tensor'

/** Reference images of one sample as the transformer takes them, one behind the other. */
export interface ReferenceTokens {
  /** Packed latents, `[tokens, 128]`. They get no gradient. */
  hiddenStates: Tensor<2>
  /** int64 `[tokens, 4]`, rows (10 + 10·i, h, w, 0) of reference i. */
  ids: Tensor<2>
}

/** Latents of the reference images that each sample is made from, in order, `[128, h, w]` or `[1, 128, h, w]`. */
export type ReferenceLatents = ReadonlyArray<ReadonlyArray<Tensor<3> | Tensor<4>>>

/** @internal References as the core takes them. */
export function referenceHandles(references: ReferenceLatents | undefined): NativeTensor[][] | undefined {
  const lists: unknown = references
  if (lists === undefined) return undefined
  const isList = Array.isArray(lists) && lists.every((list) => Array.isArray(list))
  if (!isList || lists.flat().some((reference) => !(reference instanceof Tensor))) {
    throw new FlowtuneError('RECIPE_INVALID', 'references must be a list for each sample, of one Tensor per image')
  }
  return (lists as Tensor[][]).map((list) => list.map(Tensor.unwrap))
}

/** @internal */
export function referenceTokenHandles({ hiddenStates, ids }: ReferenceTokens): NativeReferenceTokens {
  return { hiddenStates: Tensor.unwrap(hiddenStates), ids: Tensor.unwrap(ids) }
}

/** @internal */
export function wrapReferenceTokens({ hiddenStates, ids }: NativeReferenceTokens): ReferenceTokens {
  return { hiddenStates: Tensor.wrap(hiddenStates), ids: Tensor.wrap(ids) }
}
