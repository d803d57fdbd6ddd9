// How each op_* golden is computed: its outputs, and for every gradient the scalar function whose slope it is.
import { type NdArray, array, clone, dot, permute, reshape } from './array.js'
import type { Json } from './config.js'
import * as ops from './ops.js'
import type { Entry } from './safetensors.js'

export interface Gradient {
  key: string
  x: NdArray
  f: (x: Float64Array) => number
}
export interface OpCase {
  outputs: [string, NdArray][]
  gradients: Gradient[]
}

type In = (name: string) => NdArray
type Inputs = { readonly [name: string]: NdArray }

/**
 * One function of named inputs: its value at them, and the slope of <value, dy> in each of `wanted` (input name to
 * golden key).
 */
function differentiable(
  inputs: Inputs,
  f: (inputs: Inputs) => NdArray,
  key: string,
  dy: NdArray,
  wanted: Record<string, string>,
): OpCase {
  return {
    outputs: [[key, f(inputs)]],
    gradients: Object.entries(wanted).map(([name, gradientKey]) => ({
      key: gradientKey,
      x: inputs[name]!,
      f: (x) => dot(f({ ...inputs, [name]: array(inputs[name]!.shape, x) }).data, dy.data),
    })),
  }
}

export function opCase(name: string, config: Json, tensors: ReadonlyMap<string, Entry>): OpCase {
  const get: In = (n) => {
    const found = tensors.get(`in.${n}`)
    if (found === undefined) throw new Error(`${name}: no in.${n}`)
    return found
  }
  const has = (n: string): boolean => tensors.has(`in.${n}`)
  const one = (f: (i: Inputs) => NdArray, names: string[], dy = 'dy', out = 'y'): OpCase =>
    differentiable(
      Object.fromEntries(names.map((n) => [n, get(n)])),
      f,
      out,
      get(dy),
      Object.fromEntries(names.filter((n) => n !== 'W' && n !== 'b').map((n) => [n, `d${n.replace('lora_', '')}`])),
    )

  const kind = name.slice(3).split('_')[0]
  switch (kind) {
    case 'gelu':
      return one((i) => ops.gelu(i['x']!), ['x'])
    case 'swiglu':
      return one((i) => ops.siluMul(i['gate']!, i['up']!), ['gate', 'up'])
    case 'layernorm':
      return one((i) => ops.layerNorm(i['x']!, i['weight']!, i['bias']!, config['eps']), ['x', 'weight', 'bias'])
    case 'rmsnorm':
      return one((i) => ops.rmsNorm(i['x']!, i['weight']!, config['eps']), ['x', 'weight'])
    case 'lora':
      return one(
        (i) => ops.lora(i['x']!, i['W']!, i['b'], i['lora_A']!, i['lora_B']!, config['alpha']),
        ['x', 'W', 'b', 'lora_A', 'lora_B'],
      )
    case 'router':
      return differentiable(
        Object.fromEntries(['x', 'w1', 'b1', 'w2', 'b2'].map((n) => [n, get(n)])),
        (i) => ops.router(i['x']!, { w1: i['w1']!, b1: i['b1']!, w2: i['w2']!, b2: i['b2']! }),
        'alpha',
        get('dalpha'),
        { x: 'dx', w1: 'dw1', b1: 'db1', w2: 'dw2', b2: 'db2' },
      )
    case 'rope':
      return all(
        ['q', 'k'].map((n) =>
          differentiable(
            { x: get(n) },
            (i) => ops.rope(i['x']!, get('positions'), config['theta']),
            n,
            get(`d${n}_out`),
            { x: `d${n}` },
          ),
        ),
      )
    case 'cross':
      return differentiable(
        { logits: get('logits') },
        (i) => array([], [ops.crossEntropy(i['logits']!, get('labels').data)]),
        'loss',
        array([], [1]),
        { logits: 'dlogits' },
      )
    case 'attn':
      return attentionCase(
        config,
        tensors,
        get,
        has,
        (x) => x,
        (x) => x,
      )
    case 'temporal': {
      const { B, T, L, heads, d_h: d } = config as unknown as Record<string, number>
      const inward = (x: NdArray): NdArray =>
        reshape(permute(reshape(x, [B!, T!, L!, heads!, d!]), [0, 2, 3, 1, 4]), [B! * L!, heads!, T!, d!])
      const outward = (x: NdArray): NdArray =>
        reshape(permute(reshape(x, [B!, L!, heads!, T!, d!]), [0, 3, 1, 2, 4]), [B!, T!, L!, heads! * d!])
      return attentionCase(config, tensors, get, has, inward, outward)
    }
    case 'dar':
      return maskCase(config, tensors)
    case 'adamw':
      return adamwCase(config, tensors, get)
    default:
      throw new Error(`operator ${name} is not known here`)
  }
}

