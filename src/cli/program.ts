import { Command, CommanderError, Option } from 'commander'
import { DEVICES, type DeviceName } from '../device/name'
import { useDevice } from '../device/use'
import { FlowtuneError } from '../errors'
import { packageVersion } from '../package-root'
import { doctorCommand } from './doctor'
import { downloadCommand } from './download'
import { evalCommand } from './eval'
import { EXIT, UsageError } from './exit'
import { explainCommand } from './explain'
import { exportCommand } from './export'
import { inspectCommand } from './inspect'
import { mergeCommand } from './merge'
import { Output } from './output'
import { planCommand } from './plan'
import { prepareCommand } from './prepare'
import { quickstartCommand } from './quickstart'
import { sampleCommand } from './sample'
import { trainCommand } from './train'
import { verifyCommand } from './verify'

/** Runs the command line and gives its exit status. */
export async function runCli(args: string[]): Promise<number> {
  try {
    await createProgram().parseAsync(args, { from: 'user' })
    return Number(process.exitCode ?? EXIT.ok)
  } catch (thrown) {
    return report(thrown, new Output(args.includes('--json')))
  }
}

function createProgram(): Command {
  const program = new Command('flowtune')
    .description('Fine-tune FLUX.2 on your own images, without Python.')
    .version(packageVersion())
    .addOption(deviceOption())
    .configureHelp({ showGlobalOptions: true })
    .hook('preAction', (self) => chooseDevice(self.opts<{ device?: DeviceName }>().device))
    .exitOverride()
    .showHelpAfterError('(add --help for what there is)')
  const commands = [
    quickstartCommand,
    trainCommand,
    downloadCommand,
    explainCommand,
    planCommand,
    prepareCommand,
    sampleCommand,
    evalCommand,
    exportCommand,
    mergeCommand,
    verifyCommand,
    inspectCommand,
    doctorCommand,
  ]
  for (const create of commands) program.addCommand(create().exitOverride().copyInheritedSettings(program))
  return program
}

/** Of every command, before its name or after. */
function deviceOption(): Option {
  return new Option('--device <name>', 'what computes (default: FLOWTUNE_DEVICE, else auto)').choices(DEVICES)
}

function chooseDevice(name: DeviceName | undefined): void {
  if (name) useDevice(name)
}

function report(thrown: unknown, output: Output): number {
  // Commander has already written its message, or the help that was asked for.
  if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? EXIT.ok : EXIT.usage
  if (thrown instanceof UsageError) {
    output.failure('USAGE', thrown.message)
    return EXIT.usage
  }
  const error = FlowtuneError.from(thrown)
  output.failure(error.code, error.message)
  return error.code === 'CANCELLED' ? EXIT.interrupted : EXIT.failure
}
