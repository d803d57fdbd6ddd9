// BLIP-2's Q-Former with the text path of a second checkpoint: it is the InstructBLIP that both are parts of, tensor by
// tensor, whatever form the second has; and what does not fit is refused by name.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { convertCheckpoint } from '../../lib/checkpoint/convert.js'
import { assertComplete, fingerprint, planCheckpoint, readPlanned } from '../../lib/checkpoint/plan.js'
import { inspect } from '../../lib/cli/inspect.js'
import { writeSafetensors, type TensorData } from '../../lib/files/safetensors.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { encode, imageTextConfig } from '../../lib/session/encode.js'
import { exportMerged } from '../../lib/session/export.js'
import { openModel } from '../../lib/session/model.js'
import { validate } from '../../lib/train/validate.js'
import { cli } from '../support/cli.js'
import { torchZip } from '../support/pickles.js'
import { refusal } from '../support/refusal.js'
import { makeWorld, trainConfig, writeAdapter, writeCheckpoint, type World } from '../support/world.js'

type Json = Record<string, any>
const json = (path: string): Json => JSON.parse(readFileSync(path, 'utf8')) as Json
const TEXT = /^qformer\.(embeddings\.(word|position)_embeddings\.|encoder\.layer\.\d+\.(intermediate|output)\.)/

let world: World
let tensors: TensorData[]
let whole: string
const at = (...parts: string[]): string => join(world.root, ...parts)

/** The checkpoint of the world as BLIP-2 publishes its own: no text path, no tokenizer for one. */
async function withoutText(name: string, from?: string): Promise<string> {
  const folder = at(name)
  cpSync(world.model, folder, { recursive: true })
  rmSync(join(folder, 'qformer_tokenizer'), { recursive: true })
  await writeSafetensors(
    join(folder, 'model.safetensors'),
    tensors
      .filter((t) => !TEXT.test(t.name))
      .map((t) => ({ ...t, name: t.name.replace('qformer.embeddings.layernorm', 'qformer.layernorm') })),
  )
  const config = json(join(folder, 'config.json'))
  const { vocab_size: _, max_position_embeddings: __, ...qformer } = config['qformer_config'] as Json
  const own = { model_type: 'blip-2', qformer_config: { ...qformer, model_type: 'blip_2_qformer' } }
  writeFileSync(
    join(folder, 'config.json'),
    JSON.stringify({ ...config, ...own, ...(from !== undefined && { qformer_text_from: from }) }),
  )
  return folder
}

test.before(async () => {
  world = await makeWorld()
  const plan = await planCheckpoint(world.model)
  whole = await fingerprint(plan)
  tensors = []
  for (const planned of plan.entries.values()) {
    const { name, dtype, shape } = planned
    tensors.push({ name, dtype, shape, data: await readPlanned(planned) })
  }
})

/** Opens as the whole does: the same weights, and the same ids of the same texts. */
async function isWhole(folder: string): Promise<void> {
  const [model, reference] = [await openCheckpoint(folder), await openCheckpoint(world.model)]
  try {
    assert.is(model.fingerprint, whole)
    const sample = { prompt: 'which way does it move ?', qformerText: 'a red circle', answer: 'up' }
    const ids = [model, reference].map((c) => encode(c, imageTextConfig(c, 3), sample))
    assert.equal(ids[0], ids[1])
    assert.ok(ids[0]!.qformer!.length > 3)
  } finally {
    model.model.dispose()
    reference.model.dispose()
  }
}

test('the text path of a folder, named by its path from config.json', async () => {
  const folder = await withoutText('blip2', '../model')
  await isWhole(folder)
  assert.match(
    await inspect(folder, { brief: true }),
    /InstructBLIP[^]*text path of \d+ ids[^]*, 0 missing, 0 wrong, 0 un/,
  )
  const { problems } = await validate(trainConfig(world, 'second', { model: folder }))
  assert.equal(problems, [])
  // Without the key it is the BLIP-2 that has none.
  const bare = await withoutText('bare')
  assert.match(
    await refusal(() => validate(trainConfig(world, 'second', { model: bare }))),
    /no text path.*qformer_text_from/,
  )
})

test('the files of the second that hold other parts may be absent', async () => {
  const second = at('sharded')
  await convertCheckpoint(world.model, second, { shard: 40_000 })
  const { weight_map: map } = json(join(second, 'model.safetensors.index.json')) as {
    weight_map: Record<string, string>
  }
  const needed = new Set(Object.entries(map).flatMap(([name, file]) => (TEXT.test(name) ? [file] : [])))
  const others = new Set(Object.values(map).filter((file) => !needed.has(file)))
  assert.ok(others.size > 1)
  for (const file of others) rmSync(join(second, file))
  await isWhole(await withoutText('over-shards', '../sharded'))
})

