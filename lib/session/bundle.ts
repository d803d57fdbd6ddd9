/** A checkpoint folder with everything that a video and a question need on their way in: weights, pictures, words. */
import { join } from 'node:path'
import { findPreprocessor, type Preprocessor } from '../data/preprocess.js'
import { readGenerationConfig } from '../checkpoint/config.js'
import { loadModel, type LoadedModel, type LoadOptions } from './model.js'
import type { SpecialIds } from '../text/prompts.js'
import { specialIds } from './special-ids.js'
import { checkTokenizer, loadTokenizer, type Tokenizer } from '../text/tokenizer.js'

export interface Bundle extends LoadedModel {
  folder: string
  preprocessor: Preprocessor
  /** What was assumed since the folder does not say it: one sentence each. */
  notes: string[]
  /** Of the language model. */
  tokenizer: Tokenizer
  /** Of the Q-Former; absent where it has no text path. */
  qformerTokenizer: Tokenizer | undefined
  special: SpecialIds
  /** Any of these ends an answer. */
  eosIds: number[]
}

/** Opens an InstructBLIP or BLIP-2 folder in the Hugging Face layout. Tokenizers are checked against the embeddings. */
export async function openBundle(folder: string, options: LoadOptions = {}): Promise<Bundle> {
  const tokenizer = await loadTokenizer(folder)
  const loaded = await loadModel(folder, options)
  try {
    const { config } = loaded.model
    const { preprocessor, notes } = await findPreprocessor(folder, config.vision.imageSize)
    const qformerTokenizer = config.qformer.hasText ? await loadTokenizer(join(folder, 'qformer_tokenizer')) : undefined
    const special = specialIds(tokenizer, config.language)
    checkTokenizer(tokenizer, config.language.vocabSize, 'language model', {
      eos_token: special.eosId,
      bos_token: special.bosId,
      pad_token: special.padId,
    })
    if (qformerTokenizer) checkTokenizer(qformerTokenizer, config.qformer.vocabSize, 'Q-Former')
    const { eosIds = [] } = await readGenerationConfig(folder)
    return {
      ...loaded,
      folder,
      preprocessor,
      notes,
      tokenizer,
      qformerTokenizer,
      special,
      eosIds: [...new Set([special.eosId, ...eosIds])],
    }
  } catch (error) {
    loaded.model.dispose()
    throw error
  }
}
