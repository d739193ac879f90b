// A machine on which there is nothing but Node and a shell, as far as a program can see from PATH.

import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { read, runQuietly } from './shell.mjs'

const windows = process.platform === 'win32'

/** Its home is `folder`, and so are its projects. */
export function bareMachine(folder) {
  const npmFolder = dirname(process.env.npm_execpath ?? join(read('npm', ['root', '-g']), 'npm', 'bin', 'npm-cli.js'))
  const tool = (name) => (args, cwd, env) =>
    runQuietly(process.execPath, [join(npmFolder, name), ...args], { cwd, env })
  return {
    environment: (registry) => environment(folder, registry),
    project: (name) => project(folder, name),
    npm: tool('npm-cli.js'),
    npx: tool('npx-cli.js'),
  }
}

/** What a run printed; it is an error when it failed. */
export async function succeeding(promise) {
  const { status, output } = await promise
  if (status !== 0) throw new Error(`exit status ${status}\n${output}`)
  return output
}

function environment(folder, registry) {
  const bin = join(folder, 'bin')
  mkdirSync(bin)
  symlinkSync(process.execPath, join(bin, windows ? 'node.exe' : 'node'))
  if (!windows) symlinkSync('/bin/sh', join(bin, 'sh'))
  const kept = ['SystemRoot', 'ComSpec', 'TEMP', 'TMP', 'PATHEXT'].filter((name) => process.env[name])
  return {
    ...Object.fromEntries(kept.map((name) => [name, process.env[name]])),
    PATH: [bin, ...(windows ? [join(process.env.SystemRoot, 'System32')] : [])].join(delimiter),
    HOME: folder,
    USERPROFILE: folder,
    npm_config_cache: join(folder, 'cache'),
    npm_config_registry: registry,
    npm_config_audit: 'false',
    npm_config_fund: 'false',
    npm_config_update_notifier: 'false',
    npm_config_fetch_retries: '0',
    // Whoever asks another host than the registry, asks one that does not answer.
    HTTP_PROXY: 'http://127.0.0.1:9',
    HTTPS_PROXY: 'http://127.0.0.1:9',
    NO_PROXY: '127.0.0.1',
    npm_config_noproxy: '127.0.0.1',
  }
}

/** An empty project. */
function project(folder, name) {
  const path = join(folder, name)
  mkdirSync(path)
  writeFileSync(join(path, 'package.json'), JSON.stringify({ name, private: true, type: 'module' }))
  return path
}
