// The Q-Former with everything that is trained (docs/model.md#one-layer), as one function over one batch of videos.
import { type NdArray, array, concat, mean, repeat, reshape, slice, zip } from './array.js'
import {
  type BlockNames,
  type Lora,
  type Tap,
  type Weights,
  attentionBlock,
  bertNames,
  dense,
  norm,
  sum,
  untapped,
  weight,
} from './blocks.js'
import type { AdapterConfig, ModelConfig } from './config.js'
import {
  type AttentionOptions,
  embedding,
  gelu,
  masksOfLayer,
  modalitySpatial,
  router,
  swap,
  unswap,
  windowSpatial,
  windowTemporal,
} from './ops.js'

export interface Adapter {
  config: AdapterConfig
  params: Weights
  /** Mask sets that the caller gives in place of the built-in ones: [L+K, L+K] and [T, T]. */
  masks?: { spatial?: NdArray | undefined; temporal?: NdArray | undefined } | undefined
}

export interface QFormerText {
  ids: NdArray
  mask: NdArray
}

/** Names and shapes of the trained tensors of a configuration, in a fixed order. */
export function trainedShapes(model: ModelConfig, config: AdapterConfig): Map<string, number[]> {
  const { width: d, layers, crossEvery, visionWidth } = model.qformer
  const out = new Map<string, number[]>()
  const low = (prefix: string, valueIn: number): void => {
    for (const [part, from] of [
      ['q', d],
      ['v', valueIn],
    ] as const) {
      out.set(`${prefix}.${part}.lora_A`, [config.rank, from])
      out.set(`${prefix}.${part}.lora_B`, [d, config.rank])
    }
  }
  const route = (prefix: string, p: number): void => {
    if (p === 1 || config.mode === 'off') return
    out.set(`${prefix}.router.w1`, [config.routerHidden, d])
    out.set(`${prefix}.router.b1`, [config.routerHidden])
    out.set(`${prefix}.router.w2`, [p, config.routerHidden])
    out.set(`${prefix}.router.b2`, [p])
  }
  for (let m = 0; m < layers; m++) {
    const p = masksOfLayer(m, layers, config.choices)
    low(`layer.${m}.spatial`, d)
    route(`layer.${m}.spatial`, p)
    if (config.attention === 'factorized') {
      const t = `layer.${m}.temporal`
      if (config.weights === 'reuse') low(t, d)
      else
        for (const part of ['query', 'key', 'value', 'dense', 'LayerNorm']) {
          out.set(`${t}.${part}.weight`, part === 'LayerNorm' ? [d] : [d, d])
          out.set(`${t}.${part}.bias`, [d])
        }
      route(t, p)
      if (config.residual === 'gated') out.set(`${t}.gate`, [1])
    }
    if (m % crossEvery === 0) low(`layer.${m}.cross`, visionWidth)
  }
  out.set('temporal_position', [config.maxFrames, d])
  out.set('spatial_position', [model.queries, d])
  return out
}

/**
 * E_v [B, T, K_V, D_v] -> query tokens [B, T, L, D] after the last layer.
 * Without an adapter it is the image model, frame by frame, and `qformer.hidden.m` [B*T, L+K, D] are its layers.
 */