const all = (cases: OpCase[]): OpCase => ({
  outputs: cases.flatMap((c) => c.outputs),
  gradients: cases.flatMap((c) => c.gradients),
})

function attentionCase(
  config: Json,
  tensors: ReadonlyMap<string, Entry>,
  get: In,
  has: (n: string) => boolean,
  inward: (x: NdArray) => NdArray,
  outward: (x: NdArray) => NdArray,
): OpCase {
  const modes = (['off', 'score', 'attention'] as const).filter((mode) => tensors.has(`${mode}.out`))
  return all(
    modes.map((mode) => {
      const names = ['q', 'k', 'v', ...(mode === 'off' ? [] : ['alpha'])]
      const f = (i: Inputs): NdArray =>
        outward(
          ops.attention(inward(i['q']!), inward(i['k']!), inward(i['v']!), {
            mode,
            causal: config['causal'] === true,
            masks: has('masks') ? get('masks') : undefined,
            keyMask: has('key_mask') ? get('key_mask') : undefined,
            alpha: i['alpha'] === undefined ? undefined : reshape(i['alpha'], [-1, i['alpha'].shape.at(-1)!]),
          }),
        )
      return differentiable(
        Object.fromEntries(names.map((n) => [n, get(n)])),
        f,
        `${mode}.out`,
        get('dout'),
        Object.fromEntries(names.map((n) => [n, `${mode}.d${n}`])),
      )
    }),
  )
}

/** The case says 'default' and names no windows: they are the ones that most mtrans cases give, not the model's defaults. */
function maskCase(config: Json, tensors: ReadonlyMap<string, Entry>): OpCase {
  const spatial = config['spatial_windows'] ?? [4, 8, 16]
  const temporal = config['temporal_windows'] ?? [1, 2, 4]
  const outputs = [...tensors.keys()].map((key): [string, NdArray] => {
    const [kind, a, b] = key.split('.') as [string, string, string | undefined]
    const n = (part: string): number => Number(part.slice(1))
    return [key, kind === 'spatial' ? ops.windowSpatial(n(a), n(b!), spatial) : ops.windowTemporal(n(a), temporal)]
  })
  return { outputs, gradients: [] }
}

/** Every step of the case; weight decay 0.05 on w and z, 0 on b, lr 1e-2. */
function adamwCase(config: Json, tensors: ReadonlyMap<string, Entry>, get: In): OpCase {
  const names = ['w', 'b', 'z']
  const steps = get('grad.b').shape[0]!
  const states = names.map((n) => ({
    n,
    weight: clone(get(`param.${n}`)),
    moments: ops.moments(get(`param.${n}`).data.length),
    after: [] as number[],
  }))
  const norms: number[] = []
  for (let s = 0; s < steps; s++) {
    const gradients = states.map(({ n, weight: { data } }) =>
      get(`grad.${n}`).data.slice(s * data.length, (s + 1) * data.length),
    )
    if (typeof config['clip'] === 'number') norms.push(ops.clip(gradients, config['clip']))
    states.forEach(({ n, weight, moments, after }, i) => {
      ops.adamw(weight.data, gradients[i]!, moments, {
        lr: 1e-2,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weightDecay: n === 'b' ? 0 : 0.05,
      })
      after.push(...weight.data)
    })
  }
  const outputs = states.flatMap(({ n, weight: { shape }, moments, after }): [string, NdArray][] => [
    [`after.${n}`, array([steps, ...shape], after)],
    [`exp_avg.${n}`, array(shape, moments.average)],
    [`exp_avg_sq.${n}`, array(shape, moments.square)],
  ])
  if (tensors.has('grad_norm')) outputs.push(['grad_norm', array([steps], norms)])
  return { outputs, gradients: [] }
}
