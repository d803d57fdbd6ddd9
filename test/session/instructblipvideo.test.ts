// transformers' InstructBlipVideo opens our merged export, and gives of four frames the logits that ours gives with
// `aggregate: concat`; ours opens the folder that it saves. Where Python is at hand (MT_PYTHON, with transformers).
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { saveAdapter } from '../../lib/adapter/save.js'
import { logits } from '../../lib/models/decoder.js'
import { write } from '../../lib/ops/copy.js'
import { Random } from '../../lib/ops/random.js'
import { exportMerged } from '../../lib/session/export.js'
import { openModel, type Model } from '../../lib/session/model.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { tensor } from '../../lib/tensor/tensor.js'
import { random } from '../oracle/random.js'
import { hasPython, python } from '../support/python.js'
import { temporaryFolder } from '../support/tiny.js'
import { writeCheckpoint } from '../support/world.js'

const root = temporaryFolder('instructblipvideo')
const at = (name: string): string => join(root, name)
const FRAMES = 4
const [words, prompt] = [
  [3, 7, 9],
  [1, 17, 23, 5],
]
const keys = {
  frames: FRAMES,
  lora: { r: 3, alpha: 6 },
  dar: { mode: 'off' },
  temporal: { attention: 'none' },
  aggregate: 'concat',
}

/** Logits over visual tokens and prompt. */
async function logitsOf({ checkpoint, adapter }: Model, pixels: Float32Array): Promise<Float32Array> {
  const { model } = checkpoint
  const side = model.config.vision.imageSize
  return scope(() =>
    noGrad(async () => {
      const text = { ids: tensor(Int32Array.from(words), [1, 3]), mask: tensor(new Uint8Array(3).fill(1), [1, 3]) }
      const seen = model.features(tensor(pixels, [1, FRAMES, 3, side, side]))
      const ids = Int32Array.from(prompt)
      const rows = { rows: 1, ids, mask: new Uint8Array(ids.length).fill(1) }
      const hidden = model.hidden(model.visualTokens(seen, text, adapter), rows)
      return (await logits(model.language, hidden).data()) as Float32Array
    }),
  )
}

const source = `
import json, sys, torch
from transformers import InstructBlipVideoConfig, InstructBlipVideoForConditionalGeneration as M
folder, asked, saved = sys.argv[1:]
asked = json.load(open(asked))
given = json.load(open(folder + '/config.json'))
given = {k: v for k, v in given.items() if k not in ('architectures', 'model_type', 'video_token_index', 'video_token_id')}
model = M.from_pretrained(folder, config=InstructBlipVideoConfig(**given, video_token_index=0), dtype=torch.float32).eval()
side, L, T = model.config.vision_config.image_size, model.config.num_query_tokens, asked['frames']
words, ids = torch.tensor([asked['words']]), torch.tensor([[0] * (L * T) + asked['prompt']])
with torch.no_grad():
    out = model(pixel_values=torch.tensor(asked['pixels']).reshape(1, T, 3, side, side), qformer_input_ids=words,
        qformer_attention_mask=torch.ones_like(words), input_ids=ids, attention_mask=torch.ones_like(ids))
model.save_pretrained(saved)
print(json.dumps(out.logits[0].flatten().tolist()))`

test('four frames one after another: the same logits in both, from our export and from its folder', async () => {
  if (!hasPython('torch', 'transformers')) return
  const folder = await writeCheckpoint(at('model'), 'instructblip', 5)
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
  // The placeholder of pictures, which transformers asks for.
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, image_token_index: 0 }))
  {
    using open = await openModel(folder)
    const { model, fingerprint } = open.checkpoint
    const adapter = new Adapter(model.config, parseAdapterConfig(keys), { seed: 3 })
    scope(() => {
      const rng = new Random(4)
      for (const [name, t] of adapter.parameters) if (/lora/.test(name)) write(t, rng.normal(t.shape, 0, 0.3))
    })
    await saveAdapter(at('lora'), adapter, { fingerprint, base: 'tiny' })
    adapter.dispose()
  }
  await exportMerged(folder, at('lora'), at('merged'))
  using ours = await openModel(folder, { adapter: at('lora') })
  const side = ours.checkpoint.model.config.vision.imageSize
  const rng = random(8)
  const pixels = Float32Array.from({ length: FRAMES * 3 * side * side }, () => rng.normal())
  const own = await logitsOf(ours, pixels)
  writeFileSync(at('asked.json'), JSON.stringify({ pixels: [...pixels], words, prompt, frames: FRAMES }))
  const theirs = JSON.parse(python(source, at('merged'), at('asked.json'), at('saved'))) as number[]
  const difference = (a: ArrayLike<number>): number => {
    assert.is(a.length, own.length)
    const most = own.reduce((m, x) => Math.max(m, Math.abs(x)), 0)
    return own.reduce((worst, x, i) => Math.max(worst, Math.abs(x - a[i]!)), 0) / most
  }
  console.log(`largest difference of logits, of the largest: ${difference(theirs).toExponential(1)}`)
  assert.ok(difference(theirs) < 1e-4, String(difference(theirs)))

  // The folder that it saves has no tokenizers of its own.
  const saved = JSON.parse(readFileSync(join(at('saved'), 'config.json'), 'utf8'))
  assert.is(saved.model_type, 'instructblipvideo')
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'preprocessor_config.json'])
    cpSync(join(folder, name), join(at('saved'), name))
  cpSync(join(folder, 'qformer_tokenizer'), join(at('saved'), 'qformer_tokenizer'), { recursive: true })
  using back = await openModel(at('saved'))
  const { model } = back.checkpoint
  const plain = new Adapter(model.config, parseAdapterConfig(keys), { seed: 3 }) // LoRA that adds nothing
  const again = await logitsOf({ checkpoint: back.checkpoint, adapter: plain } as Model, pixels)
  plain.dispose()
  assert.ok(difference(again) < 1e-5, String(difference(again)))
})

test.run()
