/**
 * Reads the config.json of a Hugging Face InstructBLIP or BLIP-2 folder into one normalised form. Each part of the
 * model declares the fields of its section.
 */
import { dirname, join } from 'node:path'
import { existsSync } from 'node:fs'
import { z } from 'zod'
import { invalid } from '../errors.js'
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
  vision_config: VisionFields.nullish(),
  qformer_config: QFormerFields.nullish(),
  text_config: z.looseObject({ model_type: z.string().optional() }).nullish(),
})

// ---------------------------------------------------------------------------------------------------------------- read

/** Reads `config.json`, or the one inside a folder, and the special ids of a generation_config.json beside it. */
export async function readModelConfig(path: string): Promise<ModelConfig> {
  const file = path.endsWith('.json') ? path : join(path, 'config.json')
  const config = parseModelConfig(
    await readJsonObject(file, 'a Hugging Face model folder has one: check the path, or download the whole model'),
    file,
  )
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
  // The video class of transformers has InstructBLIP's tensors under InstructBLIP's names.
  const family = type === 'blip-2' ? 'blip-2' : 'instructblip'
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
    vision,
    qformer,
    language,
  }
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
