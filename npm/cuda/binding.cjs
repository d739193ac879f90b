// The core for CUDA: beside this file in a checkout, in the package of this platform otherwise.
const { existsSync } = require('node:fs')
const { join } = require('node:path')

const platform = { 'linux-x64': 'linux-x64-gnu', 'win32-x64': 'win32-x64-msvc' }[`${process.platform}-${process.arch}`]
if (!platform) throw new Error(`flowtune-cuda has no core for ${process.platform}-${process.arch}`)

const own = join(__dirname, `flowtune-cuda.${platform}.node`)
module.exports = require(existsSync(own) ? own : `flowtune-cuda-${platform}`)
