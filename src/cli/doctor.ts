import { Command } from 'commander'
import { type CoreReport, type DoctorReport, examine } from '../doctor/report'
import { type SelftestReport, selftest } from '../doctor/selftest'
import type { DeviceInfo, TensorCheck } from '../types'
import { EXIT } from './exit'
import { interruptible } from './interrupt'
import type { CommonOptions } from './options'
import { Output } from './output'
import { type Paint, paint } from './paint'
import { createProgress } from './progress'

interface DoctorOptions extends CommonOptions {
  selftest?: boolean
}

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('say what this machine has, what flowtune computes on here, and why on nothing else')
    .option('--selftest', 'compute parity cases and a short training run on the device, and compare')
    .option('--json', 'one JSON document on stdout')
    .addHelpText(
      'after',
      `
Exits with 1 when the device cannot be used or the selftest is off a bound.

Examples:
  flowtune doctor
  flowtune doctor --selftest --device cuda
  flowtune doctor --json > doctor.json`,
    )
    .action(async (options: DoctorOptions) => {
      const output = new Output(options.json ?? false)
      const report = examine()
      const style = paint(process.stdout)
      for (const line of describe(report, style)) output.line(line)
      if (options.selftest && report.ok) {
        report.selftest = await runSelftest(output)
        report.ok = report.selftest.ok
        for (const line of describeSelftest(report.selftest, style)) output.line(line)
      }
      output.document(report)
      if (!report.ok) process.exitCode = EXIT.failure
    })
}

async function runSelftest(output: Output): Promise<SelftestReport> {
  const progress = createProgress(output)
  return interruptible(output, (signal) => selftest({ signal, onEvent: (event) => progress.show(event) })).finally(() =>
    progress.stop(),
  )
}

function describe(report: DoctorReport, style: Paint): string[] {
  const { system, memory, nvidia, hub } = report
  return [
    ...section('System', style, [
      ['flowtune', report.flowtune],
      ['Node', report.node],
      ['system', [`${system.platform}-${system.arch}`, system.release, system.libc].filter(Boolean).join(', ')],
      ['processor', `${system.cpu}, ${system.cores} ${system.cores === 1 ? 'core' : 'cores'}`],
      ['memory', `${gigabytes(memory.available)} free of ${gigabytes(memory.total)}`],
      ...report.disks.map(({ what, path, free }): Row => [what, `${gigabytes(free)} free (${path})`]),
    ]),
    ...section('NVIDIA', style, [
      ['driver', nvidia.driver ?? 'none found'],
      ...nvidia.cards.map(
        ({ name, computeCapability, memory: size, free }): Row => [
          'card',
          `${name}, compute capability ${computeCapability}, ${gigabytes(free)} free of ${gigabytes(size)}`,
        ],
      ),
      ...nvidia.libraries.map(({ name, path, version }): Row => ['library', `${name} ${version ?? ''} (${path})`]),
      ...(nvidia.libraries.length === 0 ? [['libraries', 'none found where the loader looks'] as Row] : []),
    ]),
    ...section(
      'Devices',
      style,
      report.cores.map((core): Row => [core.device, describeCore(core, style)]),
    ),
    ...section(
      'Hub',
      style,
      hub ? hubRows(hub) : [['settings', 'unknown: the core does not load, or a variable is wrong']],
    ),
    ...conclusion(report, style),
  ]
}

function hubRows({ endpoint, cache, token, offline }: NonNullable<DoctorReport['hub']>): Row[] {
  return [
    ['endpoint', `${endpoint}${offline ? ' (offline: only the cache is used)' : ''}`],
    ['cache', cache],
    ['token', token ? 'there is one' : 'none: gated models cannot be fetched'],
  ]
}

function describeCore(core: CoreReport, style: Paint): string {
  return 'info' in core ? `${style.good('yes')}  ${describeDevice(core.info)}` : `${style.dim('no')}   ${core.reason}`
}

function describeDevice(info: DeviceInfo): string {
  if (info.kind === 'cuda') return `${info.name}, compute capability ${info.computeCapability}`
  const { float32, bfloat16, int8 } = info.instructions
  return `${info.threads} threads; float32 by ${float32}, bfloat16 by ${bfloat16}, int8 by ${int8}`
}

function conclusion({ device }: DoctorReport, style: Paint): string[] {
  const asked = device.asked === 'auto' ? 'auto' : `${device.asked} was asked for`
  if ('info' in device) return [`${style.good('ok')}: flowtune computes on ${device.info.kind} (${asked})`]
  return [`${style.bad('not ok')}: ${device.error.message}`]
}

function describeSelftest({ cases, training, secondsPerStep, ok }: SelftestReport, style: Paint): string[] {
  const rows = cases.map(({ name, tensors, message, ok: fine }): Row => {
    return [name, `${mark(fine, style)}  ${message ?? worst(tensors)}`]
  })
  const steps = training.map((check): Row => {
    const { name, value, expected } = check
    return [name, `${mark(check.ok, style)}  ${errorOf(check)}  (${value.toFixed(4)}, expected ${expected.toFixed(4)})`]
  })
  return [
    '',
    ...section('Selftest: against PyTorch, diffusers and peft, the tensor nearest to its bound', style, rows),
    ...section('Selftest: a short training run, against the CPU', style, [
      ...steps,
      ['a step', `${secondsPerStep.toFixed(2)} s`],
    ]),
    ok ? `${style.good('ok')}: everything is within its bound` : `${style.bad('not ok')}: see the lines above`,
  ]
}

function worst(tensors: TensorCheck[]): string {
  const [first] = [...tensors].sort((a, b) => share(b) - share(a))
  return first ? `${errorOf(first)}  (${first.name}, of ${tensors.length})` : 'nothing to compare'
}

/** Of its bound, which is 0 for what must be exact. */
function share({ error, bound }: TensorCheck): number {
  return error === 0 ? 0 : error / bound
}

function errorOf({ error, bound }: TensorCheck): string {
  return `error ${error === Number.MAX_VALUE ? 'infinite' : error.toExponential(1)}  bound ${bound.toExponential(1)}`
}

function mark(ok: boolean, style: Paint): string {
  return ok ? style.good('ok ') : style.bad('OFF')
}

type Row = [string, string]

function section(title: string, style: Paint, rows: Row[]): string[] {
  const width = Math.max(...rows.map(([name]) => name.length)) + 2
  return [style.bold(title), ...rows.map(([name, text]) => `  ${name.padEnd(width)}${text}`), '']
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`
}
