// Where the examples read and write.

import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** What comes with flowtune. */
export const embedded = {
  model: join(root, 'models', 'flux2-tiny'),
  images: join(root, 'examples', 'twemoji'),
  heldOutImages: join(root, 'examples', 'twemoji-heldout'),
}

/** The folder named on the command line, or one among the temporary files. */
export function outputFolder(example: string): string {
  return resolve(process.argv[2] ?? join(tmpdir(), 'flowtune-examples', example))
}