export function qformer(
  weights: Weights,
  model: ModelConfig,
  ev: NdArray,
  text: QFormerText | undefined,
  adapter: Adapter | undefined,
  tap: Tap = untapped,
): NdArray {
  const {
    queries: l,
    qformer: { width: d, heads, eps, layers, crossEvery },
  } = model
  const [b, t, kv, dv] = ev.shape as [number, number, number, number]
  const config = adapter?.config
  if (config !== undefined && t > config.maxFrames)
    throw new Error(`${t} frames, and positions for ${config.maxFrames}`)
  const fused = text !== undefined && config?.fusion !== false ? text : undefined
  const k = fused?.ids.shape[1] ?? 0
  // A row is what one spatial self-attention sees: one frame with its text, or the whole video with one text (joint).
  const joint = config?.attention === 'joint'
  const copies = joint ? 1 : t
  const rows = b * copies
  const n = joint ? t * l : l
  const s = n + k
  const low = (prefix: string): Lora | undefined =>
    adapter === undefined ? undefined : { params: adapter.params, prefix, alpha: adapter.config.alpha }
  const named = (x: NdArray): NdArray => reshape(x, joint ? [b, s, d] : [b, t, s, d])
  const plain = (x: NdArray): NdArray => reshape(x, [rows, s, d])

  // Embeddings (6)
  let q = repeat(repeat(reshape(weight(weights, 'query_tokens'), [l, d]), 0, t), 0, b) // [B, T, L, D]
  if (adapter !== undefined) {
    const et = repeat(slice(weight(adapter.params, 'temporal_position'), 0, 0, t), 1, l) // [T, L, D]
    const es = repeat(weight(adapter.params, 'spatial_position'), 0, t)
    q = sum(q, repeat(sum(et, es), 0, b))
  }
  let x = reshape(q, [rows, n, d])
  if (fused !== undefined)
    x = concat([x, reshape(repeat(textEmbeddings(weights, fused.ids), 1, copies), [rows, k, d])], 1)
  const embeddingNorm = weights.has('qformer.embeddings.layernorm.weight')
    ? 'qformer.embeddings.layernorm'
    : 'qformer.layernorm'
  x = plain(tap('embeddings', named(norm(weights, embeddingNorm, x, eps))))
  if (adapter === undefined) x = tap('qformer.hidden.0', x)

  const ones = array([rows, n])
  ones.data.fill(1)
  const keyMask = fused === undefined ? undefined : concat([ones, reshape(repeat(fused.mask, 1, copies), [rows, k])], 1)
  const sets = adapter === undefined || config!.mode === 'off' ? undefined : maskSets(adapter, l, k, t)

  for (let m = 0; m < layers; m++) {
    const p = `qformer.encoder.layer.${m}`
    const routed = (kind: 'spatial' | 'temporal', pooled: NdArray, outer: number): AttentionOptions => {
      const choices = config === undefined ? 1 : masksOfLayer(m, layers, config.choices)
      if (sets === undefined || choices === 1) return { mode: 'off' }
      const r = `layer.${m}.${kind}.router`
      const [w1, b1, w2, b2] = ['w1', 'b1', 'w2', 'b2'].map((w) => weight(adapter!.params, `${r}.${w}`)) as [
        NdArray,
        NdArray,
        NdArray,
        NdArray,
      ]
      const alpha = tap(`layer.${m}.${kind}.alpha`, reshape(router(pooled, { w1, b1, w2, b2 }), [b, outer, choices]))
      return { mode: config!.mode, masks: sets[kind], alpha: reshape(alpha, [b * outer, choices]) }
    }

    // Spatial self-attention (7), or the joint one
    const spatial = attentionBlock(weights, bertNames(`${p}.attention`), x, {
      heads,
      eps,
      keyMask,
      lora: low(`layer.${m}.spatial`),
      ...routed('spatial', slice(x, 1, 0, n), t),
    })
    x = plain(tap(`layer.${m}.${joint ? 'joint' : 'spatial'}`, named(spatial)))
    let tokens = reshape(slice(x, 1, 0, n), [b, t, l, d])
    let words = slice(x, 1, n, s)

    // Temporal self-attention (9): the channel swap
    if (config?.attention === 'factorized') {
      const swapped = swap(tokens)
      const fresh = config.weights === 'fresh'
      const block = attentionBlock(
        fresh ? adapter!.params : weights,
        fresh ? freshNames(m) : bertNames(`${p}.attention`),
        swapped,
        {
          heads,
          eps,
          lora: fresh ? undefined : low(`layer.${m}.temporal`),
          ...routed('temporal', swapped, l),
        },
      )
      let moved = unswap(block, b)
      if (config.residual === 'gated') {
        const gate = Math.tanh(weight(adapter!.params, `layer.${m}.temporal.gate`).data[0]!)
        moved = zip(tokens, moved, (before, after) => before + gate * (after - before))
      }
      tokens = tap(`layer.${m}.temporal`, moved)
    }

    // Cross-attention (8): each frame to its own image tokens
    if (m % crossEvery === 0) {
      const crossed = attentionBlock(weights, bertNames(`${p}.crossattention`), reshape(tokens, [b * t, l, d]), {
        heads,
        eps,
        kv: reshape(ev, [b * t, kv, dv]),
        lora: low(`layer.${m}.cross`),
      })
      tokens = tap(`layer.${m}.cross`, reshape(crossed, [b, t, l, d]))
    }

    // Feed-forward
    tokens = feedForward(weights, `${p}.intermediate_query.dense`, `${p}.output_query`, tokens, eps)
    x = reshape(tokens, [rows, n, d])
    if (k > 0) {
      words = feedForward(weights, `${p}.intermediate.dense`, `${p}.output`, words, eps)
      x = concat([x, words], 1)
    }
    x = plain(tap(`layer.${m}.ffn`, named(x)))
    if (adapter === undefined) x = tap(`qformer.hidden.${m + 1}`, x)
  }
  if (adapter === undefined) x = tap('qformer.last_hidden_state', x)
  return reshape(slice(x, 1, 0, n), [b, t, l, d])
}

/** [B, T, L, D] -> [B, L, D], the mean over frames, or [B, T*L, D], row i*L + l. */
export function aggregate(tokens: NdArray, how: 'mean' | 'concat'): NdArray {
  const [b, t, l, d] = tokens.shape as [number, number, number, number]
  return how === 'mean' ? mean(tokens, 1) : reshape(tokens, [b, t * l, d])
}

function textEmbeddings(weights: Weights, ids: NdArray): NdArray {
  const words = weights.get('qformer.embeddings.word_embeddings.weight')
  if (words === undefined) throw new Error('this checkpoint has no text path in its Q-Former: fusion must be false')
  const [b, k] = ids.shape as [number, number]
  const positions = slice(weight(weights, 'qformer.embeddings.position_embeddings.weight'), 0, 0, k)
  return sum(embedding(ids, words), repeat(positions, 0, b))
}

function feedForward(weights: Weights, inner: string, outer: string, x: NdArray, eps: number): NdArray {
  const y = dense(weights, `${outer}.dense`, gelu(dense(weights, inner, x)))
  return norm(weights, `${outer}.LayerNorm`, sum(y, x), eps)
}

function freshNames(m: number): BlockNames {
  const t = `layer.${m}.temporal`
  return { query: `${t}.query`, key: `${t}.key`, value: `${t}.value`, dense: `${t}.dense`, norm: `${t}.LayerNorm` }
}

function maskSets(
  { config, masks }: Adapter,
  queries: number,
  text: number,
  frames: number,
): { spatial: NdArray; temporal: NdArray } {
  const builtIn = (): NdArray =>
    config.spatialMasks === 'modality'
      ? modalitySpatial(queries, text, config.choices)
      : windowSpatial(queries, text, config.spatialWindows, config.choices)
  return {
    spatial: masks?.spatial ?? builtIn(),
    temporal: masks?.temporal ?? windowTemporal(frames, config.temporalWindows, config.choices),
  }
}
