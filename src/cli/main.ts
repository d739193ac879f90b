import { runCli } from './program'

// Whoever reads may have had enough: `flowtune plan recipe.yaml | head`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit()
  throw error
})

process.exitCode = await runCli(process.argv.slice(2))
