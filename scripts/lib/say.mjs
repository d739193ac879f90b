// What the scripts tell the person who typed the command.

export function say(text) {
  process.stdout.write(`${text}\n`)
}

/** Ends the process with one plain sentence. */
export function stop(text) {
  process.stderr.write(`${text}\n`)
  process.exit(1)
}
