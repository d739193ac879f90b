import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { guardAsync } from '../errors'
import { native } from '../native'
import { Tensor } from '../tensor/tensor'

/** A size in pixels. */
export interface ImageSize {
  /** A multiple of 16. */
  width: number
  /** A multiple of 16. */
  height: number
}

/**
 * An image's pixels: turned upright (EXIF), transparency on white, scaled (Lanczos) until it covers the size, the middle
 * cut out.
 *
 * @param source a file, or the bytes of one: PNG, JPEG or WebP
 * @returns `[3, height, width]`, float32 in −1..1
 * @throws FlowtuneError `DATA_UNREADABLE` naming the file
 */
export async function loadImage(source: string | Uint8Array, { width, height }: ImageSize): Promise<Tensor<3>> {
  const isPath = typeof source === 'string'
  return guardAsync(async () => {
    const bytes = isPath ? await readFile(source) : source
    return Tensor.wrap<3>(await native().loadImage(bytes, isPath ? source : 'the image', width, height))
  })
}

/**
 * Writes an image as an 8-bit PNG, whole or not at all; an existing file is replaced.
 *
 * @param image `[3, height, width]`, or `[1, 3, height, width]`, in 0..1
 * @throws FlowtuneError `SHAPE_MISMATCH`, `IO`
 */
export async function savePng(image: Tensor<3> | Tensor<4>, path: string): Promise<void> {
  const [first, ...rest] = image.shape
  const single = rest.length === 3 && first === 1 ? image.reshape(rest) : image
  await guardAsync(() => native().savePng(Tensor.unwrap(single), resolve(path)))
}
