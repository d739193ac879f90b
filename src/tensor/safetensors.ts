import { resolve } from 'node:path'
import { guardAsync } from '../errors'
import { native } from '../native'
import { Tensor } from './tensor'

/** Tensors by name. */
export type StateDict = Record<string, Tensor>

/** A safetensors file. */
export interface SafetensorsFile {
  /** By name. */
  tensors: StateDict
  /** The header's `__metadata__`. */
  metadata: Record<string, string>
}

/**
 * Reads all tensors of a safetensors file.
 *
 * @throws FlowtuneError `CHECKPOINT_LAYOUT` for a damaged file, `IO`
 */
export async function loadSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await guardAsync(() => native().loadSafetensors(resolve(path)))
  const tensors = Object.fromEntries(file.tensors.map(({ name, tensor }) => [name, Tensor.wrap(tensor)]))
  return { tensors, metadata: file.metadata }
}

/**
 * Writes a safetensors file, whole or not at all; an existing one is replaced.
 *
 * @throws FlowtuneError `IO`
 */
export async function saveSafetensors(
  path: string,
  tensors: StateDict,
  metadata: Record<string, string> = {},
): Promise<void> {
  const [names, handles] = namesAndHandles(tensors)
  await guardAsync(() => native().saveSafetensors(resolve(path), names, handles, metadata))
}

/** @internal What the core takes tensors by name as. */
export function namesAndHandles(tensors: StateDict) {
  return [Object.keys(tensors), Object.values(tensors).map(Tensor.unwrap)] as const
}
