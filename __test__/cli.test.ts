import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { cli } from './helpers/cli'
import { root, temporaryFolder } from './helpers/paths'

const COMMANDS = ['quickstart', 'train', 'prepare', 'sample', 'eval', 'verify', 'inspect']

describe('help', () => {
  it('lists the commands', async () => {
    const { status, stdout } = await cli(['--help'])
    expect(status).toBe(0)
    for (const command of COMMANDS) expect(stdout).toContain(command)
  })

  it.each(COMMANDS)('of %s has an example', async (command) => {
    const { status, stdout } = await cli([command, '--help'])
    expect(status).toBe(0)
    expect(stdout).toMatch(/Examples?:\n {2}flowtune /)
  })

  it('tells the version', async () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
    expect(await cli(['--version'])).toMatchObject({ status: 0, stdout: `${version}\n` })
  })
})

describe('exit status', () => {
  it.each([
    [[]],
    [['bogus']],
    [['train']],
    [['train', '--steps', 'many', 'recipe.yaml']],
    [['verify']],
    [['sample', '--model', 'm', '--prompt', 'p', '--out', 'o.png']],
    [['sample', '--model', 'm', '--prompt', 'p', '--out', 'o.png', '--size', '65']],
    [['inspect', 'x', '--bogus']],
  ])('is 2 for the usage %j', async (args) => {
    const { status, stdout, stderr } = await cli(args)
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
    expect(stderr).not.toBe('')
  })

  it('is 1 for work that fails, with its code', async () => {
    const { status, stderr } = await cli(['train', 'absent.yaml'])
    expect(status).toBe(1)
    expect(stderr).toMatch(/^error IO: absent\.yaml/)
  })

  it('is 1 with --json too, and stdout is JSON alone', async () => {
    const { status, stdout, stderr } = await cli(['inspect', join(temporaryFolder(), 'absent'), '--json'])
    expect({ status, stderr }).toEqual({ status: 1, stderr: '' })
    expect(JSON.parse(stdout).error.message).toContain('absent')
  })
})
