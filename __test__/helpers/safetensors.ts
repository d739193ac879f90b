import { readFileSync, writeFileSync } from 'node:fs'

interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

/** A tensor of a file, its elements as raw bytes. */
export interface StoredTensor {
  name: string
  dtype: string
  shape: number[]
  bytes: Buffer
}

/** Changes one element of the named tensor by far more than any bound, and by little enough to stay plausible. */
export function perturb(file: string, name: string): void {
  edit(file, name, ({ dtype, bytes }) => {
    if (dtype === 'I64') bytes.writeBigInt64LE(bytes.readBigInt64LE(0) + 1n, 0)
    else bytes.writeFloatLE(bytes.readFloatLE(0) + 0.02 * largest(bytes), 0)
  })
}

/** The tensors of a file. */
export function tensorsOf(file: string): StoredTensor[] {
  const bytes = readFileSync(file)
  const start = 8 + Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<string, Entry>
  return Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => ({
        name,
        dtype,
        shape,
        bytes: bytes.subarray(start + from, start + to),
      }),
    )
}

/** Writes a file of these tensors. */
export function writeTensors(file: string, tensors: StoredTensor[]): void {
  let end = 0
  const entries = tensors.map(({ name, dtype, shape, bytes }) => {
    const from = end
    end += bytes.length
    return [name, { dtype, shape, data_offsets: [from, end] }]
  })
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  writeFileSync(file, Buffer.concat([length, header, ...tensors.map(({ bytes }) => bytes)]))
}

/** Changes one tensor of a file. */
export function edit(file: string, name: string, change: (tensor: StoredTensor) => void): void {
  const tensors = tensorsOf(file)
  const tensor = tensors.find((each) => each.name === name)
  if (!tensor) throw new Error(`no tensor ${name}`)
  change(tensor)
  writeTensors(file, tensors)
}

/** Leaves one tensor of a file out. */
export function remove(file: string, name: string): void {
  writeTensors(
    file,
    tensorsOf(file).filter((each) => each.name !== name),
  )
}

function largest(bytes: Buffer): number {
  let largest = 0
  for (let offset = 0; offset < bytes.length; offset += 4) {
    largest = Math.max(largest, Math.abs(bytes.readFloatLE(offset)))
  }
  return largest
}
