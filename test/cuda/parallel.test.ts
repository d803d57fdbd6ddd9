// Several devices compute one run together, in one process: two devices of the emulator, compared with two ranks of the
// CPU.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { register } from '../../lib/cli/train.js'
import { inProcess } from '../support/cli.js'
import { launcher } from '../support/mpi.js'
import { configOf, jsonLines, makeWorld, missing, type World } from '../support/world.js'
import { emulated } from './emulated.js'

const reason = emulated === null ? 'build-emulated is not built' : await missing('sharp')
const test = reason === undefined ? plain : plain.skip
if (reason !== undefined) console.error(`test/cuda/parallel: skipped, since ${reason}`)

let world: World
if (reason === undefined) plain.before(async () => void (world = await makeWorld()))

/** Trains in a process of its own, where the emulator has two devices. */
function trained(name: string, devices: string, more: object, ...options: string[]): { output: string; err: string } {
  const path = join(world.root, `${name}.json`)
  writeFileSync(path, JSON.stringify(configOf(world, name, { data: { val: undefined }, ...more })))
  const { status, stderr } = spawnSync(process.execPath, [launcher, 'train', path, '--devices', devices, ...options], {
    cwd: tmpdir(),
    encoding: 'utf8',
    env: { ...process.env, MT_ADDON: emulated!, MT_EMULATOR: 'devices=2', MT_THREADS: '1' },
  })
  assert.is(status, 0, stderr)
  return { output: join(world.root, name), err: stderr }
}
const losses = (output: string): number[] =>
  jsonLines(join(output, 'metrics.jsonl'))
    .filter((line) => line.kind === 'step')
    .map((line) => line.loss)
const state = (output: string): string => readFileSync(join(output, 'last', 'training.safetensors')).toString('base64')

test('two devices learn what two ranks of the CPU learn, to the bit in a rerun that was resumed', () => {
  const [half, all] = [{ train: { epochs: 1, lr: 1e-3 } }, { train: { epochs: 2, lr: 1e-3 } }]
  const cpu = losses(trained('cpu', 'cpu,cpu', all).output)
  assert.is(cpu.length, 6)
  const first = trained('two', 'cuda:0,cuda:1', all)
  assert.match(first.err, /computing on cuda:0/)
  trained('again', 'cuda:0,cuda:1', half)
  const again = trained('again', 'cuda:0,cuda:1', all, '--resume', '--extend')
  assert.is(state(again.output), state(first.output))
  const worst = Math.max(...losses(first.output).map((loss, i) => Math.abs(loss / cpu[i]! - 1)))
  assert.ok(worst <= 1e-5, `losses differ by ${worst}`)
})

test('devices that are none, or asked for in two ways', async () => {
  const refusal = async (...options: string[]): Promise<string> =>
    (await inProcess(register, 'train', join(world.root, 'two.json'), ...options)).err
  assert.match(await refusal('--devices', 'cuda:0,'), /--devices: expected devices with commas between them/)
  assert.match(
    await refusal('--devices', 'cpu,cpu', '--device', 'cpu'),
    /--devices: expected to be given without --dev/,
  )
  assert.match(await refusal('--devices', 'cpu,cuda:77'), /cuda:77/)
})

plain.run()
