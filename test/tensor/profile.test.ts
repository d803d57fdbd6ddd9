// Profiles: which operators are in one, with which bytes, in which order; where it begins and ends, and that it ends
// well.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addSquareSum } from '../../lib/ops/adamw.js'
import { cast, copy, full } from '../../lib/ops/copy.js'
import { add, scale } from '../../lib/ops/elementwise.js'
import { embedding } from '../../lib/ops/embedding.js'
import { linear } from '../../lib/ops/linear.js'
import { expand, narrow, permute } from '../../lib/ops/views.js'
import { native } from '../../lib/native.js'
import { profile, startProfile, stopProfile, type Profile } from '../../lib/tensor/profile.js'
import { scope } from '../../lib/tensor/scope.js'
import { sync } from '../../lib/tensor/runtime.js'
import { empty, tensor } from '../../lib/tensor/tensor.js'

const names = (p: Profile): string[] => [...p.events()].map((e) => e.operator)
const failure = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'nothing',
    (e: Error) => e.message,
  )

test('operators in order, with the bytes of each argument', () =>
  scope(async () => {
    const x = full([3, 4], 1)
    const { result, profile: p } = await profile(() => {
      const y = linear(x, full([5, 4], 2), tensor([1, 2, 3, 4, 5]))
      add(y, y)
      copy(narrow(permute(x, [1, 0]), 0, 1, 2))
      copy(expand(tensor([7]), [6, 5]))
      cast(x, 'bfloat16')
      addSquareSum(full([], 0), x)
      return y
    })
    assert.equal([...(await result.data())].slice(0, 5), [9, 10, 11, 12, 13])
    const floats = (read: number, written: number): [number, number] => [4 * read, 4 * written]
    assert.equal(
      [...p.events()].map((e) => [e.operator, e.read, e.written]),
      [
        ['fill', ...floats(0, 20)],
        ['linear_forward', ...floats(12 + 20 + 5, 15)],
        ['add', ...floats(15 + 15, 15)],
        ['copy', ...floats(6, 6)],
        ['copy', ...floats(1, 30)], // one element, seen thirty times
        ['copy', 4 * 12, 2 * 12],
        ['fill', ...floats(0, 1)],
        ['square_sum', ...floats(12 + 1, 1)], // the sum is read and written
      ],
    )
  }))

test('an event begins when the one before has ended, within the profile; all are of the CPU', () =>
  scope(async () => {
    const x = full([100], 1)
    const { profile: p } = await profile(() => {
      for (let i = 0; i < 200; i++) scale(x, i)
    })
    assert.is(p.length, 200)
    let end = 0
    for (const e of p.events()) {
      assert.is(e.device, 'cpu')
      assert.ok(e.start >= end - 1e-12 && e.seconds >= 0)
      end = e.start + e.seconds
    }
    assert.ok(end <= p.elapsed)
    assert.is(p.dropped, 0)
  }))

test('what was called before the start or after the stop is not in it, wherever the queue is', () =>
  scope(async () => {
    const x = full([1 << 16], 1)
    for (let i = 0; i < 20; i++) scale(x, 2)
    startProfile()
    add(x, x)
    const stopped = stopProfile()
    copy(x)
    assert.equal(names(await stopped), ['add'])
    assert.equal(names((await profile(() => {})).profile), [])
    const none = empty([0, 3])
    assert.equal(names((await profile(() => scale(none, 2))).profile), [], 'nothing to write is nothing run')
  }))

test('asynchronous work, and a result that comes with the profile', () =>
  scope(async () => {
    const { result, profile: p } = await profile(async () => {
      const y = scale(tensor([1, 2]), 3)
      const [first] = await y.data()
      add(y, y)
      return first
    })
    assert.is(result, 3)
    assert.equal(names(p), ['scale', 'add'])
  }))

test('one profile at a time; one that was refused does not disturb the first', () =>
  scope(async () => {
    const x = full([2], 1)
    const { profile: p } = await profile(async () => {
      scale(x, 2)
      assert.is(
        await failure(profile(() => scale(x, 3))),
        'profileStart: a profile is being taken already, and there is one at a time; stop that one first.',
      )
      add(x, x)
    })
    assert.equal(names(p), ['scale', 'add'])
    assert.is(await failure(stopProfile()), 'profileStop: no profile is being taken; start one first.')
  }))

