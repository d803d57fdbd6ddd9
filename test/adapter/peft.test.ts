// adapter_config.json: keys that do not change plain LoRA are accepted, whichever PEFT wrote them; all others are
// refused by name.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { checkPeftConfig } from '../../lib/adapter/peft.js'
import { InputError } from '../../lib/errors.js'

const lora = { r: 4, alpha: 8 }
const module = (i: number, part: string, block = 'attention'): string =>
  `qformer.encoder.layer.${i}.${block}.attention.${part}`
const keys = [0, 1].flatMap((i) =>
  ['query', 'value'].flatMap((part) =>
    ['A', 'B'].map((side) => `base_model.model.${module(i, part)}.lora_${side}.weight`),
  ),
)
const own = {
  peft_type: 'LORA',
  task_type: null,
  base_model_name_or_path: 'base',
  inference_mode: true,
  r: 4,
  lora_alpha: 8,
  lora_dropout: 0,
  bias: 'none',
  fan_in_fan_out: false,
  modules_to_save: null,
  target_modules: String.raw`qformer\.encoder\.layer\.\d+\.attention\.attention\.(query|value)`,
}
/** As PEFT 0.18 saves it again. */
const saved = {
  ...own,
  alora_invocation_tokens: null,
  alpha_pattern: {},
  arrow_config: null,
  auto_mapping: { base_model_class: 'X', parent_library: 'y' },
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  exclude_modules: null,
  init_lora_weights: true,
  layer_replication: null,
  layers_pattern: null,
  layers_to_transform: null,
  loftq_config: {},
  lora_bias: false,
  megatron_config: null,
  megatron_core: 'megatron.core',
  peft_version: '0.18.0',
  qalora_group_size: 16,
  rank_pattern: {},
  revision: null,
  target_parameters: null,
  trainable_token_indices: null,
  use_dora: false,
  use_qalora: false,
  use_rslora: false,
}
const refused = (config: object, sentence: RegExp): void => {
  try {
    checkPeftConfig('adapter_config.json', config as Record<string, unknown>, lora, keys)
  } catch (error) {
    assert.instance(error, InputError)
    assert.match((error as Error).message, sentence)
    return
  }
  assert.unreachable(`taken: ${JSON.stringify(config)}`)
}

test('our own file passes, as does one that PEFT wrote again, and names of modules as a list', () => {
  for (const config of [
    own,
    saved,
    { ...own, target_modules: ['query', 'value'] },
    { ...own, target_modules: keys.map((k) => k.replace('base_model.model.', '').replace(/\.lora_.*/, '')) },
    { ...own, of_a_later_version: null },
  ]) {
    checkPeftConfig('adapter_config.json', config, lora, keys)
  }
})

for (const [key, value] of Object.entries({
  alpha_pattern: { query: 16 },
  rank_pattern: { '.*layer.1.*': 2 },
  layers_to_transform: [0],
  modules_to_save: ['language_projection'],
  use_rslora: true,
  use_dora: true,
  use_qalora: true,
  lora_bias: true,
  bias: 'lora_only',
  fan_in_fan_out: true,
  lora_dropout: 0.1,
  init_lora_weights: 'pissa',
  layer_replication: [[0, 2]],
  exclude_modules: 'query',
  trainable_token_indices: [1],
  target_parameters: ['a.weight'],
  loftq_config: { bits: 4 },
  megatron_config: { x: 1 },
  corda_config: { x: 1 },
  arrow_config: { top_k: 2 },
  velora_config: false,
  made_up: 'yes',
})) {
  test(`refused by name: ${key}`, () =>
    refused({ ...saved, [key]: value }, new RegExp(`^adapter_config\\.json: ${key}: expected .*, but got `)))
}

test('type, rank and scale are those of the adapter', () => {
  refused({ ...own, r: 2 }, /r: expected 4, as mtransllama\.json has it, but got 2/)
  refused({ ...own, lora_alpha: 4 }, /lora_alpha: expected 8, .* got 4/)
  refused({ ...own, peft_type: 'LOHA' }, /peft_type: expected LORA/)
  refused({}, /peft_type: expected LORA/)
})

test('every module with tensors is a target', () => {
  for (const target of [
    ['query'],
    ['key', 'value'],
    String.raw`qformer\.encoder\.layer\.0\..*`,
    'query',
    [],
    null,
    '(',
    { query: true },
  ])
    refused({ ...own, target_modules: target }, /target_modules: expected a /)
})

test.run()
