// A merged export: the image model with an adapter's LoRA folded in gives what the model with the adapter gives; and the
// same in transformers and PEFT, where Python is at hand (MT_PYTHON, with transformers and peft).
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { saveAdapter } from '../../lib/adapter/save.js'
import { InputError } from '../../lib/errors.js'
import { logits } from '../../lib/models/decoder.js'
import { write } from '../../lib/ops/copy.js'
import { Random } from '../../lib/ops/random.js'
import { openCheckpoint, type Checkpoint } from '../../lib/session/checkpoint.js'
import { exportMerged } from '../../lib/session/export.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { tensor } from '../../lib/tensor/tensor.js'
import { random } from '../oracle/random.js'
import { hasPython, python } from '../support/python.js'
import { temporaryFolder } from '../support/tiny.js'
import { writeAdapter, writeCheckpoint } from '../support/world.js'
import { openModel } from '../../lib/session/model.js'

const root = temporaryFolder('export')
const at = (name: string): string => join(root, name)
const [words, prompt, said] = [
  [3, 7, 9],
  [1, 17, 23, 5],
  [0, 8, 14], // by T5's decoder
]
let model: string
let t5: string

test.before(async () => {
  model = await writeCheckpoint(at('model'), 'instructblip', 5)
  t5 = await writeCheckpoint(at('t5'), 'instructblip-t5', 5)
  await saveLora(model, at('lora'))
  await saveLora(t5, at('t5-lora'))
  using open = await openModel(model)
  await writeAdapter(open, at('video'), 2)
})

async function saveLora(model: string, folder: string): Promise<void> {
  // The placeholder of pictures, which transformers asks for.
  const config = JSON.parse(readFileSync(join(model, 'config.json'), 'utf8'))
  writeFileSync(join(model, 'config.json'), JSON.stringify({ ...config, image_token_index: 0 }))
  const checkpoint = await openCheckpoint(model)
  // An adapter that is LoRA alone: positions at zero, no routers, no attention over time.
  const keys = {
    frames: 1,
    lora: { r: 3, alpha: 6 },
    dar: { mode: 'off' },
    temporal: { attention: 'none' },
    aggregate: 'mean',
  }
  const adapter = new Adapter(checkpoint.model.config, parseAdapterConfig(keys), { seed: 3 })
  scope(() => {
    const rng = new Random(4)
    for (const [name, t] of adapter.parameters) if (/lora/.test(name)) write(t, rng.normal(t.shape, 0, 0.3))
  })
  await saveAdapter(folder, adapter, { fingerprint: checkpoint.fingerprint, base: 'tiny' })
  adapter.dispose()
  checkpoint.model.dispose()
}

/** Pictures by seed, and the logits over visual tokens and prompt that a checkpoint gives of each. */
async function logitsOf(checkpoint: Checkpoint, pictures: Float32Array[], adapter?: Adapter): Promise<Float32Array[]> {
  const { model } = checkpoint
  const side = model.config.vision.imageSize
  const out: Float32Array[] = []
  for (const pixels of pictures)
    await scope(() =>
      noGrad(async () => {
        const text = { ids: tensor(Int32Array.from(words), [1, 3]), mask: tensor(new Uint8Array(3).fill(1), [1, 3]) }
        const seen = model.features(tensor(pixels, [1, 1, 3, side, side]))
        const visual = model.visualTokens(seen, text, adapter)
        const ids = Int32Array.from(prompt)
        const decoder = 'startId' in model.config.language ? { decoder: Int32Array.from(said) } : {}
        const hidden = model.hidden(visual, { rows: 1, ids, mask: new Uint8Array(ids.length).fill(1), ...decoder })
        out.push((await logits(model.language, hidden).data()) as Float32Array)
      }),
    )
  return out
}

function pictures(count: number, side: number): Float32Array[] {
  const rng = random(8)
  return Array.from({ length: count }, () => Float32Array.from({ length: 3 * side * side }, () => rng.normal()))
}

/** The largest difference, over the largest number. */
function difference(a: readonly Float32Array[], b: readonly ArrayLike<number>[]): number {
  let [worst, most] = [0, 0]
  for (const [i, row] of a.entries())
    for (const [j, x] of row.entries()) {
      worst = Math.max(worst, Math.abs(x - b[i]![j]!))
      most = Math.max(most, Math.abs(x))
    }
  return worst / most
}

async function refusal(act: () => Promise<unknown>): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError, String((error as Error).stack))
    return (error as Error).message
  }
  return assert.unreachable('nothing was refused') as never
}