test('where the function or an operator fails, so does the profile, which has ended', () =>
  scope(async () => {
    const x = full([2], 1)
    for (const f of [
      () => {
        throw new Error('mine')
      },
      () => Promise.reject(new Error('mine')),
    ])
      assert.is(await failure(profile(f)), 'mine')
    assert.match(
      await failure(profile(() => embedding(tensor(Int32Array.of(99)), full([4, 2], 1)))),
      /^embedding_forward: id 99 is outside the embedding's 4 rows/,
    )
    await sync()
    assert.equal(names((await profile(() => scale(x, 2))).profile), ['scale'])
  }))

test('a full profile counts what it drops, and computes on', () =>
  scope(async () => {
    startProfile(3)
    let x = full([2], 1)
    for (let i = 0; i < 5; i++) x = scale(x, 2)
    const p = await stopProfile()
    assert.equal([names(p), p.length, p.dropped], [['fill', 'scale', 'scale'], 3, 3])
    assert.equal([...(await x.data())], [32, 32])
    for (const most of [0, -1, 1e12])
      assert.throws(() => startProfile(most), /^profileStart: argument 1: expected 1 to 100000000 events, but got /)
    assert.throws(
      () => native().profileEvents({} as never),
      /^profileEvents: argument 1: expected a record of profileStop\(\)/,
    )
  }))

test('rows and table: calls, bytes and shares add up', () =>
  scope(async () => {
    const x = full([10, 100], 1)
    const { profile: p } = await profile(() => {
      for (let i = 0; i < 7; i++) scale(x, i)
      for (let i = 0; i < 2; i++) add(x, x)
    })
    const rows = p.rows()
    assert.equal(
      new Map(rows.map((r) => [r.operator, [r.device, r.calls, r.bytes]])),
      new Map([
        ['scale', ['cpu', 7, 7 * 8000]],
        ['add', ['cpu', 2, 2 * 12000]],
      ]),
    )
    assert.ok(Math.abs(rows.reduce((n, r) => n + r.share, 0) - 1) < 1e-12)
    assert.ok(rows[0]!.seconds >= rows[1]!.seconds, 'the slowest first')
    const cells = p.table()
    assert.equal(cells[0], ['operator', 'calls', 'total ms', 'share', 'mean µs', 'GB', 'GB/s'])
    assert.equal(
      cells.slice(1).map((r) => r.slice(0, 2)),
      [...rows.map((r) => [r.operator, String(r.calls)]), ['all', '9']],
    )
    assert.is(cells.at(-1)![3], '100.0 %')
    assert.equal((await profile(() => {})).profile.table().slice(1), [['all', '0', '0.0', '0.0 %', '-', '-', '-']])
  }))

test('a trace of Chrome: the events in microseconds, on a line named after the device', () =>
  scope(async () => {
    const x = full([3], 1)
    const { profile: p } = await profile(() => void add(scale(x, 2), x))
    const { traceEvents, displayTimeUnit } = JSON.parse(JSON.stringify(p.chromeTrace()))
    assert.is(displayTimeUnit, 'ms')
    assert.equal(traceEvents.slice(0, 2), [
      { ph: 'M', name: 'process_name', pid: 1, tid: 0, args: { name: 'mtransllama' } },
      { ph: 'M', name: 'thread_name', pid: 1, tid: 1, args: { name: 'cpu' } },
    ])
    const microseconds = (s: number): number => Math.round(s * 1e9) / 1e3
    assert.equal(
      traceEvents.slice(2),
      [...p.events()].map((e) => ({
        ph: 'X',
        name: e.operator,
        cat: 'operator',
        pid: 1,
        tid: 1,
        ts: microseconds(e.start),
        dur: microseconds(e.seconds),
        args: { read: e.read, written: e.written },
      })),
    )
    assert.equal(
      traceEvents.slice(2).map((e: { name: string; args: object }) => [e.name, e.args]),
      [
        ['scale', { read: 12, written: 12 }],
        ['add', { read: 24, written: 12 }],
      ],
    )
  }))

test.run()
