/**
 * Why something could not be loaded: the first line of an error's message and of every error that caused it, the
 * outermost first. The generated loader of an addon tries several files, and keeps what each of them said.
 */
export function causes(thrown: unknown): string[] {
  const found = new Set<string>()
  const visit = (error: unknown, depth: number) => {
    if (error === undefined || error === null || depth > 20) return
    const { message, cause, errors } = error as { message?: unknown; cause?: unknown; errors?: unknown }
    const text = typeof message === 'string' ? message : String(error)
    found.add(text.split('\n')[0] ?? '')
    for (const inner of [cause, errors].flat()) visit(inner, depth + 1)
  }
  visit(thrown, 0)
  return [...found]
}

/** The cause that says most: what the system's loader said, rather than which files are not there. */
export function mainCause(thrown: unknown): string {
  const telling = causes(thrown).find((text) => !/^Cannot find (module|native binding)|WASI/.test(text))
  return telling ?? 'there is none here'
}
