// Weights in 8 and 4 bits in a file for the next time: found again, and made again where the file is damaged, cut short,
// of another version or of other weights; a folder that cannot be written to; what the policy holds how.
import { mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { planCheckpoint } from '../../lib/checkpoint/plan.js'
import { weightsPolicy } from '../../lib/session/budget.js'
import { loadImageModel, openCheckpoint } from '../../lib/session/checkpoint.js'
import { loadWeights } from '../../lib/session/weights.js'
import { bytesOf, type QuantizedDType } from '../../lib/tensor/dtype.js'
import { sizeOf } from '../../lib/shape.js'
import { fullDisk } from '../support/full-disk.js'
import { settled } from '../support/memory.js'
import { isQuantised, temporaryFolder } from '../support/tiny.js'
import { writeCheckpoint } from '../support/world.js'

const both: QuantizedDType[] = ['int8', 'nf4']
const root = temporaryFolder('quantised')
const model = join(root, 'model')
let start = 0
test.before(async () => {
  mkdirSync(model)
  await writeCheckpoint(model)
  start = await settled()
})
test.after(async () => assert.is(await settled(), start, 'everything is freed'))

/** The quantised bytes of the model, and what was said. */
async function opened(
  weights: QuantizedDType,
  weightsCache: string,
): Promise<{ bytes: Map<string, Buffer>; said: string }> {
  const checkpoint = await openCheckpoint(model, { weights, weightsCache })
  const bytes = new Map<string, Buffer>()
  for (const [name, t] of checkpoint.model.weights)
    if (t.dtype === weights && t.size * 2 > 0 && isWhole(name))
      bytes.set(name, Buffer.from((await t.data()) as Uint8Array))
  checkpoint.model.dispose()
  return { bytes, said: checkpoint.notes.join('\n') }
}
/** Not some rows of another: those of one input lie in one. */
const isWhole = (name: string): boolean => !/\.([qkv]|gate|up)_proj\./.test(name)

for (const form of both)
  test(`${form}: made once and found again, made again where the file cannot be used`, async () => {
    const cache = join(root, form)
    const first = await opened(form, cache)
    const [name] = readdirSync(cache) as [string]
    const path = join(cache, name)
    assert.match(first.said, new RegExp(`quantised as ${form}, and kept in .*${form}-[0-9a-f]{32}\\.safetensors`))
    assert.ok(first.bytes.size > 5)
    const written = readFileSync(path)
    const { mtimeMs } = statSync(path)
    const second = await opened(form, cache)
    assert.equal(second, { bytes: first.bytes, said: second.said })
    assert.not.match(second.said, /quantised/)
    assert.is(statSync(path).mtimeMs, mtimeMs, 'the file is left as it is')

    const again = async (why: RegExp): Promise<void> => {
      const { bytes, said } = await opened(form, cache)
      assert.match(said, why)
      assert.equal(bytes, first.bytes)
      assert.ok(readFileSync(path).equals(written), 'the same file again')
      assert.equal(readdirSync(cache), [name], 'and nothing beside it')
    }
    const damaged = Buffer.from(written)
    damaged[written.length >> 1]! ^= 4
    writeFileSync(path, damaged)
    await again(/quantised as \w+ again, since .* could not be used: the bytes of .* have changed, and kept in/)
    truncateSync(path, written.length - 100)
    await again(/again, since .*truncated/)
    truncateSync(path, 5)
    await again(/again, since .*5 bytes/)
    writeFileSync(path, Buffer.from(written.toString('latin1').replace('"version":"1"', '"version":"0"'), 'latin1'))
    await again(/again, since .* it is of version 0/)
  })

test('other weights of the same sizes have a file of their own', async () => {
  const cache = join(root, 'others')
  await opened('nf4', cache)
  const path = join(model, 'model.safetensors')
  const whole = readFileSync(path)
  const changed = Buffer.from(whole)
  changed[whole.length >> 1]! ^= 1
  writeFileSync(path, changed)
  try {
    assert.match((await opened('nf4', cache)).said, /quantised as nf4, and kept/)
    assert.is(readdirSync(cache).length, 2)
  } finally {
    writeFileSync(path, whole)
  }
})

test('where the file cannot be written the model opens all the same, and says so', async () => {
  const blocked = join(root, 'a file')
  writeFileSync(blocked, 'in the way')
  const { bytes, said } = await opened('nf4', join(blocked, 'cache'))
  assert.ok(bytes.size > 5)
  assert.match(said, /quantised as nf4, and not kept for the next time: /)
})

test('a disk that fills up while the file is written: the model opens, and nothing half-written is left', async () => {
  const plan = await planCheckpoint(model)
  const cache = join(root, 'full', 'nf4.safetensors')
  const open = async (writes: number): Promise<{ bytes: Buffer[]; said: string }> => {
    const policy = weightsPolicy({ entries: [...plan.entries.values()], device: 'cpu', weights: 'nf4' })
    const weights = await loadWeights(plan, { policy, cache, on: fullDisk(writes) })
    const bytes: Buffer[] = []
    for (const [name, t] of weights)
      if (t.dtype === 'nf4' && isWhole(name)) bytes.push(Buffer.from((await t.data()) as Uint8Array))
    for (const t of weights.values()) t.dispose()
    return { bytes, said: policy.notes.join() }
  }
  const full = await open(5)
  assert.match(full.said, /quantised as nf4, and not kept for the next time: .*the disk is full \(ENOSPC\)/)
  assert.equal(readdirSync(join(root, 'full')), [])
  const kept = await open(Infinity)
  assert.match(kept.said, /quantised as nf4, and kept in/)
  assert.equal(kept.bytes, full.bytes)
  assert.equal((await open(0)).said, '', 'found, and not written again')
})

test('of a checkpoint the layers of vision tower and language model are quantised, nothing else', async () => {
  const entries = [...(await planCheckpoint(model)).entries.values()]
  for (const weights of both) {
    const policy = weightsPolicy({ entries, device: 'cpu', weights, precision: 'bfloat16', memory: 1e9 })
    assert.is(policy.form, weights)
    for (const t of entries) {
      const matrix = t.shape.length === 2 && t.name.endsWith('.weight') && !t.name.includes('position')
      const dtype = policy.dtypeOf(t)
      assert.is(dtype, isQuantised(t.name) ? weights : matrix ? 'bfloat16' : 'float32', t.name)
      assert.is(policy.bytesOf(t), bytesOf(dtype, t.shape))
      if (isQuantised(t.name)) assert.not.ok(policy.isMapped(t))
    }
    const some = entries.filter((t) => isQuantised(t.name))
    assert.ok(some.length >= 20)
    const numbers = some.reduce((n, t) => n + sizeOf(t.shape), 0)
    assert.ok(some.reduce((n, t) => n + policy.bytesOf(t), 0) > numbers * (weights === 'int8' ? 1 : 0.5))
  }
})

test('weights that are trained are not quantised', async () => {
  try {
    await loadImageModel(model, { trained: true, weights: 'nf4' })
    assert.unreachable()
  } catch (error) {
    assert.match(
      (error as Error).message,
      /weights: expected float32 matrices, as all weights are trained, but got "?nf4/,
    )
  }
})

test.run()
