/**
 * A strict reader of PEFT's adapter_config.json: a key that would change plain LoRA, as it is saved here, is refused.
 * Keys that PEFT writes (0.5 to 0.21) are listed with the values that change nothing.
 */
import { invalid, show } from '../errors.js'

/** Whether a value is accepted, and which ones are. */
interface Rule {
  fits(value: unknown): boolean
  expected: string
}

const anything: Rule = { fits: () => true, expected: 'anything' }
const only = (...values: unknown[]): Rule => ({
  fits: (v) => v === undefined || v === null || values.includes(v),
  expected: [...values, null].map(show).join(' or '),
})
/** Absent, null, or an empty list or object. */
const empty: Rule = {
  fits: (v) => v == null || (typeof v === 'object' && Object.keys(v).length === 0),
  expected: 'nothing',
}

const RULES: Readonly<Record<string, Rule>> = {
  // Origin and initialisation: the tensors are given.
  base_model_name_or_path: anything,
  revision: anything,
  task_type: anything,
  auto_mapping: anything,
  inference_mode: anything,
  peft_version: anything,
  init_lora_weights: only(true, false, 'gaussian'), // others change the base weights too
  // Read where another key is set, which is refused.
  megatron_core: anything,
  qalora_group_size: anything,
  layers_pattern: anything,
  runtime_config: anything,
  // What LoRA is.
  bias: only('none'),
  fan_in_fan_out: only(false),
  lora_dropout: only(0),
  use_rslora: only(false),
  use_dora: only(false),
  use_qalora: only(false),
  use_bdlora: only(false),
  lora_bias: only(false),
  ensure_weight_tying: only(false),
  modules_to_save: empty,
  exclude_modules: empty,
  layers_to_transform: empty,
  rank_pattern: empty,
  alpha_pattern: empty,
  layer_replication: empty,
  trainable_token_indices: empty,
  target_parameters: empty,
  megatron_config: empty,
  loftq_config: empty,
  eva_config: empty,
  corda_config: empty,
  lora_ga_config: empty,
  arrow_config: empty,
  alora_invocation_tokens: empty,
}

/**
 * Refuses a file with which PEFT would compute something else than this project does.
 *
 * @param lora rank and scale that the adapter has; PEFT scales by alpha / r of this file
 * @param keys of the tensors beside it
 * @throws InputError naming the first key that does not fit, or is not known
 */
export function checkPeftConfig(
  path: string,
  peft: Readonly<Record<string, unknown>>,
  lora: { r: number; alpha: number },
  keys: readonly string[],
): void {
  const fixed = { peft_type: 'LORA', r: lora.r, lora_alpha: lora.alpha }
  for (const [key, wanted] of Object.entries(fixed))
    if (peft[key] !== wanted) throw invalid(`${path}: ${key}`, `${wanted}, as mtransllama.json has it`, peft[key])
  for (const [key, value] of Object.entries(peft)) {
    if (key in fixed || key === 'target_modules') continue
    const rule = Object.hasOwn(RULES, key) ? RULES[key] : undefined
    if (!rule && value === null) continue // a key of a later PEFT that is not used
    if (!rule)
      throw invalid(`${path}: ${key}`, 'keys of plain LoRA alone', value, 'this program does not know what it changes')
    if (!rule.fits(value))
      throw invalid(`${path}: ${key}`, rule.expected, value, 'adapters of this program are plain LoRA')
  }
  const left = keys
    .map((key) => /^base_model\.model\.(.*)\.lora_[AB]\.weight$/.exec(key)?.[1] ?? key)
    .find((module) => !targets(path, peft.target_modules, module))
  if (left !== undefined)
    throw invalid(
      `${path}: target_modules`,
      `a choice of modules with ${left}`,
      peft.target_modules,
      'its tensors are in the file beside it',
    )
}

/** As PEFT matches: one regular expression for the whole name, or ends of names. */
function targets(path: string, target: unknown, module: string): boolean {
  if (Array.isArray(target)) return target.some((end) => module === end || module.endsWith(`.${end}`))
  if (typeof target !== 'string')
    throw invalid(`${path}: target_modules`, 'a regular expression or a list of names', target)
  try {
    return new RegExp(`^(?:${target})$`).test(module)
  } catch (error) {
    throw invalid(`${path}: target_modules`, 'a regular expression', error)
  }
}
