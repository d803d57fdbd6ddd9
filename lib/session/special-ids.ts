/** The ids that a tokenizer and a language model agree on. */
import { invalid } from '../errors.js'
import type { DecoderConfig } from '../models/decoder.js'
import { familyOf, type LanguageConfig } from '../models/language.js'
import type { SpecialIds } from '../text/prompts.js'
import type { Tokenizer } from '../text/tokenizer.js'

/**
 * Which ids count. The tokenizer overrules config.json, but for the end of an answer in families that say otherwise.
 * Padding is masked, so that where no id is named for it, or a negative one as in old configs, EOS is used.
 */
export function specialIds(tokenizer: Tokenizer, language: LanguageConfig): SpecialIds {
  const eosId =
    familyOf(language).endsAnswers === 'config'
      ? (language.eosId ?? tokenizer.eosId)
      : (tokenizer.eosId ?? language.eosId)
  if (eosId === null)
    throw invalid(`${tokenizer.folder}: eos_token`, 'a token that ends an answer, there or in config.json', null)
  const padId = tokenizer.padId ?? language.padId ?? -1
  const ids = { eosId, padId: padId < 0 ? eosId : padId }
  const { startId }: DecoderConfig = language
  return startId !== undefined ? { ...ids, bosId: null, startId } : { ...ids, bosId: tokenizer.bosId ?? language.bosId }
}
