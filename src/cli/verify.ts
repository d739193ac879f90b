import { Command } from 'commander'
import type { ComputeDtype, Quantization } from '../recipe-types'
import type { CaseReport, TensorCheck } from '../types'
import { verify } from '../work'
import { EXIT } from './exit'
import { interruptible } from './interrupt'
import { type CommonOptions, dtypeOption, quantizationOption } from './options'
import { Output } from './output'
import { createProgress } from './progress'

interface VerifyFlags extends CommonOptions {
  dtype: ComputeDtype
  quantization: Quantization
}

export function verifyCommand(): Command {
  return new Command('verify')
    .description('compute parity cases and compare each tensor with the reference stack')
    .argument('<dirs...>', 'folders of cases, single cases, or a pipeline folder')
    .addOption(dtypeOption('type that training cases are computed in; others are float32 only'))
    .addOption(quantizationOption('what the base of their LoRAs is kept in'))
    .option('--json', 'one JSON document on stdout')
    .addHelpText(
      'after',
      `
Exits with 1 when any tensor is off its bound, or a case names something unknown.

Example:
  flowtune verify __test__/fixtures/parity/cases
  flowtune verify __test__/fixtures/parity/cases --dtype bfloat16`,
    )
    .action(async (dirs: string[], options: VerifyFlags) => {
      const { dtype, quantization, json = false } = options
      const output = new Output(json)
      const progress = createProgress(output)
      const report = await interruptible(output, (signal) =>
        verify(dirs, { dtype, quantization, signal, onEvent: (event) => progress.show(event) }),
      ).finally(() => progress.stop())
      output.document(report)
      for (const each of report.cases) for (const line of describeCase(each)) output.line(line)
      const off = report.cases.filter((each) => !each.ok).length
      output.line(`${report.cases.length} cases, ${off} off`)
      if (!report.ok) process.exitCode = EXIT.failure
    })
}

function describeCase({ name, kind, ok, tensors, message }: CaseReport): string[] {
  const width = Math.max(0, ...tensors.map((tensor) => tensor.name.length))
  const lines = [`${name} (${kind}): ${ok ? 'ok' : 'OFF'}`]
  if (message) lines.push(`  ${message}`)
  return lines.concat(tensors.map((tensor) => describeTensor(tensor, width)))
}

function describeTensor({ name, error, bound, ok }: TensorCheck, width: number): string {
  return `  ${name.padEnd(width)}  error ${scientific(error)}  bound ${scientific(bound)}  ${ok ? 'ok' : 'OFF'}`
}

function scientific(value: number): string {
  return value === Number.MAX_VALUE ? 'infinite' : value.toExponential(2)
}
