// The licences of everything that is in a package beside our own code: Rust crates in a core, npm packages in a bundle.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { root, runCapturing } from './shell.mjs'

/** What may be in a package. Each asks for no more than that its text comes along. */
export const ALLOWED = new Set([
  '0BSD',
  'Apache-2.0',
  'Apache-2.0 WITH LLVM-exception',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'BSL-1.0',
  'CC0-1.0',
  'CDLA-Permissive-2.0',
  'ISC',
  'MIT',
  'MIT-0',
  // Of files that are linked as they are; the document says where their source is.
  'MPL-2.0',
  'Unicode-3.0',
  'Unlicense',
  'Zlib',
])

const MIT = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`

/** Whether an SPDX expression can be met with allowed licences alone. */
export function isAllowed(expression) {
  const tokens = expression.replace(/\//g, ' OR ').match(/\(|\)|[^\s()]+/g) ?? []
  const value = either(tokens)
  return value && tokens.length === 0
}

function either(tokens) {
  let value = both(tokens)
  while (tokens[0] === 'OR') {
    tokens.shift()
    const next = both(tokens)
    value = value || next
  }
  return value
}

function both(tokens) {
  let value = single(tokens)
  while (tokens[0] === 'AND') {
    tokens.shift()
    const next = single(tokens)
    value = value && next
  }
  return value
}

function single(tokens) {
  const token = tokens.shift()
  if (token === '(') {
    const value = either(tokens)
    return tokens.shift() === ')' && value
  }
  if (tokens[0] !== 'WITH') return ALLOWED.has(token)
  tokens.shift()
  return ALLOWED.has(`${token} WITH ${tokens.shift()}`)
}

/** The crates that are linked into the core of a target. Crates of macros are not: they run when it is compiled. */
export function cratesOf(target, features = []) {
  const args = ['metadata', '--format-version', '1', '--locked', '--filter-platform', target]
  if (features.length > 0) args.push('--features', features.map((name) => `flowtune-node/${name}`).join(','))
  const { packages, resolve } = JSON.parse(runCapturing('cargo', args))
  const byId = new Map(packages.map((each) => [each.id, each]))
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]))
  const isLinked = (id) =>
    !byId.get(id).targets.every(({ kind }) => kind.includes('proc-macro') || kind.includes('custom-build'))
  const seen = new Set()
  const visit = (id) => {
    if (seen.has(id) || !isLinked(id)) return
    seen.add(id)
    for (const { pkg, dep_kinds } of nodes.get(id).deps) if (dep_kinds.some(({ kind }) => kind === null)) visit(pkg)
  }
  visit(packages.find(({ name }) => name === 'flowtune-node').id)
  return [...seen]
    .map((id) => byId.get(id))
    .filter(({ source }) => source !== null)
    .map(({ name, version, license, repository, authors, manifest_path, license_file }) => {
      const texts = textsIn(dirname(manifest_path), license_file)
      return withText({ name, version, license: license ?? '', repository, texts }, authors.join(', '))
    })
    .concat(
      withText({ name: 'std', version: rustVersion(), license: 'MIT OR Apache-2.0', texts: [] }, 'The Rust Project'),
    )
    .sort(byName)
}

/** Some crates leave the file out, and name MIT, whose text is the same but for who gives it. */
function withText(component, authors) {
  if (component.texts.length > 0 || !/\bMIT\b/.test(component.license)) return component
  const holder = authors || `the authors of ${component.name}`
  return { ...component, texts: [`MIT License\n\nCopyright (c) ${holder}\n\n${MIT}`] }
}

function rustVersion() {
  return runCapturing('rustc', ['--version']).split(' ')[1]
}

/** The npm packages whose code is in the bundles, by the bundles' own source maps. */
export function bundledPackages() {
  const maps = readdirSync(join(root, 'dist')).filter((name) => name.endsWith('.map'))
  const sources = maps.flatMap((name) => JSON.parse(readFileSync(join(root, 'dist', name), 'utf8')).sources)
  const names = sources.flatMap((source) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(source)?.[1] ?? [])
  return [...new Set(names)].map(describePackage).sort(byName)
}

function describePackage(name) {
  const folder = join(root, 'node_modules', name)
  const { version, license, repository } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  return withText({ name, version, license, repository: repository?.url ?? repository, texts: textsIn(folder) }, '')
}

function textsIn(folder, named) {
  const names = readdirSync(folder).filter((name) => /^(licen[cs]e|copying|notice|unlicense)/i.test(name))
  if (named && existsSync(join(folder, named)) && !names.includes(named)) names.push(named)
  return names.sort().flatMap((name) => readText(join(folder, name)))
}

/** `LICENSES` may be a folder. */
function readText(path) {
  try {
    return [readFileSync(path, 'utf8').replace(/\r\n/g, '\n').trim()]
  } catch {
    return readdirSync(path)
      .sort()
      .flatMap((name) => readText(join(path, name)))
  }
}

function byName(a, b) {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0
}

/**
 * One document: what is used, under which licence, and each text once.
 *
 * @throws Error that names everything whose licence is not allowed, or has no text
 */
export function licenseDocument(title, components) {
  const refused = components.filter(({ license }) => !isAllowed(license))
  if (refused.length > 0) {
    const list = refused
      .map(({ name, version, license }) => `${name} ${version} (${license || 'no licence'})`)
      .join(', ')
    throw new Error(`these licences are not on the list of allowed ones (scripts/lib/licenses.mjs): ${list}`)
  }
  const silent = components.filter(({ texts }) => texts.length === 0).map(({ name }) => name)
  if (silent.length > 0) throw new Error(`these come without a text of their licence: ${silent.join(', ')}`)
  const users = new Map()
  for (const { name, version, texts } of components) {
    for (const text of texts) users.set(text, [...(users.get(text) ?? []), `${name} ${version}`])
  }
  const line = '-'.repeat(80)
  const overview = components.map(({ name, version, license, repository }) => {
    return `${name} ${version}: ${license}${repository ? ` (${repository})` : ''}`
  })
  const sections = [...users].map(([text, names]) => `${line}\n${names.join(', ')}\n${line}\n\n${text}\n`)
  return `${title}\n\n${overview.join('\n')}\n\n${sections.join('\n')}`
}
