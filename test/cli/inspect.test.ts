import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inspect } from '../../lib/cli/inspect.js'
import { InputError } from '../../lib/errors.js'

const folder = mkdtempSync(join(tmpdir(), 'mtransllama-inspect-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))
const vicuna = join(folder, 'config.json')
writeFileSync(
  vicuna,
  JSON.stringify({
    model_type: 'instructblip',
    qformer_config: { vocab_size: 30523 },
    text_config: { model_type: 'llama', vocab_size: 32001 },
  }),
)
const yaml = (name: string, text: string) => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}
/** Runs of spaces count as one. */
const plain = (text: string) => text.replace(/ +/g, ' ')

async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    assert.instance(error, InputError)
    return (error as Error).message
  }
  return assert.unreachable('nothing was refused') as never
}

test('a bare config.json of full size', async () => {
  const text = plain(await inspect(vicuna))
  for (const line of [
    'vision 474 985,952,256',
    'Q-Former 328 185,660,160',
    'query tokens 1 24,576',
    'projection 2 3,149,824',
    'language 291 6,738,423,808',
    'total 1,096 7,913,210,624',
    'lora 120 1,536,000',
    'router 72 889,398',
    'position 2 73,728',
    'total 194 2,499,126',
    'vision_model.encoder.layers.{0-38}.self_attn.qkv.weight [4224, 1408]',
    'qformer.encoder.layer.{0,2..10}.crossattention.attention.key.weight [768, 1408]',
    'language_model.lm_head.weight [32001, 4096]',
  ])
    assert.ok(text.split('\n').includes(line), line)
  assert.match(text, /31\.7 GB in 32 bits/)
  const brief = await inspect(folder, { brief: true })
  assert.not.match(brief, /\{0-38\}/)
  assert.match(plain(brief), /total 194 2,499,126/)
})

test('the adapter comes from a training file, whose other sections are ignored', async () => {
  const file = yaml(
    'train.yaml',
    'model: some/folder\ntrain: {lr: 1.0e-4}\ntemporal: {residual: gated}\ndar: {mode: score}\nframes: 8\n',
  )
  const text = plain(await inspect(vicuna, { adapter: file, brief: true }))
  assert.match(text, /gate 12 12/)
  assert.match(text, /total 206 2,499,138/)
  assert.match(text, /8 frames become 32 visual tokens \(mean\)/)
  assert.match(
    plain(await inspect(vicuna, { config: { temporal: { attention: 'none' }, aggregate: 'concat' }, brief: true })),
    /4 frames become 128 visual tokens \(concat\)/,
  )
})

test('the report says how pictures are prepared and by which file, or what is assumed', async () => {
  const at = join(folder, 'pictures')
  mkdirSync(at)
  writeFileSync(
    join(at, 'config.json'),
    JSON.stringify({
      model_type: 'instructblipvideo',
      image_token_index: 32001,
      video_token_index: 32002,
      torch_dtype: 'float32',
      text_config: { model_type: 'llama', max_sequence_length: 2048 },
    }),
  )
  const none = plain(await inspect(at, { brief: true }))
  assert.match(
    none,
    /\npictures resized to 224 x 224 \(cubic\), times 1\/255, minus \[0\.481455, 0\.457827, 0\.408211\], over \[0\.26863, 0\.261303, 0\.275777\]\n assumed\n note: \S+: no file states the preprocessing/,
  )
  assert.match(none, /ids pad none, bos 1, eos 2, image 32001, video 32002\n/)
  assert.match(
    none,
    /\n31\.7 GB in 32 bits, 15\.8 GB in 16 bits \(from config\.json alone; no weights were looked at; config\.json says float32\)\n/,
  )
  const image_processor = {
    size: { height: 224, width: 224 },
    image_mean: [0.5, 0.5, 0.5],
    image_std: [0.25, 0.25, 0.25],
    do_rescale: false,
    resample: 2,
  }
  writeFileSync(join(at, 'processor_config.json'), JSON.stringify({ image_processor }))
  assert.match(
    plain(await inspect(at, { brief: true })),
    /\npictures resized to 224 x 224 \(linear\), times 1, minus \[0\.5, 0\.5, 0\.5\], over \[0\.25, 0\.25, 0\.25\]\n as processor_config\.json, image_processor says\nQ-Former/,
  )
  writeFileSync(
    join(at, 'processor_config.json'),
    JSON.stringify({ image_processor: { ...image_processor, size: 384 } }),
  )
  const message = await refusal(inspect(at, { brief: true }))
  assert.match(
    plain(message),
    /\npictures the files that say how they are prepared do not fit; see below\n[^]*\n\S+processor_config\.json, image_processor, size: expected the vision tower's image size, 224 × 224, but got 384/,
  )
})

