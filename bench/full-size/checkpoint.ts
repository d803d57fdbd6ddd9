/**
 * A checkpoint with the names, shapes, configuration and token ids of instructblip-vicuna-7b as it lies on the hub, or
 * of another model (bench/models), in four shards, with random values or none: for measuring at full size where the real weights are not at hand. `npm run
 * bench:full-size -- write` makes it.
 */
import { existsSync, statSync } from 'node:fs'
import { mkdir, truncate } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { expectedTensors } from '../../lib/checkpoint/names.js'
import { writeAtomically, writeFileAtomic, type FileSystem } from '../../lib/files/atomic.js'
import { sizeOf } from '../../lib/shape.js'

export type StoredDtype = 'float32' | 'bfloat16'

const SHARDS = 4

/** config.json. The ids of text_config are wrong for LLaMA, as they are on the hub; the tokenizer's rule. */
export const hubConfig = (dtype: StoredDtype): object => ({
  architectures: ['InstructBlipForConditionalGeneration'],
  model_type: 'instructblip',
  dtype,
  num_query_tokens: 32,
  image_token_index: 32001,
  video_token_index: 32002,
  vision_config: { model_type: 'instructblip_vision_model' },
  qformer_config: { model_type: 'instructblip_qformer', vocab_size: 30523, encoder_hidden_size: 1408 },
  text_config: {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    vocab_size: 32064,
    hidden_size: 4096,
    intermediate_size: 11008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    rms_norm_eps: 1e-6,
    max_sequence_length: 2048,
    hidden_act: 'silu',
    tie_word_embeddings: false,
    pad_token_id: 32000,
    bos_token_id: 0,
    eos_token_id: 1,
  },
})

// ------------------------------------------------------------------------------------------------------------- texts

interface Vocabulary {
  size: number
  /** Tokens at places of their own; the other places hold made-up words. */
  special: Record<string, number>
  unknown: string
  before: string[]
  after: string[]
  names: Record<string, string>
}

const LLAMA: Vocabulary = {
  size: 32003,
  special: { '<unk>': 0, '<s>': 1, '</s>': 2, '[PAD]': 32000, '<image>': 32001, '<video>': 32002 },
  unknown: '<unk>',
  before: ['</s>'],
  after: [],
  names: { bos_token: '</s>', eos_token: '</s>', pad_token: '[PAD]', unk_token: '</s>' },
}
const OPT: Vocabulary = {
  size: 50266,
  special: { '<s>': 0, '<pad>': 1, '</s>': 2, '<unk>': 3, '<image>': 50265 },
  unknown: '<unk>',
  before: ['</s>'],
  after: [],
  names: { bos_token: '</s>', eos_token: '</s>', pad_token: '<pad>', unk_token: '</s>' },
}
const T5: Vocabulary = {
  size: 32102,
  special: { '<pad>': 0, '</s>': 1, '<unk>': 2, '<image>': 32100, '<video>': 32101 },
  unknown: '<unk>',
  before: [],
  after: ['</s>'],
  names: { eos_token: '</s>', pad_token: '<pad>', unk_token: '<unk>' },
}
const QFORMER: Vocabulary = {
  size: 30523,
  special: { '[PAD]': 0, '[UNK]': 100, '[CLS]': 101, '[SEP]': 102, '[MASK]': 103, '[DEC]': 30522 },
  unknown: '[UNK]',
  before: ['[CLS]'],
  after: ['[SEP]'],
  names: { bos_token: '[DEC]', cls_token: '[CLS]', sep_token: '[SEP]', pad_token: '[PAD]', unk_token: '[UNK]' },
}

/** Words that the bench's questions are made of; they come first. */
const WORDS = 'what is happening in this video ? which way does it move the a of and how many'.split(' ')

