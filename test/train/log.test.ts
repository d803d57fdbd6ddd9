// Logs of a run: what they hold, that TensorBoard's own reader finds the same numbers, and what is done about a run that
// is resumed and a disk that is full.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { AppendFile } from '../../lib/files/append.js'
import { openModel, type Model } from '../../lib/session/model.js'
import { RunLog } from '../../lib/train/log.js'
import { train } from '../../lib/train/loop.js'
import { robustZ, spike } from '../../lib/train/spikes.js'
import { crc32c, eventFileName } from '../../lib/train/tensorboard.js'
import { temporaryFolder } from '../support/tiny.js'
import { jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'

let world: World
let model: Model
test.before(async () => {
  world = await makeWorld()
  model = await openModel(world.model)
})
test.after(() => model.dispose())

const csv = (path: string): Record<string, string>[] => {
  const [head, ...lines] = readFileSync(path, 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(','))
  return lines.map((cells) => Object.fromEntries(head!.map((name, i) => [name, cells[i]!])))
}

test('CRC-32C of the check string, and of nothing', () => {
  assert.is(crc32c(Buffer.from('123456789')), 0xe3069283)
  assert.is(crc32c(new Uint8Array()), 0)
  assert.is(crc32c(new Uint8Array(32)), 0x8a9136aa) // RFC 3720, B.4
})

/** A Python that has TensorBoard: MT_TENSORBOARD_PYTHON, or python3. */
const python = process.env.MT_TENSORBOARD_PYTHON ?? 'python3'
const reader = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))
`

test('three logs hold the same numbers, also of a run that was killed and resumed', async () => {
  const config = trainConfig(world, 'logs', {
    train: {
      batch: 2,
      epochs: 2,
      saveEvery: 2,
      evalEvery: 4,
      schedule: 'cosine',
      log: ['jsonl', 'tensorboard', 'csv'],
    },
  })
  const { output } = config
  const killed = trainConfig(world, 'killed', { train: config.train })
  const { cpSync, rmSync } = await import('node:fs')
  await train(config, {
    model,
    onStep: ({ step }) => {
      if (step === 8) cpSync(output, killed.output, { recursive: true }) // the last save is of step 6
    },
  })
  rmSync(join(killed.output, 'run.lock'))
  await train(killed, { model, resume: true })
  for (const folder of [output, killed.output]) {
    const lines = jsonLines(join(folder, 'metrics.jsonl'))
    const steps = lines.filter((l) => l.kind === 'step')
    assert.equal(
      steps.map((l) => l.step),
      Array.from({ length: 12 }, (_, i) => i + 1),
    )
    for (const l of steps) {
      assert.is(new Date(l.time).toISOString(), l.time)
      assert.ok(l.seconds > 0 && l.tokensPerSecond > 0 && l.memory > 0)
      assert.ok(l.padding >= 0 && l.padding < 1 && l.waiting >= 0 && l.waiting <= 1)
      assert.is(l.lr, l.factor * 3e-3)
    }
    assert.ok(steps.some((l) => l.padding > 0))
    assert.equal(
      lines.filter((l) => l.kind !== 'step').map((l) => [l.kind, l.step]),
      [
        ['validation', 4],
        ['epoch', 6],
        ['validation', 8],
        ['epoch', 12],
      ],
    )
    const rows = csv(join(folder, 'metrics.csv'))
    assert.is(rows.length, lines.length)
    for (const [i, row] of rows.entries())
      for (const name of ['kind', 'step', 'epoch', 'loss', 'lr', 'accuracy', 'time'])
        assert.is(row[name], String(lines[i]![name] ?? ''), `${name} in row ${i}`)
    const found = spawnSync(python, ['-c', reader, folder], { encoding: 'utf8' })
    if (found.status !== 0) {
      console.log(`SKIP: ${python} has no tensorboard (set MT_TENSORBOARD_PYTHON), so event files are not read back`)
      continue
    }
    const scalars = JSON.parse(found.stdout) as Record<string, [number, number][]>
    const of = (kind: string, name: string) =>
      lines.filter((l) => l.kind === kind && typeof l[name] === 'number').map((l) => [l.step, Math.fround(l[name])])
    for (const [tag, kind, name] of [
      ['train/loss', 'step', 'loss'],
      ['train/lr', 'step', 'lr'],
      ['train/waiting', 'step', 'waiting'],
      ['validation/accuracy', 'validation', 'accuracy'],
      ['epoch/loss', 'epoch', 'loss'],
    ] as const)
      assert.equal(scalars[tag], of(kind, name), tag)
  }
  assert.is(readdirSync(killed.output).filter((name) => name.startsWith('events.out.tfevents.')).length, 2)
})

test('event files are in order also where the clock was set back', async () => {
  const folder = temporaryFolder('events')
  const { writeFileSync } = await import('node:fs')
  writeFileSync(join(folder, 'events.out.tfevents.2000000000.host.1'), '')
  assert.match(await eventFileName(folder, 1e9), /^events\.out\.tfevents\.2000000001\./)
  assert.match(await eventFileName(join(folder, 'none'), 1e9), /^events\.out\.tfevents\.1000000000\./)
})

test('a log on a full disk keeps its records and says so once', async () => {
  if (!existsSync('/dev/full')) return console.log('SKIP: this system has no /dev/full')
  const file = await AppendFile.open('/dev/full')
  for (let i = 0; i < 3; i++) {
    const error = await file.append('a record\n').then(
      () => undefined,
      (e: NodeJS.ErrnoException) => e,
    )
    assert.is(error?.code, 'ENOSPC')
  }
  assert.ok(file.behind)
  assert.is(file.lost, 0)
  await file.close()
})

test('a record after a failure begins where the last whole one ended', async () => {
  const folder = temporaryFolder('append')
  const path = join(folder, 'log')
  const file = await AppendFile.open(path, { fresh: true })
  await file.append('one\n')
  // A write that fails in the middle leaves a part behind.
  const handle = (file as unknown as { handle: { write: unknown; truncate: unknown } }).handle
  const write = handle.write as (...args: unknown[]) => Promise<{ bytesWritten: number }>
  handle.write = async (bytes: Uint8Array, at: number, length: number, position: number) => {
    if (at > 0) throw Object.assign(new Error('full'), { code: 'ENOSPC' })
    return write.call(handle, bytes, at, Math.min(2, length), position)
  }
  assert.is(await file.append('two\n').catch((e: NodeJS.ErrnoException) => e.code), 'ENOSPC')
  assert.is(readFileSync(path, 'utf8'), 'one\n')
  handle.write = write
  await file.append('three\n')
  assert.is(readFileSync(path, 'utf8'), 'one\ntwo\nthree\n')
  await file.close()
  const again = await AppendFile.open(path)
  await again.append('four\n')
  await again.close()
  assert.is(readFileSync(path, 'utf8'), 'one\ntwo\nthree\nfour\n')
})

test('an entry of another kind of characters is one line of CSV', async () => {
  const folder = temporaryFolder('csv')
  const log = await RunLog.open(folder, ['csv'], undefined, () => assert.unreachable())
  await log.write({ kind: 'step', epoch: 1, step: 1, bad: 'the loss (samples "a", "b")' })
  await log.close()
  assert.match(
    readFileSync(join(folder, 'metrics.csv'), 'utf8').split('\n')[1]!,
    /,"the loss \(samples ""a"", ""b""\)"$/,
  )
})

test('a loss that stands out is a spike; one of a noisy run, or of a falling one, is not', () => {
  const recent: number[] = []
  const found: [number, number][] = []
  for (let i = 0; i < 200; i++) {
    const noise = 0.2 * Math.sin(i * 12.9898) // spread evenly enough
    const z = spike(3 * Math.exp(-i / 80) + noise + (i === 150 ? 4 : 0), recent)
    if (z !== undefined) found.push([i, z])
  }
  assert.equal(
    found.map(([i]) => i),
    [150],
  )
  assert.ok(found[0]![1] > 6)
  assert.is(recent.length, 64)
  assert.is(spike(NaN, recent), undefined)
  assert.is(recent.length, 64)
  // Half of the deviations are at most 1: 1.4826 is a standard deviation.
  assert.ok(Math.abs(robustZ(5, [1, 2, 3, 4, 100]) - 2 / 1.4826) < 1e-12)
})

test.run()
