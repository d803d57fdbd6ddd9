/** The adapter: its trained tensors, and what they do in each layer of the image model. */
import { invalid } from '../errors.js'
import type { ModelConfig } from '../models/image-model.js'
import type { VideoAdapter } from '../models/image-model.js'
import type { LayerAdapter } from '../models/qformer.js'
import type { AttentionWeights, Routing } from '../nn/attention.js'
import type { LoRA } from '../nn/layers.js'
import { full } from '../ops/copy.js'
import { Random } from '../ops/random.js'
import { write } from '../ops/copy.js'
import { keep, scope } from '../tensor/scope.js'
import type { Device } from '../tensor/device.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { checkAdapterConfig, masksPerLayer, type AdapterConfig, type CheckedAdapterConfig } from './config.js'
import { customMasks, modalityMasks, spatialWindows, temporalWindows, type MaskSet, isBuiltIn } from './masks.js'
import { trainedParameters, type Init, type TrainedParameter } from './parameters.js'

/**
 * Mask sets given by the caller in place of the built-in ones; `spatial` may be larger than a batch needs and is cut.
 */
export interface GivenMasks {
  spatial?: MaskSet | undefined
  temporal?: MaskSet | undefined
}

/**
 * Everything that is trained around a frozen image model: LoRA, routers, positions and gates
 * (docs/model.md#trained-parameters). Freed by {@link dispose}.
 */
export class Adapter implements VideoAdapter {
  readonly config: CheckedAdapterConfig
  /** What is trained, by name, in the order of {@link trainedParameters}. */
  readonly parameters: ReadonlyMap<string, Tensor>
  readonly #masks = new Map<string, Tensor>()
  readonly #choices: number[]

  /**
   * @param options `values`: initial values by name, which the adapter then owns; missing ones are drawn from `seed`,
   *   the same on every device. `device`: the device of the model
   * @throws InputError where the configuration does not fit the model
   */
  constructor(
    readonly model: ModelConfig,
    config: AdapterConfig,
    {
      seed = 0,
      values,
      masks = {},
      device = 'cpu',
    }: { seed?: number; values?: ReadonlyMap<string, Tensor> | undefined; masks?: GivenMasks; device?: Device } = {},
  ) {
    this.config = checkAdapterConfig(config, model)
    this.given = masks
    this.device = device
    this.#choices = this.config.dar.mode === 'off' ? [] : masksPerLayer(model.qformer.layers, this.config.dar.choices)
    const random = new Random(seed)
    this.parameters = new Map(
      this.trained().map((p) => {
        const value = scope(() => (values?.get(p.name) ?? initial(p, random)).to(device))
        if (`${value.shape}` !== `${p.shape}`) throw invalid(p.name, `shape [${p.shape}]`, `[${value.shape}]`)
        return [p.name, keep(value).requireGrad(p.name)]
      }),
    )
  }
  /** The device of its tensors: that of the model. */
  readonly device: Device
  /** Mask sets of the caller's own. */
  readonly given: GivenMasks

