/** Where a command writes: in JSON mode one document or JSON lines on stdout and nothing else. */
export class Output {
  constructor(readonly json: boolean) {}

  /** A line for people. */
  line(text = ''): void {
    if (!this.json) process.stdout.write(`${text}\n`)
  }

  /** One JSON document on one line, for machines. */
  document(value: unknown): void {
    if (this.json) process.stdout.write(`${JSON.stringify(value)}\n`)
  }

  /** A failure: for people on stderr, for machines on stdout. */
  failure(code: string, message: string): void {
    if (this.json) this.document({ error: { code, message } })
    else process.stderr.write(`error ${code}: ${message}\n`)
  }

  /** A remark for people that is no result. */
  note(text: string): void {
    if (!this.json) process.stderr.write(`${text}\n`)
  }
}
