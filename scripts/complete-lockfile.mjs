// After `npm install` changed package-lock.json: adds the platform packages that npm left out.
//
// npm records only the optional packages that the registry in use could give it. A lockfile without the others makes
// `npm ci` fail on every machine. Their versions are pinned by the packages that want them, and what platform they are
// for is in their names.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { say } from './lib/say.mjs'
import { root } from './lib/shell.mjs'

const file = join(root, 'package-lock.json')
const OS = ['aix', 'android', 'darwin', 'freebsd', 'linux', 'netbsd', 'openbsd', 'openharmony', 'sunos', 'win32']
const CPU = ['arm', 'arm64', 'ia32', 'loong64', 'mips64el', 'ppc64', 'riscv64', 's390x', 'wasm32', 'x64']

const lock = JSON.parse(readFileSync(file, 'utf8'))
const missing = Object.entries(lock.packages).flatMap(([path, entry]) => missingOf(path, entry))
for (const [path, entry] of missing) lock.packages[path] = entry
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1)))
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`)
say(`added ${missing.length} platform packages to package-lock.json`)

function missingOf(path, { dev, optionalDependencies = {} }) {
  return Object.entries(optionalDependencies)
    .filter(([name]) => !isLocked(path, name))
    .map(([name, range]) => [
      `node_modules/${name}`,
      { version: exact(name, range), ...(dev && { dev }), optional: true, ...platformOf(name) },
    ])
}

/** npm puts a package beside its dependent's others, or into the dependent's own folder. */
function isLocked(path, name) {
  return [`node_modules/${name}`, `${path}/node_modules/${name}`].some((each) => each in lock.packages)
}

function exact(name, range) {
  if (/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(range)) return range
  throw new Error(`${name} is wanted as ${range}: only exact versions can be added`)
}

function platformOf(name) {
  const parts = name.split(/[/-]/)
  const os = OS.find((each) => parts.includes(each))
  const cpu = CPU.find((each) => parts.includes(each))
  if (!os && !cpu) throw new Error(`${name} does not say what platform it is for`)
  const libc =
    os === 'linux' &&
    (parts.some((part) => part.startsWith('musl')) ? 'musl' : parts.some((part) => part.startsWith('gnu')) && 'glibc')
  return { ...(os && { os: [os] }), ...(cpu && { cpu: [cpu] }), ...(libc && { libc: [libc] }) }
}
