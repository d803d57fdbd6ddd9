/** The published models: docs/models.json, and their config.json as the hub has it. */
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { hubConfig } from '../full-size/checkpoint.js'

const List = z.strictObject({
  measured: z.record(z.string(), z.string()).describe('by name: what was measured, and where it is told'),
  others: z.string().describe('what is true of those that were not opened'),
  models: z.array(
    z.strictObject({
      name: z.string(),
      model_type: z.enum(['instructblip', 'blip-2']),
      text_config: z.looseObject({ model_type: z.enum(['llama', 'opt', 't5']) }),
    }),
  ),
})

/** docs/models.json */
export const models = (): z.output<typeof List> =>
  List.parse(JSON.parse(readFileSync(new URL('../../docs/models.json', import.meta.url), 'utf8')))

/** What the text_config of a family has on the hub beyond sizes; the ids of placeholders beside it. */
const FAMILIES = {
  llama: { text: (hubConfig('float32') as { text_config: object }).text_config, image: 32001, video: 32002 },
  opt: { text: { eos_token_id: 50118, word_embed_proj_dim: undefined }, image: 50265, video: undefined },
  t5: {
    text: { feed_forward_proj: 'gated-gelu', dense_act_fn: 'gelu', tie_word_embeddings: false, d_kv: 64 },
    image: 32100,
    video: 32101,
  },
}

/** The config.json of one of them. */
export function configOf({ model_type, text_config }: z.output<typeof List>['models'][number]): object {
  const { text, image, video } = FAMILIES[text_config.model_type]
  const kind = model_type === 'blip-2' ? 'blip_2' : 'instructblip'
  return {
    model_type,
    dtype: 'float32',
    num_query_tokens: 32,
    image_token_index: image,
    ...(model_type === 'instructblip' && { video_token_index: video }),
    vision_config: { model_type: `${kind}_vision_model` },
    qformer_config: { model_type: `${kind}_qformer`, vocab_size: 30523, encoder_hidden_size: 1408 },
    text_config: { ...text, ...text_config },
  }
}
