// The published models as bench:models opens them: files of their form without values.
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { writeCheckpoint } from '../../bench/full-size/checkpoint.js'
import { configOf, models } from '../../bench/models/list.js'
import { planCheckpoint } from '../../lib/checkpoint/plan.js'
import { openTexts } from '../../lib/session/checkpoint.js'
import { temporaryFolder } from '../support/tiny.js'

test('a checkpoint without values takes no place on the disk, and is complete, of every family', async () => {
  const layers = { num_hidden_layers: 2, num_attention_heads: 2, hidden_size: 32, intermediate_size: 64 }
  const small = { ...layers, ffn_dim: 64, d_model: 32, d_ff: 64, d_kv: 16, num_heads: 2, num_layers: 2 }
  for (const model of models().models.filter(({ name }) => /-(7b|2.7b|xl)$/.test(name))) {
    const config = configOf(model) as Record<'vision_config' | 'qformer_config' | 'text_config', object>
    const folder = temporaryFolder('models')
    const bytes = await writeCheckpoint(folder, {
      dtype: 'float32',
      empty: true,
      config: {
        ...config,
        vision_config: { ...config.vision_config, ...layers },
        qformer_config: { ...config.qformer_config, ...layers, encoder_hidden_size: 32 },
        text_config: { ...config.text_config, ...small },
      },
    })
    const files = readdirSync(folder).filter((f) => f.endsWith('.safetensors'))
    const sizes = files.map((f) => statSync(join(folder, f)))
    assert.ok(sizes.reduce((n, s) => n + s.size, 0) >= bytes, model.name)
    assert.ok(sizes.reduce((n, s) => n + 512 * s.blocks, 0) < bytes / 10, `${model.name}: its files are holes`)
    const plan = await planCheckpoint(folder)
    assert.equal([plan.missing, plan.unexpected, plan.wrong], [[], [], []], model.name)
    const { tokenizer } = await openTexts(folder, plan.config)
    assert.ok(tokenizer.eosId !== null, model.name)
  }
})

test.run()
