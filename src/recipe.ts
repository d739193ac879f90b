import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { type Document, isMap, LineCounter, type Node, parseDocument } from 'yaml'
import { FlowtuneError, guard } from './errors'
import { native } from './native'
import type { Recipe } from './types'

/**
 * Reads a recipe from a YAML file, checks it, fills in the defaults and makes its paths absolute (they are relative to
 * the file's folder).
 *
 * @throws FlowtuneError `RECIPE_INVALID`, naming the file and, where the culprit is written there, its line; `IO`
 */
export async function loadRecipe(path: string): Promise<Recipe> {
  const source = await readFile(path, 'utf8').catch((cause) => {
    throw new FlowtuneError('IO', `${path}: the recipe cannot be read (${cause.message})`, { cause })
  })
  const lines = new LineCounter()
  const document = parseDocument(source, { lineCounter: lines })
  const problem = document.errors[0]
  if (problem) {
    const line = problem.linePos?.[0].line ?? 1
    throw new FlowtuneError('RECIPE_INVALID', `${path}:${line}: ${problem.message.split('\n')[0]}`, { cause: problem })
  }
  try {
    return resolveRecipe(document.toJS(), dirname(resolve(path)))
  } catch (thrown) {
    const error = FlowtuneError.from(thrown)
    if (error.code !== 'RECIPE_INVALID') throw error
    throw new FlowtuneError(error.code, `${path}${lineOf(document, lines, error.message)}: ${error.message}`, {
      cause: error,
    })
  }
}

/**
 * Checks a recipe and fills in its defaults; relative paths start at `baseDir`.
 *
 * @throws FlowtuneError `RECIPE_INVALID`
 */
export function resolveRecipe(recipe: unknown, baseDir: string = process.cwd()): Recipe {
  if (recipe === null || typeof recipe !== 'object' || Array.isArray(recipe)) {
    throw new FlowtuneError('RECIPE_INVALID', 'a recipe is an object with the keys model, data and train')
  }
  return guard(() => JSON.parse(native().resolveRecipe(JSON.stringify(recipe), baseDir)) as Recipe)
}

/** `:line` of the first dotted key that `message` names in backticks, of its nearest parent if it is not written. */
function lineOf(document: Document, lines: LineCounter, message: string): string {
  const keys = message.match(/`([A-Za-z]\w*(?:\.\w+)*)`/)?.[1]?.split('.') ?? []
  for (let length = keys.length; length > 0; length -= 1) {
    const offset = offsetOf(document, keys.slice(0, length))
    if (offset !== undefined) return `:${lines.linePos(offset).line}`
  }
  return ''
}

function offsetOf(document: Document, path: string[]): number | undefined {
  const parent = path.length > 1 ? document.getIn(path.slice(0, -1), true) : document.contents
  if (!isMap(parent)) return undefined
  const pair = parent.items.find((item) => String(item.key) === path.at(-1))
  return (pair?.key as Node | undefined)?.range?.[0]
}
