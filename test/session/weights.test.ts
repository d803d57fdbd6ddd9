// How the weights of a checkpoint are held: the policy's decisions for machines of all sizes, and weights that are read
// and converted against those that lie in their files.
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { planCheckpoint } from '../../lib/checkpoint/plan.js'
import { InputError } from '../../lib/errors.js'
import { weightsPolicy, type Held, type WeightsChoice } from '../../lib/session/budget.js'
import { loadImageModel, openCheckpoint } from '../../lib/session/checkpoint.js'
import { loadWeights } from '../../lib/session/weights.js'
import { cast } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { settled } from '../support/memory.js'
import { temporaryFolder } from '../support/tiny.js'
import { writeCheckpoint } from '../support/world.js'

const GB = 1e9

/** A model of one matrix of 10⁹ numbers, one vector and one table of positions. */
const entries = (dtype: Held['dtype']): Held[] => [
  { kind: 'stored', name: 'a.weight', shape: [50_000, 20_000], dtype },
  { kind: 'stored', name: 'a.bias', shape: [50_000], dtype },
  { kind: 'stored', name: 'position_embedding.weight', shape: [512, 768], dtype },
]

const decided = (dtype: Held['dtype'], gigabytes: number, weights?: WeightsChoice, precision?: 'bfloat16') => {
  const all = entries(dtype)
  const policy = weightsPolicy({ entries: all, device: 'cpu', memory: gigabytes * GB, weights, precision })
  const [matrix, bias, position] = all as [Held, Held, Held]
  assert.is(policy.dtypeOf(bias), 'float32')
  assert.is(policy.dtypeOf(position), 'float32')
  assert.is(policy.bytesOf(matrix), 1e9 * (policy.dtypeOf(matrix) === 'float32' ? 4 : 2))
  const { asItIs, forget, form, notes } = policy
  return { dtype: policy.dtypeOf(matrix), mapped: policy.isMapped(matrix), asItIs, forget, form, said: notes.length }
}

test('float32 weights: as they are where memory is plenty, else bfloat16, which is said', () => {
  const roomy = { dtype: 'float32', mapped: true, asItIs: false, forget: false, form: 'stored', said: 0 }
  assert.equal(decided('F32', 24), roomy)
  const half = { dtype: 'bfloat16', mapped: false, asItIs: false, forget: false, form: 'bfloat16', said: 1 }
  assert.equal(decided('F32', 11), half, 'loaded, and small enough then to be packed')
  assert.equal(decided('F32', 5.5), { ...half, asItIs: true, forget: true })
  assert.equal(decided('F32', 24, 'bfloat16'), { ...half, said: 0 }, 'as asked')
  assert.equal(decided('F32', 7, 'stored'), { ...roomy, mapped: false, asItIs: true, forget: true })
})

test('float32 weights that are not quantised: bfloat16 where all of them would be too large, which is said', () => {
  const all = [
    ...entries('F32'),
    { kind: 'stored', name: 'language_model.model.layers.0.up.weight', shape: [10, 10], dtype: 'F32' },
  ]
  for (const [memory, dtype] of [
    [24, 'float32'],
    [11, 'bfloat16'],
  ] as const) {
    const policy = weightsPolicy({ entries: all as Held[], device: 'cpu', memory: memory * GB, weights: 'nf4' })
    assert.equal(
      all.map((t) => policy.dtypeOf(t as Held)),
      [dtype, 'float32', 'float32', 'nf4'],
    )
    assert.is(policy.form, 'nf4')
    assert.is(policy.notes.length, dtype === 'float32' ? 0 : 1)
  }
  const { notes } = weightsPolicy({ entries: all as Held[], device: 'cpu', memory: 11 * GB, weights: 'nf4' })
  assert.match(
    notes[0]!,
    /more than a third of 11\.0 GB of memory, so those that nf4 leaves as they are are taken as bfloat16$/,
  )
})

test('16-bit weights stay in 16 bits; large ones are loaded once and never packed', () => {
  const roomy = { mapped: true, asItIs: false, forget: false, form: 'stored', said: 0 }
  assert.equal(decided('BF16', 24), { ...roomy, dtype: 'bfloat16' })
  assert.equal(decided('F16', 24), { ...roomy, dtype: 'float16' })
  assert.equal(decided('F16', 24, 'bfloat16'), { ...roomy, dtype: 'float16' })
  const tight = { ...roomy, mapped: false, asItIs: true }
  assert.equal(decided('BF16', 5), { ...tight, dtype: 'bfloat16' })
  assert.equal(decided('F16', 3), { ...tight, dtype: 'float16', forget: true })
  assert.equal(decided('F16', 24, 'auto', 'bfloat16'), { ...roomy, dtype: 'bfloat16', mapped: false })
})

