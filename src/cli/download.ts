import { Command } from 'commander'
import { download } from '../work'
import { interruptible } from './interrupt'
import type { CommonOptions } from './options'
import { Output } from './output'
import { createProgress, inBytes } from './progress'

interface DownloadCliOptions extends CommonOptions {
  revision?: string
}

export function downloadCommand(): Command {
  return new Command('download')
    .description("fetch a hub's model ahead: only the files that are needed, into the cache that Python uses too")
    .argument('<model>', 'OWNER/NAME of a pipeline, or OWNER/NAME/FILE.safetensors of a transformer')
    .option('--revision <name>', 'branch, tag or commit (default: main)')
    .option('--json', 'one JSON document on stdout')
    .addHelpText(
      'after',
      `
Ctrl+C keeps what has come; the next attempt goes on from there.

HF_HOME or HF_HUB_CACHE say where the cache is, HF_TOKEN who asks, HF_ENDPOINT which hub, HF_HUB_OFFLINE=1 that none may be asked.

Examples:
  flowtune download black-forest-labs/FLUX.2-klein-base-4B
  HF_TOKEN=hf_… flowtune download black-forest-labs/FLUX.2-dev --revision main`,
    )
    .action(async (model: string, { json, revision }: DownloadCliOptions) => {
      const output = new Output(json ?? false)
      const progress = createProgress(output)
      const summary = await interruptible(output, (signal) =>
        download(model, { revision, signal, onEvent: (event) => progress.show(event) }),
      ).finally(() => progress.stop())
      output.document(summary)
      output.line(`${summary.files} files at commit ${summary.revision}, ${inBytes(summary.downloadedBytes)} fetched`)
      output.line(summary.path)
    })
}
