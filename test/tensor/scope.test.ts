// Scopes free what is made inside, except what is returned or kept; across awaits, errors and nesting.
import { spawnSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { add, scale } from '../../lib/ops/elementwise.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { memory, sync } from '../../lib/tensor/runtime.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { settled } from '../support/memory.js'

let before = 0
test.before.each(async () => {
  await settled()
  before = memory().tensors
})
test.after.each(async () => {
  await sync()
  assert.is(memory().tensors, before, 'memory returned to where it began')
})

const one = (): Tensor => tensor([1])

test('frees what is not returned', () => {
  let inner: Tensor
  const out = scope(() => {
    inner = one()
    return scale(inner, 2)
  })
  assert.ok(inner!.disposed && !out.disposed)
  out.dispose()
})

test('finds results in arrays, maps and plain objects', () => {
  const out = scope(() => ({
    list: [one(), [one()]],
    map: new Map([['a', one()]]),
    n: 1,
    deep: { er: { t: one() } },
    no: null,
    gone: one() && undefined,
  }))
  const found = [out.list[0] as Tensor, (out.list[1] as Tensor[])[0]!, out.map.get('a')!, out.deep.er.t]
  for (const t of found) {
    assert.not(t.disposed)
    t.dispose()
  }
})

test('finds results at any depth, in cycles, sets, keys and objects without a prototype', () => {
  const found: Tensor[] = []
  const note = (t: Tensor): Tensor => (found.push(t), t)
  const out = scope(() => {
    let deep: object = { t: note(one()) }
    for (let i = 0; i < 100_000; i++) deep = i % 2 ? [deep] : { deep }
    const ring: Record<string, unknown> = {
      mine: note(one()),
      deep,
      set: new Set([[[[[[note(one())]]]]]]),
      keys: new Map([[note(one()), 1]]),
    }
    ring.self = ring
    ring.bare = Object.assign(Object.create(null), { t: note(one()) })
    return ring
  })
  assert.is(out.self, out)
  assert.is(found.length, 5)
  for (const t of found) {
    assert.not(t.disposed)
    t.dispose()
  }
})

test('hands results to the scope around it', () => {
  let middle: Tensor
  const out = scope(() => {
    middle = scope(() => one())
    assert.not(middle.disposed)
    return scope(() => scope(() => scale(middle, 3)))
  })
  assert.ok(middle!.disposed && !out.disposed)
  out.dispose()
})

test('keep() takes a tensor out of all scopes', () => {
  let kept: Tensor
  scope(() => scope(() => void (kept = keep(one()))))
  assert.not(kept!.disposed)
  kept!.dispose()
})

test('a tensor disposed inside, or returned from elsewhere, is left alone', () => {
  const mine = one()
  assert.is(
    scope(() => (one().dispose(), mine)),
    mine,
  )
  assert.not(mine.disposed)
  mine.dispose()
})

test('an error frees everything, also after an await', async () => {
  const made: Tensor[] = []
  const note = (t: Tensor): Tensor => (made.push(t), t)
  assert.throws(
    () =>
      scope(() => {
        note(one())
        throw new Error('sync')
      }),
    /sync/,
  )
  const error = await scope(async () => {
    note(one())
    await sleep(1)
    note(one())
    throw new Error('async')
  }).catch((e: Error) => e)
  assert.is((error as Error).message, 'async')
  assert.is(made.length, 3)
  assert.ok(made.every((t) => t.disposed))
})

test('async scopes side by side do not mix', async () => {
  const run = async (ms: number): Promise<[Tensor, Tensor]> => {
    let inner!: Tensor
    const out = await scope(async () => {
      inner = one()
      await sleep(ms)
      const doubled = scale(inner, 2)
      await sleep(ms)
      return add(doubled, inner)
    })
    return [inner, out]
  }
  for (const [inner, out] of await Promise.all([run(5), run(1), run(3)])) {
    assert.ok(inner.disposed && !out.disposed)
    assert.is(await out.item(), 3)
    out.dispose()
  }
})

test('work that outlives its scope belongs to the scope around it', async () => {
  let late: Promise<Tensor>
  let made: Tensor[] = []
  await scope(async () => {
    scope(() => {
      late = (async () => {
        await sleep(2)
        made = [one()] // the inner scope has ended: this one is the outer's
        return scope(async () => one())
      })()
    })
    const last = await late!
    made.push(last)
    assert.not(made.some((t) => t.disposed))
  })
  assert.ok(made.length === 2 && made.every((t) => t.disposed))
})

test('MT_LEAKS=1 names what was left to the garbage collector, and where it was made; nothing else', () => {
  const module = (name: string): string => JSON.stringify(new URL(`../../lib/${name}`, import.meta.url).href)
  const code = `
    const { tensor, empty } = await import(${module('tensor/tensor.ts')})
    const { scale } = await import(${module('ops/elementwise.ts')})
    const { scope, keep } = await import(${module('tensor/scope.ts')})
    function forgetful() { tensor([1, 2, 3]); keep(scope(() => scale(tensor([1, 2, 3, 4]), 2))) }
    function tidy() { scope(() => tensor([1]) && undefined); tensor([1, 2]).dispose(); scope(() => scope(() => tensor([5, 5, 5, 5, 5]))).dispose() }
    forgetful(); tidy()
    for (let i = 0; i < 20; i++) { globalThis.gc(); await new Promise((r) => setTimeout(r, 5)) }`
  const { status, stderr } = spawnSync(
    process.execPath,
    ['--expose-gc', '--import', 'tsx', '--input-type=module', '-e', code],
    { encoding: 'utf8', env: { ...process.env, MT_LEAKS: '1' } },
  )
  assert.is(status, 0, stderr)
  const said = stderr.split('\n').filter((line) => line.includes('left to the garbage collector'))
  assert.is(said.length, 2, stderr)
  for (const shape of ['[3]', '[4]'])
    assert.ok(
      said.some((line) => line.includes(`float32 ${shape} at `) && /\[eval1\]:5:/.test(line)),
      stderr,
    )
})

test.run()
