/**
 * Reads the config.json of a Hugging Face InstructBLIP or BLIP-2 folder into one normalised form. Each part of the
 * model declares the fields of its section.
 */
import { dirname, join, resolve } from 'node:path'
import { existsSync } from 'node:fs'
import { z } from 'zod'
import { InputError, invalid } from '../errors.js'
import { readJsonObject } from '../files/json.js'
import { checkWith } from '../files/schema.js'
import { size, tokenId } from '../models/fields.js'
import type { ModelConfig } from '../models/image-model.js'
import { languageConfig } from '../models/language.js'
import { QFormerFields, qformerConfig } from '../models/qformer.js'
import { VisionFields, visionConfig } from '../models/vit.js'

export interface GenerationConfig {
  bosId?: number
  /** Any of these ends an answer. */
  eosIds?: number[]
  padId?: number
}

const Top = z.looseObject({
  model_type: z.enum(['instructblip', 'instructblipvideo', 'blip-2']),
  num_query_tokens: size(32),
  image_token_index: z.int().min(0).nullish(),
  image_token_id: z.int().min(0).nullish(),
  video_token_index: z.int().min(0).nullish(),
  video_token_id: z.int().min(0).nullish(),
  torch_dtype: z.string().nullish(),
  dtype: z.string().nullish(),
  qformer_text_from: z.string().min(1).nullish(),
  vision_config: VisionFields.nullish(),
  qformer_config: QFormerFields.nullish(),
  text_config: z.looseObject({ model_type: z.string().optional() }).nullish(),
})

// ---------------------------------------------------------------------------------------------------------------- read

/**
 * Reads `config.json`, or the one inside a folder, and the special ids of a generation_config.json beside it.
 *
 * @param textFrom in place of `qformer_text_from` of config.json, which is a path from its folder
 */
export async function readModelConfig(path: string, textFrom?: string): Promise<ModelConfig> {
  const file = path.endsWith('.json') ? path : join(path, 'config.json')
  const json = await readJsonObject(
    file,
    'a Hugging Face model folder has one: check the path, or download the whole model',
  )
  const named = textFrom === undefined ? json : { ...json, qformer_text_from: resolve(textFrom) }
  const config = await withText(parseModelConfig(named, file), file)
  const generation = await readGenerationConfig(dirname(file))
  const { language } = config
  if (language.padId === null && generation.padId !== undefined) language.padId = generation.padId
  // A decoder that begins with a start id of its own has no BOS.
  if (language.bosId === null && generation.bosId !== undefined && !('startId' in language))
    language.bosId = generation.bosId
  if (language.eosId === null && generation.eosIds !== undefined) language.eosId = generation.eosIds[0]!
  return config
}

/** `where` is put in front of every complaint. */
export function parseModelConfig(json: unknown, where = 'config.json'): ModelConfig {
  const type = (json as { model_type?: unknown } | null)?.model_type
  if (type !== 'instructblip' && type !== 'instructblipvideo' && type !== 'blip-2') {
    throw invalid(
      `${where}: model_type`,
      'instructblip or blip-2',
      type,
      'instructblipvideo is read too; other model families are not supported',
    )
  }
  const top = checkWith(Top, json, where)
  const textFrom = top.qformer_text_from ?? undefined
  if (textFrom !== undefined && type !== 'blip-2')
    throw invalid(
      `${where}: qformer_text_from`,
      'no second checkpoint',
      textFrom,
      'the Q-Former of InstructBLIP has a text path of its own',
    )
  // The video class of transformers has InstructBLIP's tensors under InstructBLIP's names.
  // BLIP-2 with a text path is InstructBLIP.
  const family = type === 'blip-2' && textFrom === undefined ? 'blip-2' : 'instructblip'
  const vision = visionConfig(top.vision_config ?? VisionFields.parse({}), where)
  const qformer = qformerConfig(top.qformer_config ?? QFormerFields.parse({}), family === 'instructblip', vision, where)
  const language = languageConfig(top.text_config ?? {}, where)
  const [image, video, dtype] = [
    top.image_token_index ?? top.image_token_id,
    top.video_token_index ?? top.video_token_id,
    top.torch_dtype ?? top.dtype,
  ]
  return {
    family,
    numQueryTokens: top.num_query_tokens,
    ...(image != null && { imageTokenId: image }),
    ...(video != null && { videoTokenId: video }),
    ...(dtype != null && { dtype }),
    ...(textFrom !== undefined && { textFrom }),
    vision,
    qformer,
    language,
  }
}

/** Finds the second checkpoint from the folder of `file`; the sizes of texts are those of its config.json. */
async function withText(config: ModelConfig, file: string): Promise<ModelConfig> {
  if (config.textFrom === undefined) return config
  const textFrom = resolve(dirname(file), config.textFrom)
  if (!existsSync(textFrom))
    throw invalid(
      `${file}: qformer_text_from`,
      'a model folder or a .pth file, by its path from this folder',
      config.textFrom,
      `${textFrom} does not exist`,
    )
  const second = join(textFrom, 'config.json')
  if (!existsSync(second)) return { ...config, textFrom }
  const { qformer_config: q } = checkWith(
    z.looseObject({ qformer_config: QFormerFields.nullish() }),
    await readJsonObject(second),
    second,
  )
  const { max_position_embeddings: maxPositions, vocab_size: vocabSize } = q ?? QFormerFields.parse({})
  return { ...config, textFrom, qformer: { ...config.qformer, maxPositions, vocabSize } }
}

/**
 * The folder of the Q-Former's tokenizer. One that belongs to the text path of a second checkpoint comes first; where
 * images are matched with texts there is no other text, and it lies at the top.
 */
export async function qformerTokenizerFolder(folder: string, { textFrom }: ModelConfig): Promise<string> {
  const own = join(folder, 'qformer_tokenizer')
  if (textFrom === undefined) return own
  const has = (at: string): boolean => existsSync(join(at, 'tokenizer.json'))
  const second = join(textFrom, 'qformer_tokenizer')
  if (has(second)) return second
  if (has(textFrom)) {
    const { architectures } = await readJsonObject(join(textFrom, 'config.json'))
    if (String(architectures).endsWith('ForImageTextRetrieval')) return textFrom
  }
  if (has(own)) return own
  throw new InputError(
    `${own}: there is no tokenizer.json, and none in ${second}; the text path that qformer_text_from adds reads ids of ` +
      "InstructBLIP's qformer_tokenizer: copy that folder here.",
  )
}

const Generation = z.looseObject({
  bos_token_id: tokenId(null),
  eos_token_id: z.union([z.int(), z.array(z.int()).min(1), z.null()]).optional(),
  pad_token_id: tokenId(null),
})

/** Special ids from a folder's generation_config.json; empty where there is none. */
export async function readGenerationConfig(folder: string): Promise<GenerationConfig> {
  const file = join(folder, 'generation_config.json')
  if (!existsSync(file)) return {}
  const g = checkWith(Generation, await readJsonObject(file), file)
  return {
    ...(g.bos_token_id === null ? {} : { bosId: g.bos_token_id }),
    ...(g.eos_token_id == null ? {} : { eosIds: Array.isArray(g.eos_token_id) ? g.eos_token_id : [g.eos_token_id] }),
    ...(g.pad_token_id === null ? {} : { padId: g.pad_token_id }),
  }
}