test('on a device everything is a copy, and large is measured by its memory', () => {
  const policy = weightsPolicy({ entries: entries('F32'), device: 'cuda:0', memory: 11 * GB })
  assert.is(policy.dtypeOf(entries('F32')[0]!), 'bfloat16')
  assert.not.ok(policy.isMapped(entries('F32')[1]!))
  assert.throws(
    () => weightsPolicy({ entries: [], device: 'cpu', weights: 'int3' as WeightsChoice }),
    /weights: expected auto, stored, bfloat16.*, but got "int3"\./,
  )
})

const numbers = (t: Tensor): number[] => scope(() => [...(cast(t, 'float32').dataBlocking() as Float32Array)])

test('weights that are read hold what those in the files hold, converted to nearest', async () => {
  const folder = await writeCheckpoint(temporaryFolder('weights'))
  const before = await settled()
  const plan = await planCheckpoint(folder)
  const all = [...plan.entries.values()]
  const load = (memory: number, weights: WeightsChoice) =>
    loadWeights(plan, { policy: weightsPolicy({ entries: all, device: 'cpu', memory, weights }) })
  const [mapped, loaded, narrow] = [await load(64 * GB, 'stored'), await load(1, 'stored'), await load(1, 'bfloat16')]
  let narrowed = 0
  for (const [name, t] of mapped) {
    assert.equal(numbers(loaded.get(name)!), numbers(t), name)
    const there = narrow.get(name)!
    if (there.dtype === 'bfloat16') narrowed++
    assert.equal(
      numbers(there),
      scope(() => numbers(cast(cast(t, there.dtype), 'float32'))),
      name,
    )
  }
  assert.ok(narrowed > 20, `${narrowed} matrices are bfloat16`)
  for (const weights of [mapped, loaded, narrow]) for (const t of weights.values()) t.dispose()
  assert.is(await settled(), before)
})

test('a model over converted weights answers as one over a file of these weights', async () => {
  const folder = await writeCheckpoint(temporaryFolder('weights'))
  const wide = await loadImageModel(folder)
  const narrow = await loadImageModel(folder, { weights: 'bfloat16', precision: 'bfloat16' })
  const stored = await loadImageModel(folder, { precision: 'bfloat16' })
  assert.is(wide.precision, 'float32')
  const name = 'language_model.lm_head.weight'
  assert.is(wide.weights.get(name)!.dtype, 'float32')
  assert.equal(numbers(narrow.weights.get(name)!), numbers(stored.weights.get(name)!))
  for (const m of [wide, narrow, stored]) m.dispose()
})

test('precision auto: float32 for float32 weights; bfloat16 only with instructions for it', async () => {
  const folder = await writeCheckpoint(temporaryFolder('weights'))
  const checkpoint = await openCheckpoint(folder, { precision: 'auto' })
  assert.is(checkpoint.model.precision, 'float32')
  assert.is(checkpoint.precisionReason, 'as the weights are')
  assert.is(checkpoint.form, 'stored')
  checkpoint.model.dispose()
  const narrow = await openCheckpoint(folder, { precision: 'auto', weights: 'bfloat16' })
  assert.is(narrow.form, 'bfloat16')
  assert.match(
    `${narrow.model.precision}, ${narrow.precisionReason}`,
    /^(bfloat16, as the weights are, and the processor multiplies it|float32, the processor does not multiply bfloat16)$/,
  )
  assert.not.equal(narrow.visionFingerprint, checkpoint.visionFingerprint, 'cached features of one are not the other’s')
  assert.is(narrow.fingerprint, checkpoint.fingerprint, 'adapters fit both')
  narrow.model.dispose()
})

test('a file that is cut before it is read is one sentence, and nothing stays in memory', async () => {
  const folder = await writeCheckpoint(temporaryFolder('weights'))
  const before = await settled()
  const plan = await planCheckpoint(folder)
  const path = join(folder, 'model.safetensors')
  const whole = readFileSync(path)
  truncateSync(path, whole.length >> 1)
  const policy = weightsPolicy({ entries: [...plan.entries.values()], device: 'cpu', memory: 1 })
  const error = await loadWeights(plan, { policy }).catch((e: unknown) => e)
  assert.instance(error, InputError)
  assert.match((error as Error).message, /^bytes \d+ to \d+ lie outside the file's \d+\.$|^cannot read "/)
  assert.is(await settled(), before)
  writeFileSync(path, whole)
})

test('progress: from the first bytes to all of them', async () => {
  const folder = await writeCheckpoint(temporaryFolder('weights'))
  const plan = await planCheckpoint(folder)
  const seen: [number, number][] = []
  const policy = weightsPolicy({ entries: [...plan.entries.values()], device: 'cpu', memory: 1 })
  const weights = await loadWeights(plan, { policy, step: 4096, onLoad: (...p) => seen.push(p) })
  assert.ok(seen.length > 3)
  assert.ok(seen.every(([bytes], i) => i === 0 || bytes >= seen[i - 1]![0]))
  assert.is(seen.at(-1)![0], seen.at(-1)![1])
  for (const t of weights.values()) t.dispose()
})

test.run()
