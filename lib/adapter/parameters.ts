/**
 * The trained parameters of a model and a configuration: names, shapes, groups, initial values. Counting needs
 * configurations alone.
 */
import type { ModelConfig } from '../models/image-model.js'
import { masksPerLayer, type AdapterConfig } from './config.js'
import { sizeOf } from '../shape.js'

export const GROUPS = ['lora', 'router', 'position', 'gate', 'temporal'] as const
/** `temporal`: the weights of a temporal block of its own (temporal.weights: fresh). */
export type ParameterGroup = (typeof GROUPS)[number]

/**
 * The initial value of a parameter. `first`: its first element, the others 0. `xavier`: uniform within sqrt(6 / (in +
 * out)).
 */
export type Init =
  | { kind: 'fill'; value: number }
  | { kind: 'normal'; std: number }
  | { kind: 'xavier' }
  | { kind: 'first'; value: number }

/** A trained tensor: its name, shape, group, and initial value. float32 always. */
export interface TrainedParameter {
  name: string
  shape: number[]
  group: ParameterGroup
  /** Whether weight decay applies: to matrices, not to biases, norms, positions and gates. */
  decay: boolean
  init: Init
}

const ZERO: Init = { kind: 'fill', value: 0 }

/** Every trained parameter, in a fixed order. */
export function trainedParameters(model: ModelConfig, adapter: AdapterConfig): TrainedParameter[] {
  const { layers, hiddenSize: d, encoderHiddenSize: dv, crossFrequency } = model.qformer
  const { temporal } = adapter
  const masks = masksPerLayer(layers, adapter.dar.choices)
  const all: TrainedParameter[] = [
    { name: 'temporal_position', shape: [temporal.maxFrames, d], group: 'position', decay: false, init: ZERO },
    { name: 'spatial_position', shape: [model.numQueryTokens, d], group: 'position', decay: false, init: ZERO },
  ]
  for (let m = 0; m < layers; m++) {
    const at = `layer.${m}`
    all.push(...lora(`${at}.spatial`, d, d, adapter), ...router(`${at}.spatial`, d, masks[m]!, adapter))
    if (temporal.attention === 'factorized') {
      all.push(...(temporal.weights === 'fresh' ? fresh(`${at}.temporal`, d) : lora(`${at}.temporal`, d, d, adapter)))
      all.push(...router(`${at}.temporal`, d, masks[m]!, adapter))
      if (temporal.residual === 'gated') {
        all.push({
          name: `${at}.temporal.gate`,
          shape: [1],
          group: 'gate',
          decay: false,
          init: { kind: 'fill', value: temporal.gateInit },
        })
      }
    }
    if (m % crossFrequency === 0) all.push(...lora(`${at}.cross`, d, dv, adapter))
  }
  return all
}

function lora(at: string, width: number, valueWidth: number, { lora: { r } }: AdapterConfig): TrainedParameter[] {
  return [['q', width] as const, ['v', valueWidth] as const].flatMap(([of, into]): TrainedParameter[] => [
    { name: `${at}.${of}.lora_A`, shape: [r, into], group: 'lora', decay: true, init: { kind: 'normal', std: 1 / r } },
    { name: `${at}.${of}.lora_B`, shape: [width, r], group: 'lora', decay: true, init: ZERO },
  ])
}

/** A layer with one mask has no router. */
function router(at: string, width: number, masks: number, { dar }: AdapterConfig): TrainedParameter[] {
  if (dar.mode === 'off' || masks === 1) return []
  const { routerHidden: hidden, globalBias } = dar
  return [
    { name: `${at}.router.w1`, shape: [hidden, width], group: 'router', decay: true, init: { kind: 'xavier' } },
    { name: `${at}.router.b1`, shape: [hidden], group: 'router', decay: false, init: ZERO },
    { name: `${at}.router.w2`, shape: [masks, hidden], group: 'router', decay: true, init: ZERO },
    {
      name: `${at}.router.b2`,
      shape: [masks],
      group: 'router',
      decay: false,
      init: { kind: 'first', value: globalBias },
    },
  ]
}

/** A temporal block with its own weights, initialised as BERT initialises its layers. */
function fresh(at: string, width: number): TrainedParameter[] {
  return [
    ...['query', 'key', 'value', 'dense'].flatMap((name): TrainedParameter[] => [
      {
        name: `${at}.${name}.weight`,
        shape: [width, width],
        group: 'temporal',
        decay: true,
        init: { kind: 'normal', std: 0.02 },
      },
      { name: `${at}.${name}.bias`, shape: [width], group: 'temporal', decay: false, init: ZERO },
    ]),
    { name: `${at}.norm.weight`, shape: [width], group: 'temporal', decay: false, init: { kind: 'fill', value: 1 } },
    { name: `${at}.norm.bias`, shape: [width], group: 'temporal', decay: false, init: ZERO },
  ]
}

// ------------------------------------------------------------------------------------------------------------ counting

/** How many tensors and numbers a group has. */
export interface GroupCount {
  group: ParameterGroup
  tensors: number
  parameters: number
}

/** Tensors and parameters of each group that there is, in a fixed order. */
export function countGroups(parameters: Iterable<Pick<TrainedParameter, 'group' | 'shape'>>): GroupCount[] {
  const counts = GROUPS.map((group) => ({ group, tensors: 0, parameters: 0 }))
  for (const { group, shape } of parameters) {
    const count = counts.find((c) => c.group === group)!
    count.tensors++
    count.parameters += sizeOf(shape)
  }
  return counts.filter((c) => c.tensors > 0)
}

/** The number of all trained parameters. */
export function countTrained(parameters: Iterable<Pick<TrainedParameter, 'group' | 'shape'>>): number {
  return countGroups(parameters).reduce((sum, { parameters: n }) => sum + n, 0)
}
