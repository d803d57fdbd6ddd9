// What the peers should give: the cases of bench/peers in float64, gradients by central differences.
import type { PeerCase } from '../../bench/peers/client.js'
import { type NdArray, add, array, reshape } from '../oracle/array.js'
import { type Lora, type Weights, attentionBlock } from '../oracle/blocks.js'
import { adapterConfig } from '../oracle/config.js'
import { gradient } from '../oracle/differences.js'
import { attention, joinHeads, linear, splitHeads, swap, unswap } from '../oracle/ops.js'
import { qformer } from '../oracle/qformer.js'
import { type Tensors, draw } from './peer-cases.js'

type Case = Omit<PeerCase, 'tensors'>

const BLOCK = { query: 'query', key: 'key', value: 'value', dense: 'dense', norm: 'norm' }

/** Names of LoRA as the oracle has them. */
function loras(tensors: Weights): Weights {
  const renamed = [...tensors]
    .filter(([name]) => name.startsWith('lora.'))
    .map(
      ([name, t]) =>
        [
          name
            .replace(/^lora\./, '')
            .replace(/([AB])$/, 'lora_$1')
            .replace(/\.space\./, '.spatial.')
            .replace(/\.time\./, '.temporal.'),
          t,
        ] as const,
    )
  return new Map(renamed)
}

function core({ form, sizes: { B, T, L, D, heads } }: Case, t: Weights): Record<string, NdArray> {
  const over = (view: (x: NdArray) => NdArray): NdArray => {
    const [q, k, v] = ['q', 'k', 'v'].map((name) => splitHeads(view(t.get(name)!), heads)) as [
      NdArray,
      NdArray,
      NdArray,
    ]
    return joinHeads(attention(q, k, v))
  }
  if (form === 'joint')
    return {
      joint: reshape(
        over((x) => reshape(x, [B, T * L, D])),
        [B, T, L, D],
      ),
    }
  return {
    space: reshape(
      over((x) => reshape(x, [B * T, L, D])),
      [B, T, L, D],
    ),
    time: unswap(over(swap), B),
  }
}

function block(
  { form, sizes: { B, T, L, D, heads, rank, scaling = 1, eps = 1e-12 } }: Case,
  t: Weights,
): Record<string, NdArray> {
  const params = new Map([...t].map(([name, value]) => [name.replace(/([AB])$/, 'lora_$1'), value]))
  const one = (x: NdArray, prefix: string): NdArray => {
    const lora: Lora | undefined = rank ? { params, prefix, alpha: scaling * rank } : undefined
    return attentionBlock(t, BLOCK, x, { heads, eps, lora })
  }
  const x = t.get('x')!
  if (form === 'joint') return { y: reshape(one(reshape(x, [B, T * L, D]), 'lora.space'), [B, T, L, D]) }
  const space = reshape(one(reshape(x, [B * T, L, D]), 'lora.space'), [B, T, L, D])
  return { y: unswap(one(swap(space), 'lora.time'), B) }
}

/** By the oracle's Q-Former itself, whose queries and words `withEmbeddings` makes. */
function former(
  { form, sizes: { B, T, L, K, D, heads, DV = 0, layers = 0, rank = 0, scaling = 1, eps = 1e-12 } }: Case,
  t: Weights,
): Record<string, NdArray> {
  const ids = array(
    [B, K],
    Array.from({ length: B * K }, (_, i) => i),
  )
  const mask = array(
    [B, K],
    Array.from({ length: B * K }, () => 1),
  )
  const config = {
    ...adapterConfig({}),
    attention: form,
    mode: 'off' as const,
    rank: rank || 1,
    alpha: scaling * (rank || 1),
    maxFrames: T,
  }
  const zero = (n: number): NdArray => array([n, D])
  const model = {
    queries: L,
    vision: undefined!,
    language: undefined!,
    qformer: { width: D, layers, heads, eps, crossEvery: 2, visionWidth: DV, text: K > 0 },
  }
  const words = reshape(t.get('text') ?? zero(1), [-1, D])
  const weights = new Map([
    ...t,
    ['qformer.embeddings.word_embeddings.weight', words],
    ['qformer.embeddings.position_embeddings.weight', zero(Math.max(1, K))],
  ])
  const low = new Map(rank ? loras(t) : [])
  if (!rank)
    for (let m = 0; m < layers; m++)
      for (const kind of ['spatial', 'temporal', 'cross'])
        for (const part of ['q', 'v']) {
          low.set(`layer.${m}.${kind}.${part}.lora_A`, array([1, kind === 'cross' && part === 'v' ? DV : D]))
          low.set(`layer.${m}.${kind}.${part}.lora_B`, array([D, 1]))
        }
  const params = new Map([
    ...low,
    ['temporal_position', t.get('temporal_position')!],
    ['spatial_position', t.get('spatial_position')!],
  ])
  return { y: qformer(weights, model, t.get('image')!, K ? { ids, mask } : undefined, { config, params }) }
}

const KINDS = {
  core,
  block,
  qformer: former,
  linear: (_: Case, t: Weights) => ({ y: linear(t.get('x')!, t.get('weight')!) }),
}

/** Inputs of the oracle's Q-Former that the peers do not get: their `queries` are its tokens and positions, summed. */
export function withEmbeddings(c: Case, tensors: Tensors): Tensors {
  if (c.kind !== 'qformer') return {}
  const { B, T, L, D } = c.sizes
  const own = draw(
    [
      ['query_tokens', [1, L, D]],
      ['temporal_position', [T, D]],
      ['spatial_position', [L, D]],
    ],
    7,
  )
  const [tokens, time, space] = [own.query_tokens!.data, own.temporal_position!.data, own.spatial_position!.data]
  const at = (i: number): number =>
    tokens[i % (L * D)]! + time[(Math.floor(i / (L * D)) % T) * D + (i % D)]! + space[i % (L * D)]!
  tensors.queries!.data.set(Float32Array.from({ length: B * T * L * D }, (_, i) => at(i)))
  return own
}

/** Every output that a peer must give. */
export function reference(c: Case, tensors: Tensors): Record<string, Float64Array> {
  const t = new Map(Object.entries(tensors).map(([name, { shape, data }]) => [name, array(shape, data)]))
  const outputs = KINDS[c.kind](c, t)
  const forward = Object.fromEntries(Object.entries(outputs).map(([name, { data }]) => [name, data]))
  if (c.pass === 'forward') return forward
  const names =
    c.kind === 'core'
      ? ['q', 'k', 'v']
      : [...(c.kind === 'block' ? ['x'] : []), ...Object.keys(tensors).filter((name) => name.startsWith('lora.'))]
  const gradients = names.map((name) => {
    const { shape, data } = t.get(name)!
    const loss = (values: Float64Array): number => {
      const parts = Object.values(KINDS[c.kind](c, new Map(t).set(name, { shape, data: values }))) as NdArray[]
      return parts.reduce(add).data.reduce((sum, y, i) => sum + y * t.get('dy')!.data[i]!, 0)
    }
    return [name.startsWith('lora.') ? `d.${name}` : `d${name}`, gradient(loss, data)] as const
  })
  return { ...(c.kind === 'core' ? {} : forward), ...Object.fromEntries(gradients) }
}
