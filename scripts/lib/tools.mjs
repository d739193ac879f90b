// What a machine must have before anything can be built.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { stop } from './say.mjs'
import { read, root } from './shell.mjs'

const NODE = [20, 17]

/** Ends with one sentence that says what to install, if Node, Rust or a C compiler is missing or too old. */
export function requireTools() {
  requireNode()
  requireRust()
  requireCompiler()
}

export function requireNode() {
  if (older(process.versions.node, NODE)) {
    stop(
      `flowtune needs Node ${NODE.join('.')} or newer, and this is ${process.versions.node}: install it from nodejs.org.`,
    )
  }
}

function requireRust() {
  const wanted = /^rust-version = "(.+)"/m.exec(readFileSync(join(root, 'Cargo.toml'), 'utf8'))[1]
  const found = read('cargo', ['--version']) && read('rustc', ['--version'])?.split(' ')[1]
  if (!found)
    stop(
      `flowtune needs Rust ${wanted} or newer to build its core: install it from rustup.rs, open a new terminal and run this command again.`,
    )
  if (older(found, wanted.split('.').map(Number))) {
    stop(
      `flowtune needs Rust ${wanted} or newer, and this is ${found}: run \`rustup update stable\` and then this command again.`,
    )
  }
}

function requireCompiler() {
  // On Windows the linker of Visual Studio is not on the path; rustc finds it, and says so if it does not.
  if (process.platform === 'win32') return
  const compiler = process.env.CC ?? 'cc'
  if (read(compiler, ['--version']) === undefined) {
    const install =
      process.platform === 'darwin'
        ? 'run `xcode-select --install`'
        : 'install gcc or clang (on Debian and Ubuntu: `sudo apt-get install build-essential`)'
    stop(`flowtune needs a C compiler, and \`${compiler}\` is not here: ${install} and run this command again.`)
  }
}

function older(version, [major, minor]) {
  const [a, b] = version.split('.').map((part) => Number.parseInt(part, 10))
  return a < major || (a === major && b < minor)
}
