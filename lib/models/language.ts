/** The families of language models that run here. A new one is a file beside this and a line in {@link FAMILIES}. */
import { invalid } from '../errors.js'
import type { DecoderConfig, Family, LanguageModel } from './decoder.js'
import type { Finder } from './finder.js'
import { LLAMA } from './llama.js'
import { OPT } from './opt.js'
import { T5 } from './t5.js'

/** By `model_type` in config.json. */
const FAMILIES = { llama: LLAMA, opt: OPT, t5: T5 }

type Kind = keyof typeof FAMILIES
/** Sizes and special ids of the language model. */
export type LanguageConfig = ReturnType<(typeof FAMILIES)[Kind]['config']>

export const familyOf = ({ kind }: { kind: Kind }): Family<DecoderConfig> => FAMILIES[kind] as Family<DecoderConfig>

/** Reads the text_config of a config.json; one without a model_type is OPT's, as in the library that writes them. */
export function languageConfig(text: { model_type?: string | undefined }, where: string): LanguageConfig {
  const kind = text.model_type ?? 'opt'
  if (!Object.hasOwn(FAMILIES, kind))
    throw invalid(
      `${where}: text_config.model_type`,
      Object.keys(FAMILIES).join(' or '),
      kind,
      `a ${kind} language model is not supported`,
    )
  return FAMILIES[kind as Kind].config(text, where)
}

export function languageModel(root: Finder, config: LanguageConfig): LanguageModel {
  return familyOf(config).build(root, config)
}
