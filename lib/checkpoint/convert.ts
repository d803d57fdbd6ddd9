/**
 * Writes a checkpoint as a Hugging Face folder with safetensors: from a folder in another form, or from a file of
 * LAVIS, which holds what was trained there; frozen parts come from checkpoints of their own.
 */
import { existsSync, statSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { InputError, invalid } from '../errors.js'
import type { FileSystem } from '../files/atomic.js'
import { replaceFolder, type FolderFile, type FolderKind } from '../files/folder.js'
import { DTYPE_BYTES } from '../files/safetensors.js'
import { sizeOf } from '../shape.js'
import { qformerTokenizerFolder, readModelConfig } from './config.js'
import type { ModelConfig } from '../models/image-model.js'
import { readJsonObject } from '../files/json.js'
import { hasWeights } from './files.js'
import {
  assertComplete,
  planTensors,
  readPlanned,
  textSource,
  type CheckpointPlan,
  type PlannedTensor,
  type Source,
} from './plan.js'

/** Options of {@link convertCheckpoint}. */
export interface ConvertOptions {
  /**
   * A Hugging Face folder for what the source lacks: configuration, tokenizers and preprocessing where the source is a
   * file, and tensors where the folder has weights.
   */
  base?: string | undefined
  /** Where the vision tower comes from, if not from the source: `eva_vit_g.pth`, or a folder. */
  vision?: string | undefined
  /** Where the language model comes from, if not from the source: a folder. */
  language?: string | undefined
  /**
   * Where the text path of BLIP-2's Q-Former comes from, which has none: InstructBLIP, or BLIP-2 for matching images
   * with texts, as a folder or a file of torch. Default: `qformer_text_from` of config.json. What is written is an
   * InstructBLIP.
   */
  text?: string | undefined
  /** Most bytes of a weight file. Default 5 GB. */
  shard?: number | undefined
  /** Called as tensors are written: bytes so far, and in all. */
  onProgress?: ((bytes: number, total: number) => void) | undefined
  /** For tests of disks that fail. */
  on?: FileSystem | undefined
}

/** What was written. */
export interface Converted {
  folder: string
  tensors: number
  bytes: number
  /** Names of weight files. */
  files: string[]
  /** Names in the source that the model does not need. */
  ignored: string[]
}

/** Files beside the weights: configuration, tokenizers, preprocessing. */
const BESIDE = /^(?!.*\.index\.json$).*\.(json|txt|model|jinja)$/
const FOLDER: FolderKind = { name: 'a new folder', mark: 'config.json', ours: /./ }

/**
 * Writes `out`: config.json, tokenizers and preprocessing as they are, and the weights by the names of the Hugging Face
 * releases, as safetensors in the dtypes that they have. `out` appears as a whole or not at all.
 *
 * @param source a Hugging Face folder, or a file of torch with the names of LAVIS (.pth) or of Hugging Face (.bin)
 * @throws InputError that lists what is missing, wrong or unexpected; for an `out` that holds something
 */
export async function convertCheckpoint(
  source: string,
  out: string,
  { base, vision, language, text, shard, onProgress, on }: ConvertOptions = {},
): Promise<Converted> {
  if (!existsSync(source)) throw new InputError(`${source}: no such folder or file.`)
  const home = statSync(source).isDirectory() ? source : base
  if (home === undefined)
    throw invalid(
      'base',
      `a Hugging Face folder, since ${source} is a file`,
      base,
      'its configuration, tokenizers and preprocessing are taken from there (--base)',
    )
  await checkVacant(out)
  const sources: Source[] = [{ at: source }]
  if (vision !== undefined) sources.push({ at: vision, fills: true, rename: visionName })
  if (language !== undefined) sources.push({ at: language, fills: true, rename: languageName })
  if (base !== undefined && resolve(base) !== resolve(source) && hasWeights(base))
    sources.push({ at: base, fills: true })
  const config = await readModelConfig(home, text)
  const plan = await planTensors(source, config, [...sources, ...textSource(config)])
  assertComplete(plan)
  for (const file of plan.files) await file.check?.()
  return writeCheckpoint(plan, home, out, { shard, onProgress, on })
}

/** Options of {@link writeCheckpoint}. */
export interface WriteOptions extends Pick<ConvertOptions, 'shard' | 'onProgress' | 'on'> {
  /** Float32 numbers in place of those of some tensors, by name. */
  changed?: ReadonlyMap<string, () => Promise<Float32Array<ArrayBuffer>>> | undefined
}

/** Throws unless a folder can be written there without anything being written over. */
export async function checkVacant(out: string): Promise<void> {
  if (existsSync(out) && (!statSync(out).isDirectory() || (await readdir(out)).length))
    throw new InputError(`${out}: expected a new or an empty folder; nothing is written over.`)
}

/**
 * Writes the tensors of a complete plan as a folder, with the files of `home` beside them. The folder appears as a
 * whole or not at all.
 */
export async function writeCheckpoint(
  plan: CheckpointPlan,
  home: string,
  out: string,
  { shard = 5e9, onProgress, on, changed = new Map() }: WriteOptions,
): Promise<Converted> {
  const entries = [...plan.entries.values()].map((t) => (changed.has(t.name) ? { ...t, dtype: 'F32' as const } : t))
  const shards = sharded(entries, shard)
  const total = shards.flat().reduce((n, t) => n + bytesOf(t), 0)
  let written = 0
  const weights = shards.map((tensors, i) => ({
    path: shards.length === 1 ? 'model.safetensors' : `model-${five(i + 1)}-of-${five(shards.length)}.safetensors`,
    tensors: tensors.map((planned) => {
      const { name, dtype, shape } = planned
      const data = async () => {
        const data = (await changed.get(name)?.()) ?? (await readPlanned(planned))
        onProgress?.((written += data.byteLength), total)
        return data
      }
      return { name, dtype, shape, data }
    }),
  }))
  const files: FolderFile[] = [...(await beside(home, plan.config)), ...weights]
  if (weights.length > 1) {
    const weight_map = Object.fromEntries(weights.flatMap(({ path, tensors }) => tensors.map((t) => [t.name, path])))
    const index = { metadata: { total_size: total }, weight_map }
    files.push({ path: 'model.safetensors.index.json', text: `${JSON.stringify(index, null, 2)}\n` })
  }
  await replaceFolder(out, files, FOLDER, on)
  return {
    folder: out,
    tensors: plan.entries.size,
    bytes: total,
    files: weights.map(({ path }) => path),
    ignored: plan.ignored,
  }
}

const five = (n: number): string => String(n).padStart(5, '0')
const bytesOf = ({ shape, dtype }: PlannedTensor): number => sizeOf(shape) * DTYPE_BYTES[dtype]

/** Names of a vision tower alone, as in `eva_vit_g.pth`. */
const visionName = (stored: string): string =>
  /^(cls_token|pos_embed|patch_embed|blocks)\b/.test(stored) ? `visual_encoder.${stored}` : stored

/** Names of a language model alone. */
const languageName = (stored: string): string =>
  stored.startsWith('language_model.') ? stored : `language_model.${stored}`

/** Tensors in their order, so many bytes a file at most; a larger tensor has a file for itself. */
function sharded(tensors: readonly PlannedTensor[], most: number): PlannedTensor[][] {
  const shards: PlannedTensor[][] = []
  let room = 0
  for (const tensor of tensors) {
    if (!shards.length || bytesOf(tensor) > room) {
      shards.push([])
      room = most
    }
    shards.at(-1)!.push(tensor)
    room -= bytesOf(tensor)
  }
  return shards
}

/** The files of a folder beside its weights. With a text path from elsewhere it becomes an InstructBLIP. */
async function beside(home: string, config: ModelConfig): Promise<FolderFile[]> {
  const files: FolderFile[] = []
  const hasSecond = config.textFrom !== undefined
  const tokenizer = hasSecond ? await qformerTokenizerFolder(home, config) : join(home, 'qformer_tokenizer')
  for (const [folder, from] of [
    ['', home],
    ['qformer_tokenizer', tokenizer],
  ] as const) {
    if (!existsSync(from)) continue
    for (const name of (await readdir(from)).sort()) {
      const isOurs = folder ? TOKENIZER.test(name) : !(hasSecond && name === 'config.json')
      if (isOurs && BESIDE.test(name) && statSync(join(from, name)).isFile())
        files.push({ path: join(folder, name), from: join(from, name) })
    }
  }
  if (hasSecond) {
    const json = withTextConfig(await readJsonObject(join(home, 'config.json')), config)
    files.push({ path: 'config.json', text: `${JSON.stringify(json, null, 2)}\n` })
  }
  return files
}

/** Of a folder of another model too, those of its tokenizer. */
const TOKENIZER = /^(?!(config|generation_config|preprocessor_config|processor_config)\.json$)/

/** BLIP-2's config.json as that of InstructBLIP, whose Q-Former reads texts. */
function withTextConfig(json: Record<string, unknown>, { qformer }: ModelConfig): object {
  const { qformer_text_from: _, ...rest } = json
  const section = (name: string): object => (json[name] ?? {}) as object
  const { use_qformer_text_input: __, ...own } = section('qformer_config') as Record<string, unknown>
  return {
    ...rest,
    architectures: ['InstructBlipForConditionalGeneration'],
    model_type: 'instructblip',
    vision_config: { ...section('vision_config'), model_type: 'instructblip_vision_model' },
    qformer_config: {
      ...own,
      model_type: 'instructblip_qformer',
      vocab_size: qformer.vocabSize,
      max_position_embeddings: qformer.maxPositions,
    },
  }
}
