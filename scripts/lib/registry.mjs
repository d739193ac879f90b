// A registry of npm packages on loopback, of tarballs on this disk: an install from it goes the way that a user's goes.

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'

/**
 * Serves packages until `close`.
 *
 * @param packages `{ manifest, tarball }` each; one without a tarball is known and cannot be fetched, like a package of
 * another platform, which nobody should want to
 */
export async function serveRegistry(packages) {
  const byName = new Map(packages.map((each) => [each.manifest.name, each]))
  const server = createServer((request, response) => {
    const [, name, tarball] = /^\/([^/]+)(?:\/-\/(.+))?$/.exec(decodeURIComponent(request.url)) ?? []
    const found = byName.get(name)
    if (!found || (tarball && !found.tarball)) return response.writeHead(404).end('{}')
    if (tarball) return response.end(readFileSync(found.tarball))
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify(describe(found, `http://127.0.0.1:${server.address().port}`)))
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() }
}

function describe({ manifest, tarball }, url) {
  const { name, version } = manifest
  const bytes = tarball ? readFileSync(tarball) : name
  const integrity = `sha512-${createHash('sha512').update(bytes).digest('base64')}`
  const dist = { tarball: `${url}/${name}/-/${name}-${version}.tgz`, integrity }
  return { name, 'dist-tags': { latest: version }, versions: { [version]: { ...manifest, dist } } }
}
