import { InvalidArgumentError } from 'commander'

/** A whole number of at least `minimum`. */
export function integer(minimum: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (Number.isSafeInteger(value) && value >= minimum) return value
    throw new InvalidArgumentError(`Expected a whole number of at least ${minimum}.`)
  }
}

/** Any finite number. */
export function decimal(text: string): number {
  const value = Number(text)
  if (text.trim() !== '' && Number.isFinite(value)) return value
  throw new InvalidArgumentError('Expected a number.')
}

/** Every command can speak to machines. */
export interface CommonOptions {
  json?: boolean
}
