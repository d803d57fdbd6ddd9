// Profiles on a CUDA device (MT_ADDON: the emulator's addon): times of the stream, a graph as one event, profiles after a
// fault.
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { copy, full, write } from '../../lib/ops/copy.js'
import { add, scale } from '../../lib/ops/elementwise.js'
import { devices } from '../../lib/tensor/device.js'
import { Graph } from '../../lib/tensor/cuda-graph.js'
import { profile, type Profile } from '../../lib/tensor/profile.js'
import { scope } from '../../lib/tensor/scope.js'
import { sync } from '../../lib/tensor/runtime.js'
import { tensor } from '../../lib/tensor/tensor.js'
import { train } from '../../lib/train/loop.js'
import { makeWorld, trainConfig } from '../support/world.js'
import { emulated, lines } from './emulated.js'

const { cuda } = devices()
const test = cuda.devices.length ? plain : plain.skip
if (!cuda.devices.length) console.error(`test/cuda/profile: skipped, since ${cuda.reason}`)
const modes = emulated ? plain : plain.skip

const on = 'cuda:0'
const seen = (p: Profile): unknown[] => [...p.events()].map((e) => [e.operator, e.device, e.read, e.written])

test('operators of both devices in the order of their calls, with the bytes of their arguments', () =>
  scope(async () => {
    const { result, profile: p } = await profile(() => {
      const x = tensor([1, 2, 3], [3], 'float32', on)
      const y = add(x, scale(x, 2))
      scale(tensor([1, 2]), 5)
      return y.to('cpu')
    })
    assert.equal([...(await result.data())], [3, 6, 9])
    assert.equal(seen(p), [
      ['transfer', on, 12, 12],
      ['scale', on, 12, 12],
      ['add', on, 24, 12],
      ['scale', 'cpu', 8, 8],
      ['transfer', on, 12, 12],
    ])
    assert.equal(
      p
        .table()
        .map((r) => r[0])
        .slice(1)
        .sort(),
      ['add on cuda:0', 'all', 'scale on cpu', 'scale on cuda:0', 'transfer on cuda:0'],
    )
    const named = p
      .chromeTrace()
      .traceEvents.flatMap((e) => (e.ph === 'M' && e.name === 'thread_name' ? [[e.tid, e.args.name]] : []))
    assert.equal(named, [
      [1, on],
      [2, 'cpu'],
    ])
  }))

test('far more operators than events in flight: each has its time, one after another', () =>
  scope(async () => {
    const x = full([1], 1, 'float32', on)
    const { profile: p } = await profile(() => {
      for (let i = 0; i < 10_000; i++) scale(x, i).dispose()
    })
    assert.equal([p.length, p.dropped], [10_000, 0])
    let end = 0
    for (const e of p.events()) {
      // A float32 of milliseconds, and the sum of several: their last digits may differ.
      assert.ok(e.start >= end - 1e-6 && e.seconds >= 0, `${e.start} after ${end}`)
      end = e.start + e.seconds
    }
    assert.ok(end <= p.elapsed + 1e-6)
  }))

test('what is captured is not run: a replay is one event, and its results are the same', () =>
  scope(async () => {
    const x = full([4], 1, 'float32', on)
    const { result, profile: p } = await profile(() => Graph.capture(on, () => add(scale(x, 3), x)))
    assert.equal(seen(p), [])
    const { profile: replayed } = await profile(() => {
      result.graph.replay()
      write(x, full([4], 5, 'float32', on))
      result.graph.replay()
      copy(result.result)
    })
    assert.equal(seen(replayed), [
      ['graph', on, 0, 0],
      ['fill', on, 0, 16],
      ['copy', on, 16, 16],
      ['graph', on, 0, 0],
      ['copy', on, 16, 16],
    ])
    assert.equal([...(await result.result.data())], [20, 20, 20, 20])
    result.graph.dispose()
    await sync()
  }))

test('training gives the same losses to the bit, as graphs and without', async () => {
  const world = await makeWorld()
  for (const graphs of [true, false]) {
    const run = async (name: string, profiles?: Profile[]): Promise<number[]> => {
      const losses: number[] = []
      const config = trainConfig(world, `${name}-${graphs}`, {
        data: { val: undefined },
        train: { epochs: 1, batch: 1 },
      })
      await train(config, {
        device: 'cuda',
        graphs,
        onStep: (e) => void losses.push(e.loss, e.norm),
        ...(profiles && { onProfile: (p) => void profiles.push(p) }),
      })
      return losses
    }
    const profiles: Profile[] = []
    assert.equal(await run('profiled', profiles), await run('plain'))
    assert.is(profiles.length, 1)
    const calls = new Map(
      profiles[0]!
        .rows()
        .filter((r) => r.device === on)
        .map((r) => [r.operator, r.calls]),
    )
    const replays = calls.get('graph') ?? 0 // each a full step with its update
    assert.is(replays > 0, graphs)
    assert.is((calls.get('adamw_all') ?? 0) + replays, 10, 'steps 3 to 12, all trained tensors at once')
    assert.is(calls.get('attention_backward')! > 100, !graphs)
  }
})

modes('on a device that begins only when it is asked to, the profile is the same', async () => {
  const out = await lines(
    `const x = m.full([2], 1, 'float32', 'cuda:0')
    const { profile: p } = await m.profile(() => { for (let i = 0; i < 3; i++) m.add(x, m.scale(x, i)) })
    console.log([...p.events()].map((e) => e.operator + ' ' + (e.read + e.written)).join(), p.dropped)`,
    'late',
  )
  assert.equal(out, ['scale 16,add 24,scale 16,add 24,scale 16,add 24 0'])
})

modes('a device that is lost: the profile fails with the reason and has ended, the CPU can be profiled', async () => {
  const out = await lines(
    `const x = m.full([2], 1, 'float32', 'cuda:0'); await m.sync()
    const failed = await m.profile(() => { for (let i = 0; i < 3; i++) m.scale(x, i) }).then(() => 'fine', (e) => e.message)
    console.log(/cuda:0 was lost/.test(failed) || failed)
    const { profile: p } = await m.profile(() => m.scale(m.tensor([1, 2]), 3))
    console.log([...p.events()].map((e) => e.operator + ' on ' + e.device).join())`,
    'sticky=3',
  )
  assert.equal(out, ['true', 'scale on cpu'])
})

plain.run()
