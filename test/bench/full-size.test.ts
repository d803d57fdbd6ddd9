// The checkpoint that bench:full-size writes, at a tiny size: what the hub's has, opened and asked; written on after an
// end; and the page of its results.
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { hubConfig, writeCheckpoint } from '../../bench/full-size/checkpoint.js'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { countParts, expectedTensors } from '../../lib/checkpoint/names.js'
import { planCheckpoint } from '../../lib/checkpoint/plan.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { cast } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'
import { newest, page } from '../../scripts/docs/full-size.js'
import { fullDisk } from '../support/full-disk.js'
import { temporaryFolder } from '../support/tiny.js'

const layers = { num_hidden_layers: 2, num_attention_heads: 2, hidden_size: 32, intermediate_size: 64 }
/** The hub's configuration with small layers: its vocabularies and token ids stay. */
const tiny = (): object => {
  const config = hubConfig('float32') as Record<'vision_config' | 'qformer_config' | 'text_config', object>
  return {
    ...config,
    vision_config: { ...config.vision_config, ...layers },
    qformer_config: { ...config.qformer_config, ...layers, encoder_hidden_size: 32 },
    text_config: { ...config.text_config, ...layers },
  }
}

test('the hub’s form: counts of tensors and parameters of the whole model, by its part', () => {
  const expected = expectedTensors(parseModelConfig(hubConfig('float32')))
  const counts = Object.fromEntries(countParts(expected).map((c) => [c.part, [c.tensors, c.parameters]]))
  assert.equal(counts, {
    vision: [474, 985_952_256],
    qformer: [328, 185_660_160],
    query: [1, 24_576],
    projection: [2, 3_149_824],
    language: [291, 6_738_423_808 + (32_064 - 32_001) * 2 * 4096],
  })
})

for (const dtype of ['float32', 'bfloat16'] as const)
  test(`${dtype}: four shards and their index, special ids of the tokenizer, and numbers of sensible scale`, async () => {
    const folder = temporaryFolder('full-size')
    const bytes = await writeCheckpoint(folder, { dtype, config: tiny() })
    assert.is(readdirSync(folder).filter((f) => f.endsWith('.safetensors')).length, 4)
    const plan = await planCheckpoint(folder)
    assert.equal([plan.missing, plan.unexpected, plan.wrong], [[], [], []])
    assert.ok([...plan.entries.values()].every((t) => t.dtype === (dtype === 'float32' ? 'F32' : 'BF16')))
    const index = JSON.parse(readFileSync(join(folder, 'model.safetensors.index.json'), 'utf8'))
    assert.is(index.metadata.total_size, bytes)
    const checkpoint = await openCheckpoint(folder)
    assert.equal(checkpoint.special, { bosId: 2, eosId: 2, padId: 32000 })
    assert.equal(checkpoint.tokenizer.encode('<image>', { addSpecialTokens: false }), [32001])
    assert.equal(
      checkpoint.qformerTokenizer!.encode('a').filter((id) => id === 101 || id === 102),
      [101, 102],
    )
    for (const [name, t] of checkpoint.model.weights) {
      const x = scope(() => cast(t, 'float32').dataBlocking() as Float32Array)
      const mean = x.reduce((a, b) => a + b, 0) / x.length
      const deviation = Math.sqrt(x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length)
      const centre = /norm[^.]*\.weight$/i.test(name) ? 1 : 0
      assert.ok(
        Math.abs(mean - centre) < 0.02 && deviation > 0.008 && deviation < 0.04,
        `${name}: ${mean}, ${deviation}`,
      )
    }
    checkpoint.model.dispose()
  })

test('a full disk: one sentence, whole shards stay, and the next run writes what is missing', async () => {
  const folder = temporaryFolder('full-size')
  const options = { dtype: 'bfloat16' as const, config: tiny() }
  const error = await writeCheckpoint(folder, { ...options, on: fullDisk(3) }).catch((e: Error) => e)
  assert.match(
    (error as Error).message,
    /cannot be written: the disk is full \(ENOSPC\); nothing was left half-written/,
  )
  assert.not.ok(readdirSync(folder).some((f) => f.endsWith('.tmp')))
  await writeCheckpoint(folder, options)
  const shard = join(folder, 'model-00002-of-00004.safetensors')
  const first = statSync(join(folder, 'model-00001-of-00004.safetensors')).mtimeMs
  rmSync(shard)
  await writeCheckpoint(folder, options)
  assert.ok(existsSync(shard))
  assert.is(
    statSync(join(folder, 'model-00001-of-00004.safetensors')).mtimeMs,
    first,
    'what is whole is not written again',
  )
})

test('docs/full-size.md is what the committed result gives', () => {
  const path = fileURLToPath(new URL('../../docs/full-size.md', import.meta.url))
  assert.is(readFileSync(path, 'utf8'), page(newest()!))
})

test.run()