test('a .pth of LAVIS, whose tokenizer lies beside the model', async () => {
  const lavis = (name: string): string =>
    name
      .replace('qformer.embeddings.layernorm', 'Qformer.bert.embeddings.LayerNorm')
      .replace(/^(qformer\.encoder\.layer\.\d+\.(?:cross)?attention)\.attention\./, '$1.self.')
      .replace(/^qformer\./, 'Qformer.bert.')
  const trained = tensors.filter((t) => t.name.startsWith('q')).map((t) => ({ ...t, name: lavis(t.name) }))
  writeFileSync(at('stage1.pth'), torchZip(trained, 'model'))
  const folder = await withoutText('over-pth', '../stage1.pth')
  // A file has no configuration: the most tokens of a text are those that config.json beside the model says.
  const config = json(join(folder, 'config.json'))
  const { max_position_embeddings } = json(join(world.model, 'config.json'))['qformer_config']
  Object.assign(config['qformer_config'], { max_position_embeddings })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  assert.match(await refusal(() => openCheckpoint(folder)), /over-pth\/qformer_tokenizer: .*copy that folder here/)
  cpSync(join(world.model, 'qformer_tokenizer'), join(folder, 'qformer_tokenizer'), { recursive: true })
  await isWhole(folder)
})

test('a BLIP-2 that matches images with texts', async () => {
  const second = at('itm')
  mkdirSync(second)
  cpSync(join(world.model, 'qformer_tokenizer'), second, { recursive: true })
  const { qformer_config } = json(join(world.model, 'config.json'))
  const config = { model_type: 'blip-2', architectures: ['Blip2ForImageTextRetrieval'], qformer_config }
  writeFileSync(join(second, 'config.json'), JSON.stringify(config))
  await writeSafetensors(
    join(second, 'model.safetensors'),
    tensors
      .filter((t) => t.name.startsWith('qformer.'))
      .map((t) => ({ ...t, name: t.name.replace(/^qformer\.(embeddings\.\w+_embeddings)/, '$1') })),
  )
  await isWhole(await withoutText('over-itm', '../itm'))
})

test('convert writes the InstructBLIP, and so does a merged export', async () => {
  const out = at('converted')
  const { code, err } = await cli('convert', await withoutText('plain'), '--text', world.model, '--out', out)
  assert.is(code, 0, err)
  const named = at('blip2-export')
  cpSync(at('blip2'), named, { recursive: true })
  using model = await openModel(named)
  await writeAdapter(model, at('adapter'), 3)
  await exportMerged(named, at('adapter'), at('merged'))
  rmSync(named, { recursive: true })
  await isWhole(out)
  for (const folder of [out, at('merged')]) {
    assert.equal(readdirSync(folder).sort(), readdirSync(world.model).sort())
    const { model_type, qformer_text_from, qformer_config } = json(join(folder, 'config.json'))
    assert.equal([model_type, qformer_text_from], ['instructblip', undefined])
    assert.is(qformer_config.vocab_size, json(join(world.model, 'config.json'))['qformer_config'].vocab_size)
    assertComplete(await planCheckpoint(folder))
  }
})

test('what does not fit is refused, with its name', async () => {
  const refused = async (from: string): Promise<string> => {
    rmSync(at('refused'), { recursive: true, force: true })
    const folder = await withoutText('refused', from)
    return refusal(async () => (await openCheckpoint(folder)).model.dispose())
  }
  assert.match(
    await refused('../gone'),
    /refused\/config\.json: qformer_text_from: expected a model folder or a \.pth file.*, but got "\.\.\/gone"; .*gone does not exist\.$/,
  )
  await writeCheckpoint(at('opt'), 'blip2')
  assert.match(
    await refused('../opt'),
    /refused: .* \d+ missing \(qformer\.embeddings\.word_embeddings\.weight.*of the same sizes.*opt \(qformer_text_from\)\.$/,
  )
  const wide = at('wide')
  cpSync(world.model, wide, { recursive: true })
  await writeSafetensors(
    join(wide, 'model.safetensors'),
    tensors.map((t) =>
      t.name.endsWith('word_embeddings.weight') ? { ...t, shape: [t.shape[0]! * 2, t.shape[1]! / 2] } : t,
    ),
  )
  assert.match(
    await refused('../wide'),
    /1 wrong \(qformer\.embeddings\.word_embeddings\.weight: expected a float of shape \[rows,\d+\], but got F32 \[\d+,\d+\]\).*wide \(qformer_text_from\)\.$/,
  )
  // Fewer rows than its tokenizer has ids.
  const short = tensors.find((t) => t.name.endsWith('word_embeddings.weight'))!
  const rows = Math.floor(short.shape[0]! / 2)
  const data = (short.data as Uint8Array).slice(0, rows * short.shape[1]! * 4)
  await writeSafetensors(
    join(wide, 'model.safetensors'),
    tensors.map((t) => (t === short ? { ...t, shape: [rows, t.shape[1]!], data } : t)),
  )
  assert.match(
    await refused('../wide'),
    /wide\/qformer_tokenizer: the Q-Former tokenizer has ids up to \d+, but the embedding has \d+ rows/,
  )
  const own = at('own')
  cpSync(world.model, own, { recursive: true })
  writeFileSync(
    join(own, 'config.json'),
    JSON.stringify({ ...json(join(own, 'config.json')), qformer_text_from: '../wide' }),
  )
  assert.match(
    await refusal(() => openCheckpoint(own)),
    /qformer_text_from: expected no second checkpoint, .*has a text path of its own\.$/,
  )
})

test.run()
