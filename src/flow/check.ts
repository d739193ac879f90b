import { FlowtuneError } from '../errors'
import { Tensor } from '../tensor/tensor'

/** What the core needs of every batch. */
const NEEDED = {
  imageLatents: 'Tensor [batch, 128, height/16, width/16]',
  textEmbeddings: 'Tensor [batch, tokens, dim]',
} as const

/** Refuses a batch without the tensors that every step needs, or with keys that the adapter does not know. */
export function checkBatch(batch: object, known: readonly string[] | undefined): void {
  for (const [key, expected] of Object.entries(NEEDED)) {
    const value = (batch as Record<string, unknown>)[key]
    if (!(value instanceof Tensor)) {
      throw new FlowtuneError('RECIPE_INVALID', `batch.${key} must be a ${expected}, got ${describe(value)}`)
    }
  }
  const unknown = known && Object.keys(batch).find((key) => !known.includes(key))
  if (unknown === undefined) return
  throw new FlowtuneError(
    'RECIPE_INVALID',
    `batch.${unknown} is no key that the adapter knows (${known?.join(', ')}); an adapter that takes it lists it in batchKeys`,
  )
}

/** Refuses what is no tensor where an adapter had to give one. */
export function checkTensor(name: string, value: unknown, where: string): asserts value is Tensor {
  if (value instanceof Tensor) return
  throw new FlowtuneError('RECIPE_INVALID', `${name} ${where} must be a Tensor, got ${describe(value)}`)
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  return typeof value === 'object' ? `a ${value.constructor?.name ?? 'object'}` : `${typeof value} ${String(value)}`
}
