import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { filesIn } from './files'
import { pipeline, temporaryFolder } from './paths'

/** The model on the hub of a test. */
export const hubModel = 'tests/tiny-flux'
export const transformerFile = 'transformer/diffusion_pytorch_model.safetensors'
export const transformerBytes = () => readFileSync(join(pipeline, transformerFile))

/** A commit of forty equal digits. */
export const commit = (digit: string) => digit.repeat(40)

/** A hub on loopback with the random pipeline, which speaks like the real one: routes, redirects of large files, ranges. */
export class TestHub {
  /** By commit. */
  readonly commits = new Map<string, Map<string, Buffer>>()
  /** Commit of the branch. */
  main = commit('a')
  /** Paths that were asked for, without query, with the method and, where there is one, the range. */
  requests: string[] = []
  /** Bytes of content that were sent, by file. */
  readonly sent = new Map<string, number>()
  /** After so many bytes of the transformer nothing more comes, once. */
  stallAfter: number | undefined
  readonly #server = createServer((request, response) => this.#serve(request, response))
  #endpoint = ''

  static async start(): Promise<TestHub> {
    const hub = new TestHub()
    const files = filesIn(pipeline).map((name): [string, Buffer] => [name, readFileSync(join(pipeline, name))])
    hub.commits.set(hub.main, new Map([...files, ['teaser.png', Buffer.from('no image')]]))
    await new Promise<void>((resolve) => hub.#server.listen(0, '127.0.0.1', resolve))
    hub.#endpoint = `http://127.0.0.1:${(hub.#server.address() as AddressInfo).port}`
    onTestFinished(() => {
      hub.#server.closeAllConnections()
      hub.#server.close()
    })
    return hub
  }

  /** Variables that name this hub and an empty cache. */
  environment(home = temporaryFolder()): Record<string, string> {
    return { HF_ENDPOINT: this.#endpoint, HF_HOME: home, HF_HUB_CACHE: '', HF_TOKEN: '', HF_HUB_OFFLINE: '' }
  }

  /** Files whose content was asked for since the last call. */
  fetched(): string[] {
    const got = this.requests.filter((request) => /^GET .*\/(resolve|cdn)\//.test(request))
    this.requests = []
    return [...new Set(got.map((request) => request.split(' ')[1]?.replace(/.*\/(resolve|cdn)\/[^/]+\//, '') ?? ''))]
  }

  #serve({ method, url = '', headers }: IncomingMessage, response: ServerResponse): void {
    const [path = ''] = url.split('?')
    this.requests.push([method, path, headers.range].filter(Boolean).join(' '))
    const revision = path.match(`^/api/models/${hubModel}/revision/(.+)$`)?.[1]
    if (revision) return void this.#list(revision, response)
    const [, place, at = '', name = ''] = path.match(`^/(${hubModel}/resolve|cdn)/([^/]+)/(.+)$`) ?? []
    const content = this.commits.get(at)?.get(name)
    if (!place || !content) {
      response.writeHead(404, { 'X-Error-Code': place ? 'EntryNotFound' : 'RepoNotFound' }).end()
    } else if (place !== 'cdn' && name.endsWith('.safetensors')) {
      const linked = { 'X-Linked-Etag': `"${sha256(content)}"`, 'X-Linked-Size': content.length, 'X-Repo-Commit': at }
      response.writeHead(302, { ...linked, Location: `${this.#endpoint}/cdn/${at}/${name}?Signature=1` }).end()
    } else {
      this.#send(name, content, at, headers.range, method === 'HEAD', response)
    }
  }

  #list(revision: string, response: ServerResponse): void {
    const sha = revision === 'main' ? this.main : revision
    const files = this.commits.get(sha)
    if (!files) return void response.writeHead(404, { 'X-Error-Code': 'RevisionNotFound' }).end()
    const siblings = [...files].map(([rfilename, bytes]) => {
      const { length: size } = bytes
      const lfs = rfilename.endsWith('.safetensors') && { lfs: { sha256: sha256(bytes), size, pointerSize: 134 } }
      return { rfilename, size, blobId: sha256(bytes).slice(0, 40), ...lfs }
    })
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify({ sha, siblings }))
  }

  #send(name: string, content: Buffer, at: string, range: string | undefined, bare: boolean, to: ServerResponse): void {
    const start = Number(range?.match(/^bytes=(\d+)-$/)?.[1] ?? 0)
    const part = content.subarray(start)
    const own = { ETag: `"${sha256(content).slice(0, 40)}"`, 'X-Repo-Commit': at, 'Content-Length': part.length }
    const ranged = range && { 'Content-Range': `bytes ${start}-${content.length - 1}/${content.length}` }
    to.writeHead(range ? 206 : 200, { ...own, ...ranged })
    if (bare) return void to.end()
    const stall = name === transformerFile ? this.stallAfter : undefined
    const sent = stall === undefined ? part : part.subarray(0, stall)
    this.sent.set(name, (this.sent.get(name) ?? 0) + sent.length)
    if (stall === undefined) return void to.end(sent)
    this.stallAfter = undefined
    to.write(sent)
  }
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}