test('each error is one sentence', async () => {
  assert.match(await refusal(inspect(join(folder, 'nowhere'))), /nowhere: no such folder or file/)
  assert.match(await refusal(inspect(vicuna, { adapter: join(folder, 'none.yaml') })), /none\.yaml: no such file/)
  assert.match(
    await refusal(inspect(vicuna, { adapter: yaml('a.yaml', 'fussion: true') })),
    /no key named fussion; did you mean fusion\?/,
  )
  assert.match(
    await refusal(inspect(vicuna, { adapter: yaml('b.yaml', 'dar: {mod: off}') })),
    /no key named dar\.mod; did you mean dar\.mode\?/,
  )
  assert.match(
    await refusal(inspect(vicuna, { adapter: yaml('c.yaml', '- 1') })),
    /expected an object of configuration keys/,
  )
  assert.match(await refusal(inspect(vicuna, { adapter: yaml('d.yaml', 'a: [') })), /not YAML/)
  assert.match(await refusal(inspect(vicuna, { adapter: yaml('e.yaml', 'frames: 65') })), /temporal\.maxFrames/)
})

// ------------------------------------------------------------------------------------------------------------- goldens

const shared = fileURLToPath(new URL('../../../shared/', import.meta.url))
if (!existsSync(join(shared, 'golden'))) console.error(`SKIPPED: the golden checkpoints are not at ${shared}`)
const goldenTest = existsSync(join(shared, 'golden')) ? test : test.skip

goldenTest('folders with weights: dtypes and completeness', async () => {
  assert.match(plain(await inspect(join(shared, 'configs/instructblip-vicuna-7b/config.json'))), /total 194 2,499,126/)
  const sharded = plain(await inspect(join(shared, 'golden/tiny-instructblip-sharded')))
  assert.match(
    sharded,
    /total 166 274,816\n0\.5 MB in 2 files; tensors: 166 used, 0 ignored, 0 missing, 0 wrong, 0 unexpected/,
  )
  assert.match(sharded, /Q-Former 112 138,528 BF16/)
  const opt = plain(await inspect(join(shared, 'golden/tiny-blip2-opt')))
  assert.match(opt, /fusion: false was assumed/)
  assert.match(opt, /language 36 81,504 F32/)
})

test('a folder whose weights do not fit ends in an error behind the report', async () => {
  const at = join(folder, 'broken')
  mkdirSync(at)
  writeFileSync(join(at, 'config.json'), '{"model_type":"blip-2"}')
  const header = Buffer.from('{"query_tokens":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  writeFileSync(join(at, 'model.safetensors'), Buffer.concat([length, header, Buffer.alloc(4)]))
  const message = await refusal(inspect(at))
  assert.match(message, /0 used, 0 ignored, \d+ missing, 1 wrong, 0 unexpected/)
  assert.match(
    message,
    /the weights do not fit config\.json; of the tensors, \d+ missing \(.* and \d+ more\); 1 wrong \(query_tokens: expected a float of shape \[1,32,768\], but got F32 \[1\]\)/,
  )
})

test.run()
