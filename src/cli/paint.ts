/** Colours, or none. */
export interface Paint {
  bold(text: string): string
  dim(text: string): string
  good(text: string): string
  bad(text: string): string
}

/** Colours for a terminal; plain for a file, a pipe, and whoever set `NO_COLOR`. */
export function paint(stream: NodeJS.WriteStream): Paint {
  const coloured = stream.isTTY && stream.hasColors() && !process.env.NO_COLOR
  const style = (on: number, off: number) => (text: string) => (coloured ? `\x1b[${on}m${text}\x1b[${off}m` : text)
  return { bold: style(1, 22), dim: style(2, 22), good: style(32, 39), bad: style(31, 39) }
}