  /** Names, shapes, groups and decay of the trained tensors. */
  trained(): TrainedParameter[] {
    return trainedParameters(this.model, this.config)
  }
  /** Whether the text goes into the Q-Former (early fusion). */
  get fusion(): boolean {
    return this.config.fusion
  }
  /** How the frames' query tokens become visual tokens. */
  get aggregate(): 'mean' | 'concat' {
    return this.config.aggregate
  }
  /** Whether all frames of a video share one spatial attention: the s²f² baseline. */
  get joint(): boolean {
    return this.config.temporal.attention === 'joint'
  }
  /** Added to the queries: e_t [maxFrames,D] per frame, e_s [L,D] per query (6). */
  get positions(): { frame: Tensor; query: Tensor } {
    return { frame: this.#get('temporal_position'), query: this.#get('spatial_position') }
  }

  /** What the adapter adds to each layer of the Q-Former, for T frames and K text tokens: LoRA, routing, gates. */
  layers(frames: number, textTokens: number): LayerAdapter[] {
    const { temporal, dar, lora } = this.config
    const L = this.model.numQueryTokens
    const low = (at: string): { q: LoRA; v: LoRA } => {
      const of = (part: string): LoRA => ({
        A: this.#get(`${at}.${part}.lora_A`),
        B: this.#get(`${at}.${part}.lora_B`),
        scaling: lora.alpha / lora.r,
      })
      return { q: of('q'), v: of('v') }
    }
    const routing = (at: string, masks: () => Tensor): Routing | undefined =>
      this.parameters.has(`${at}.router.w1`) && dar.mode !== 'off'
        ? {
            mode: dar.mode,
            masks: masks(),
            router: {
              w1: this.#get(`${at}.router.w1`),
              b1: this.#get(`${at}.router.b1`),
              w2: this.#get(`${at}.router.w2`),
              b2: this.#get(`${at}.router.b2`),
            },
          }
        : undefined
    return Array.from({ length: this.model.qformer.layers }, (_, m): LayerAdapter => {
      const at = `layer.${m}`
      const spatial = routing(`${at}.spatial`, () => this.#mask('spatial', L, textTokens))
      return {
        spatial: { lora: low(`${at}.spatial`), ...(spatial && { routing: spatial }) },
        ...(temporal.attention === 'factorized' && {
          temporal: {
            lora: temporal.weights === 'reuse' ? low(`${at}.temporal`) : undefined,
            weights: temporal.weights === 'fresh' ? this.#fresh(`${at}.temporal`) : undefined,
            routing: routing(`${at}.temporal`, () => this.#mask('temporal', frames, 0)),
            gate: temporal.residual === 'gated' ? this.#get(`${at}.temporal.gate`) : undefined,
          },
        }),
        ...(m % this.model.qformer.crossFrequency === 0 && { cross: { lora: low(`${at}.cross`) } }),
      }
    })
  }

  /** Frees the trained tensors, their gradients and the mask sets. */
  dispose(): void {
    for (const t of [...this.parameters.values(), ...this.#masks.values()]) {
      t.grad?.dispose()
      t.dispose()
    }
  }

  #get(name: string): Tensor {
    const t = this.parameters.get(name)
    if (!t) throw invalid('adapter', `a parameter named ${name}`, 'an adapter without it')
    return t
  }

  #fresh(at: string): AttentionWeights {
    const linear = (name: string) => ({
      weight: this.#get(`${at}.${name}.weight`),
      bias: this.#get(`${at}.${name}.bias`),
    })
    return {
      query: linear('query'),
      key: linear('key'),
      value: linear('value'),
      dense: linear('dense'),
      norm: { weight: this.#get(`${at}.norm.weight`), bias: this.#get(`${at}.norm.bias`), eps: this.model.qformer.eps },
      heads: this.model.qformer.heads,
    }
  }

  /** The mask set for a number of tokens, cached. */
  #mask(kind: 'spatial' | 'temporal', first: number, text: number): Tensor {
    const key = `${kind} ${first} ${text}`
    let t = this.#masks.get(key)
    if (!t) {
      const { size, bits } = this.#build(kind, first, text)
      t = keep(tensor(bits, [size, size], 'uint8', this.device))
      this.#masks.set(key, t)
    }
    return t
  }

  #build(kind: 'spatial' | 'temporal', first: number, text: number): MaskSet {
    const { dar } = this.config
    const given = this.given[kind]
    const most = Math.max(...this.#choices)
    if (given) return customMasks(`dar.${kind}Masks`, cut(kind, given, first + text), first + text, most)
    if (!isBuiltIn(dar[`${kind}Masks`]))
      throw invalid(`dar.${kind}Masks`, 'a mask set read from that file', dar[`${kind}Masks`], 'readMasks() reads it')
    if (kind === 'temporal') return temporalWindows(first, dar.temporalWindows, dar.choices)
    return dar.spatialMasks === 'modality'
      ? modalityMasks(first, text, dar.choices)
      : spatialWindows(first, text, dar.spatialWindows, dar.choices)
  }
}

/** The part of a larger mask set that belongs to the first `size` tokens. */
function cut(kind: string, given: MaskSet, size: number): Uint8Array {
  if (given.size < size)
    throw invalid(
      `dar.${kind}Masks`,
      `a mask set for at least ${size} tokens`,
      given.size,
      'give a larger set, or lower frames or text.maxTokens',
    )
  const bits = new Uint8Array(size * size)
  for (let i = 0; i < size; i++) bits.set(given.bits.subarray(i * given.size, i * given.size + size), i * size)
  return bits
}

function initial({ shape, init }: { shape: number[]; init: Init }, random: Random): Tensor {
  switch (init.kind) {
    case 'fill':
      return full(shape, init.value)
    case 'normal':
      return random.normal(shape, 0, init.std)
    case 'xavier': {
      const limit = Math.sqrt(6 / (shape[0]! + shape[1]!))
      return random.uniform(shape, -limit, limit)
    }
    case 'first': {
      const t = full(shape, 0)
      write(t.view([1]), full([1], init.value))
      return t
    }
  }
}
