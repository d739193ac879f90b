/** What computes. */
export type DeviceInfo = CpuDevice | CudaDevice

/** The processor. */
export interface CpuDevice {
  /** Which device this is. */
  kind: 'cpu'
  /** Threads that compute. */
  threads: number
  /** Instructions that products of matrices use, by element type; `portable` uses none in particular. */
  instructions: Record<'float32' | 'bfloat16' | 'int8', string>
  /** Bytes that a run can take, within the limit of a container; null when the system does not say. */
  availableMemory: number | null
}

/** An NVIDIA card. */
export interface CudaDevice {
  /** Which device this is. */
  kind: 'cuda'
  /** The card's name. */
  name: string
  /** E.g. `8.9`. */
  computeCapability: string
  /** Bytes on the card that a run can take; null when the driver does not say. */
  availableMemory: number | null
}