test('a merged model over T5 gives what the model with the adapter gives, and what transformers gives', async () => {
  await exportMerged(t5, at('t5-lora'), at('t5-merged'))
  using base = await openModel(t5, { adapter: at('t5-lora') })
  const merged = await openCheckpoint(at('t5-merged'))
  const some = pictures(8, merged.model.config.vision.imageSize)
  const [ours, theirs] = [await logitsOf(base.checkpoint, some, base.adapter), await logitsOf(merged, some)]
  merged.model.dispose()
  assert.ok(difference(ours, theirs) < 1e-5, String(difference(ours, theirs)))
  if (!hasPython('torch', 'transformers')) return
  writeFileSync(at('asked-t5.json'), JSON.stringify({ pictures: some.map((p) => [...p]), words, prompt, said }))
  const source = `
import json, sys, torch
from transformers import InstructBlipForConditionalGeneration as M
folder, asked = sys.argv[1:]
asked = json.load(open(asked))
model = M.from_pretrained(folder, torch_dtype=torch.float32).eval()
side, L = model.config.vision_config.image_size, model.config.num_query_tokens
words, ids, said = (torch.tensor([x]) for x in (asked['words'], [0] * L + asked['prompt'], asked['said']))
out = []
for p in asked['pictures']:
    with torch.no_grad():
        r = model(pixel_values=torch.tensor(p).reshape(1, 3, side, side), qformer_input_ids=words,
            qformer_attention_mask=torch.ones_like(words), input_ids=ids, attention_mask=torch.ones_like(ids),
            decoder_input_ids=said)
    out.append(r.logits[0].flatten().tolist())
print(json.dumps(out))`
  const worst = difference(theirs, JSON.parse(python(source, at('t5-merged'), at('asked-t5.json'))) as number[][])
  console.log(`T5: largest difference of logits, of the largest: transformers ${worst.toExponential(1)}`)
  assert.ok(worst < 1e-4, String(worst))
})

test('the merged model gives what the model with the adapter gives', async () => {
  const written = await exportMerged(model, at('lora'), at('merged'))
  assert.ok(written.merged.length >= 12)
  assert.ok(
    written.merged.every((name) =>
      /^qformer\.encoder\.layer\.\d+\.(cross)?attention\.attention\.(query|value)\.weight$/.test(name),
    ),
  )
  assert.equal(written.left, ['temporal_position', 'spatial_position'])
  using base = await openModel(model, { adapter: at('lora') })
  const merged = await openCheckpoint(at('merged'))
  assert.is.not(merged.fingerprint, base.checkpoint.fingerprint)
  const some = pictures(2, base.checkpoint.model.config.vision.imageSize)
  const [ours, plain, theirs] = [
    await logitsOf(base.checkpoint, some, base.adapter),
    await logitsOf(base.checkpoint, some),
    await logitsOf(merged, some),
  ]
  assert.ok(difference(ours, theirs) < 1e-5, String(difference(ours, theirs)))
  assert.ok(difference(ours, plain) > 1e-2, 'the adapter matters')
  merged.model.dispose()
})

test('what belongs to the video model is left out and named; another base and a full folder are refused', async () => {
  const { left, merged } = await exportMerged(model, at('video'), at('merged-video'))
  assert.ok(left.some((name) => name.includes('temporal.q.lora_A')) && left.some((name) => name.includes('router')))
  assert.not.ok(merged.some((name) => name.includes('temporal')))
  const other = await writeCheckpoint(at('other'), 'instructblip', 6)
  assert.match(await refusal(() => exportMerged(other, at('lora'), at('never'))), /belongs to the base model tiny/)
  assert.match(await refusal(() => exportMerged(model, at('lora'), at('merged-video'))), /nothing is written over/)
})

test('transformers reads the merged model and PEFT the adapter: the same logits of 8 pictures', async () => {
  if (!hasPython('torch', 'transformers', 'peft')) return
  const merged = await openCheckpoint(at('merged'))
  const some = pictures(8, merged.model.config.vision.imageSize)
  const ours = await logitsOf(merged, some)
  writeFileSync(at('asked.json'), JSON.stringify({ pictures: some.map((p) => [...p]), words, prompt }))
  merged.model.dispose()
  const source = `
import json, sys, torch
from transformers import InstructBlipForConditionalGeneration as M
from peft import PeftModel
base, merged, adapter, asked = sys.argv[1:]
asked = json.load(open(asked))
def run(model):
    model.eval()
    c = model.config
    side, L = c.vision_config.image_size, c.num_query_tokens
    words, ids = torch.tensor([asked['words']]), torch.tensor([[0] * L + asked['prompt']])
    out = []
    for p in asked['pictures']:
        with torch.no_grad():
            r = model(pixel_values=torch.tensor(p).reshape(1, 3, side, side), qformer_input_ids=words,
                qformer_attention_mask=torch.ones_like(words), input_ids=ids, attention_mask=torch.ones_like(ids))
        out.append(r.logits[0].flatten().tolist())
    return out
load = lambda folder: M.from_pretrained(folder, torch_dtype=torch.float32)
print(json.dumps([run(load(merged)), run(PeftModel.from_pretrained(load(base), adapter))]))`
  const [transformers, peft] = JSON.parse(python(source, model, at('merged'), at('lora'), at('asked.json'))) as [
    number[][],
    number[][],
  ]
  const [a, b] = [difference(ours, transformers), difference(ours, peft)]
  console.log(
    `largest difference of logits, of the largest: transformers ${a.toExponential(1)}, PEFT ${b.toExponential(1)}`,
  )
  assert.ok(a < 1e-4 && b < 1e-4, `${a} ${b}`)
})

test.run()
