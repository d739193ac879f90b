import { InvalidArgumentError, Option } from 'commander'

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

/** A number above zero. */
export function positive(text: string): number {
  const value = decimal(text)
  if (value > 0) return value
  throw new InvalidArgumentError('Expected a number above 0.')
}

/** The values of an option that may be given more than once, in order. */
export function collected(value: string, before: string[] = []): string[] {
  return [...before, value]
}

/** `--dtype`: what the transformer computes in. */
export function dtypeOption(description: string): Option {
  return new Option('--dtype <type>', description).choices(['float32', 'bfloat16']).default('float32')
}

/** `--quantization`: how weights are made smaller. */
export function quantizationOption(description: string): Option {
  return new Option('--quantization <type>', description).choices(['none', 'int8', 'nf4']).default('none')
}

/** Every command can speak to machines. */
export interface CommonOptions {
  json?: boolean
}