function tokenizer({ size, special, unknown, before, after, names }: Vocabulary): Record<string, object> {
  const taken = new Map(Object.entries(special).map(([token, id]) => [id, token]))
  const words = [...new Set(WORDS)]
  const tokens = Array.from({ length: size }, (_, id) => taken.get(id) ?? words.shift() ?? `w${id}`)
  const around = (list: string[]): object[] => list.map((id) => ({ SpecialToken: { id, type_id: 0 } }))
  const single = [...around(before), { Sequence: { id: 'A', type_id: 0 } }, ...around(after)]
  const ids = [...before, ...after].map((t) => [t, { id: t, ids: [tokens.indexOf(t)], tokens: [t] }])
  return {
    'tokenizer.json': {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: Object.entries(special).map(([content, id]) => ({
        ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
      })),
      normalizer: { type: 'Lowercase' },
      pre_tokenizer: { type: 'Whitespace' },
      post_processor: { type: 'TemplateProcessing', single, pair: single, special_tokens: Object.fromEntries(ids) },
      decoder: null,
      model: { type: 'WordLevel', vocab: Object.fromEntries(tokens.map((t, id) => [t, id])), unk_token: unknown },
    },
    'tokenizer_config.json': { tokenizer_class: 'PreTrainedTokenizerFast', ...names },
    'special_tokens_map.json': names,
  }
}

const within = (folder: string, files: Record<string, object>): Record<string, object> =>
  Object.fromEntries(Object.entries(files).map(([name, content]) => [join(folder, name), content]))

/** By the language model's `model_type`: its tokenizer, and generation_config.json as the hub has it. */
const TEXTS: Record<string, { vocabulary: Vocabulary; generation: object }> = {
  llama: { vocabulary: LLAMA, generation: { bos_token_id: 0, eos_token_id: 1, pad_token_id: 32000 } },
  opt: { vocabulary: OPT, generation: { bos_token_id: 2, eos_token_id: 50118, pad_token_id: 1 } },
  t5: { vocabulary: T5, generation: { decoder_start_token_id: 0, eos_token_id: 1, pad_token_id: 0 } },
}

/** Everything but the weights and config.json, by path. */
const smallFiles = (kind: string, hasText: boolean): Record<string, object> => ({
  'generation_config.json': TEXTS[kind]!.generation,
  'processor_config.json': { processor_class: 'InstructBlipVideoProcessor', num_query_tokens: 32 },
  'preprocessor_config.json': {
    image_processor_type: 'BlipImageProcessor',
    do_convert_rgb: true,
    do_resize: true,
    size: { height: 224, width: 224 },
    resample: 3,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.48145466, 0.4578275, 0.40821073],
    image_std: [0.26862954, 0.26130258, 0.27577711],
  },
  ...tokenizer(TEXTS[kind]!.vocabulary),
  ...(hasText && within('qformer_tokenizer', tokenizer(QFORMER))),
})

// ----------------------------------------------------------------------------------------------------------- weights

/** Values are cut from one block of normal numbers, a prime number of them, so that no two rows begin alike. */
const NOISE = 16_777_213

/** Normal numbers of deviation 0.02 (xorshift32 and Box–Muller). */
function noise(n: number): Float32Array {
  let state = 2463534242
  const next = (): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return ((state >>> 0) + 0.5) / 2 ** 32
  }
  const out = new Float32Array(n)
  for (let i = 0; i < n; i += 2) {
    const [radius, angle] = [0.02 * Math.sqrt(-2 * Math.log(next())), 2 * Math.PI * next()]
    out[i] = radius * Math.cos(angle)
    if (i + 1 < n) out[i + 1] = radius * Math.sin(angle)
  }
  return out
}

const blocks: Partial<Record<StoredDtype, Float32Array | Uint16Array>> = {}
/** The block, drawn once. */
function block(dtype: StoredDtype): Float32Array | Uint16Array {
  return (blocks[dtype] ??= dtype === 'float32' ? noise(NOISE) : narrowed(block('float32') as Float32Array))
}

/** Bits of the nearest bfloat16. */
function narrowed(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return Uint16Array.from(bits, (x) => (x + 0x7fff + ((x >>> 16) & 1)) >>> 16)
}

const bytesOf = (a: Float32Array | Uint16Array): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength)

interface Planned {
  name: string
  shape: readonly number[]
  bytes: number
}

/** Tensors in the order of names of the hub's index, cut into shards of about the same size. */
function shardsOf(tensors: readonly Planned[]): Planned[][] {
  const total = tensors.reduce((n, t) => n + t.bytes, 0)
  const shards: Planned[][] = Array.from({ length: SHARDS }, () => [])
  let at = 0
  for (const t of tensors) {
    shards[Math.min(SHARDS - 1, Math.floor((at / total) * SHARDS))]!.push(t)
    at += t.bytes
  }
  return shards
}

