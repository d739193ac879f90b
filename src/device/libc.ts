/** The C library of this process, on Linux: `glibc 2.36` or `musl`. */
export function libcVersion(): string | undefined {
  if (process.platform !== 'linux') return undefined
  // Node would look up the names of all connections; its types do not know the property yet.
  Object.assign(process.report, { excludeNetwork: true })
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
  return header.glibcVersionRuntime ? `glibc ${header.glibcVersionRuntime}` : 'musl'
}
