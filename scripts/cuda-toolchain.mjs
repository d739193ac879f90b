// `node scripts/cuda-toolchain.mjs`: fetches the CUDA compiler and prints the environment in which it is found, for
// `eval "$(node scripts/cuda-toolchain.mjs)"`. docs/cuda.md.

import { cudaToolchain } from './lib/cuda.mjs'
import { say } from './lib/say.mjs'

// Standard output is for the shell: what else is said goes beside it.
const write = process.stdout.write.bind(process.stdout)
process.stdout.write = process.stderr.write.bind(process.stderr)
const { env } = cudaToolchain()
process.stdout.write = write
for (const [name, value] of Object.entries(env)) say(`export ${name}='${value.replaceAll("'", "'\\''")}'`)
