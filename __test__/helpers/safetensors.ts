import { readFileSync, writeFileSync } from 'node:fs'

interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

/** Changes one element of the named tensor by far more than any bound, and by little enough to stay plausible. */
export function perturb(file: string, tensor: string): void {
  const bytes = readFileSync(file)
  const { entry, start } = find(bytes, tensor)
  const [from, to] = entry.data_offsets.map((offset) => start + offset) as [number, number]
  if (entry.dtype === 'I64') bytes.writeBigInt64LE(bytes.readBigInt64LE(from) + 1n, from)
  else bytes.writeFloatLE(bytes.readFloatLE(from) + 0.02 * largest(bytes, from, to), from)
  writeFileSync(file, bytes)
}

/** Names of all tensors. */
export function names(file: string): string[] {
  return Object.keys(header(readFileSync(file))).filter((name) => name !== '__metadata__')
}

function find(bytes: Buffer, tensor: string): { entry: Entry; start: number } {
  const entry = header(bytes)[tensor]
  if (!entry) throw new Error(`no tensor ${tensor}`)
  return { entry, start: 8 + Number(bytes.readBigUInt64LE(0)) }
}

function header(bytes: Buffer): Record<string, Entry> {
  return JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE(0))))
}

function largest(bytes: Buffer, from: number, to: number): number {
  let largest = 0
  for (let offset = from; offset < to; offset += 4) largest = Math.max(largest, Math.abs(bytes.readFloatLE(offset)))
  return largest
}