/** Bytes of the header, padded so that the data begins at a multiple of 64. */
function headerOf(shard: readonly Planned[], dtype: StoredDtype): Buffer {
  let at = 0
  const entries = shard.map(({ name, shape, bytes }) => [
    name,
    { dtype: dtype === 'float32' ? 'F32' : 'BF16', shape, data_offsets: [at, (at += bytes)] },
  ])
  const text = Buffer.from(JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) }))
  const length = Math.ceil((8 + text.byteLength) / 64) * 64 - 8
  const head = Buffer.alloc(8 + length, ' ')
  head.writeBigUInt64LE(BigInt(length), 0)
  text.copy(head, 8)
  return head
}

export interface WriteOptions {
  dtype: StoredDtype
  /** config.json of another size, or of another model. Default: {@link hubConfig}. */
  config?: object | undefined
  /** Whether all values are 0 and take no place on a disk: files are holes behind their headers. */
  empty?: boolean | undefined
  onProgress?: ((bytes: number, total: number) => void) | undefined
  /** The file system's calls; a test passes ones that fail. */
  on?: FileSystem | undefined
}

/** Writes what is missing of a checkpoint; a shard that is there as a whole stays. Returns the bytes of all weights. */
export async function writeCheckpoint(folder: string, options: WriteOptions): Promise<number> {
  const { dtype, config = hubConfig(dtype), empty = false, onProgress, on } = options
  const parsed = parseModelConfig(config)
  const json = (content: object): string => `${JSON.stringify(content, null, 2)}\n`
  for (const [name, content] of Object.entries({
    'config.json': config,
    ...smallFiles(parsed.language.kind, parsed.qformer.hasText),
  })) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFileAtomic(join(folder, name), json(content))
  }
  const width = dtype === 'float32' ? 4 : 2
  const tensors = expectedTensors(parsed).map(
    ({ name, shape }): Planned => ({ name, shape, bytes: width * sizeOf(shape) }),
  )
  const shards = shardsOf(tensors)
  const fileOf = (i: number): string =>
    `model-${String(i + 1).padStart(5, '0')}-of-${String(SHARDS).padStart(5, '0')}.safetensors`
  const total = tensors.reduce((n, t) => n + t.bytes, 0)
  const [drawn, values] = empty ? [] : [block('float32') as Float32Array, block(dtype)]
  let done = 0
  for (const [i, shard] of shards.entries()) {
    const path = join(folder, fileOf(i))
    const head = headerOf(shard, dtype)
    const bytes = shard.reduce((n, t) => n + t.bytes, 0)
    if (existsSync(path) && statSync(path).size === head.byteLength + bytes) done += bytes
    else if (!drawn || !values) {
      await writeFileAtomic(path, head, on)
      await truncate(path, head.byteLength + bytes)
      done += bytes
    } else
      await writeAtomically(
        path,
        async (sink) => {
          await sink.write(head)
          for (const { name, shape } of shard) {
            let left = sizeOf(shape)
            if (shape.length === 1 && /norm[^.]*\.weight$/i.test(name)) {
              const ones = drawn.slice(0, left).map((x) => 1 + x)
              await sink.write(bytesOf(dtype === 'float32' ? ones : narrowed(ones)))
              done += width * left
              continue
            }
            // Another place of the block for each tensor: a step that shares no factor with its length.
            for (let at = (7_368_787 * (tensors.findIndex((t) => t.name === name) + 1)) % NOISE; left; at = 0) {
              const count = Math.min(left, NOISE - at)
              await sink.write(bytesOf(values.subarray(at, at + count)))
              left -= count
              done += width * count
            }
            onProgress?.(done, total)
          }
        },
        on,
      )
    onProgress?.(done, total)
  }
  const weightMap = Object.fromEntries(shards.flatMap((shard, i) => shard.map((t) => [t.name, fileOf(i)])))
  await writeFileAtomic(
    join(folder, 'model.safetensors.index.json'),
    json({ metadata: { total_size: total }, weight_map: weightMap }),
  )
  return total
}
