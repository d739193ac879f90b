// `node scripts/pack.mjs OUT [--family flowtune-cuda] [--artifacts DIR]`: tarballs of a package and of its platforms.
//
// With `--artifacts` (a folder of all `.node` files) of every platform, without it of this machine's alone.

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { coreOf, FAMILIES, packFolder, platformsOf, stageMain, stagePlatform } from './lib/packages.mjs'
import { say, stop } from './lib/say.mjs'
import { hostTarget } from './lib/shell.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { family: { type: 'string', default: 'flowtune' }, artifacts: { type: 'string' } },
})
const { family, artifacts } = values
const [out] = positionals
if (!out || !FAMILIES[family]) {
  stop(`Usage: node scripts/pack.mjs OUT [--family ${Object.keys(FAMILIES).join('|')}] [--artifacts DIR]`)
}

try {
  for (const { path, unpackedSize } of packFamily(resolve(out))) {
    say(`${path}  ${(unpackedSize / 1e6).toFixed(1)} MB unpacked`)
  }
} catch (error) {
  stop(error.message)
}

/** The platforms first: who installs the package while it is being published must find them. */
function packFamily(folder) {
  const stage = mkdtempSync(join(tmpdir(), 'flowtune-pack-'))
  mkdirSync(folder, { recursive: true })
  try {
    const platforms = platformsOf(family).filter(({ target }) => artifacts || target === hostTarget())
    const tarballs = platforms.map((platform) => {
      const core = coreOf(family, platform, artifacts && resolve(artifacts))
      stagePlatform(family, platform, core, join(stage, platform.name))
      return packFolder(join(stage, platform.name), folder)
    })
    stageMain(family, join(stage, family))
    return [...tarballs, packFolder(join(stage, family), folder)]
  } finally {
    rmSync(stage, { recursive: true, force: true })
  }
}
