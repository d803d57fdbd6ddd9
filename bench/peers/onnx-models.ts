/** The cases of client.ts as ONNX models: forward, without LoRA. */
import { invalid } from '../../lib/errors.js'
import type { SafetensorsHeader } from '../../lib/files/safetensors.js'
import type { PeerCase } from './client.js'
import { Graph } from './onnx.js'

/** Attention as MatMul and Softmax, or as the operator MultiHeadAttention of com.microsoft. */
export type Attention = 'plain' | 'MHA'

/** The names of a block's weights. */
type Names = Record<'query' | 'key' | 'value' | 'dense' | 'norm', string>

/** Layers over a graph. Values are [rows,n,D]; each function takes rows and n. */
class Layers {
  private readonly heads: number
  private readonly eps: number

  constructor(
    readonly graph: Graph,
    { sizes }: PeerCase,
    private readonly attends: Attention,
  ) {
    this.heads = sizes.heads
    this.eps = sizes.eps ?? 1e-12
  }

  linear(x: string, name: string): string {
    const g = this.graph
    return g.add('Add', [
      g.add('MatMul', [x, g.transpose(g.weight(`${name}.weight`), [1, 0])]),
      g.weight(`${name}.bias`),
    ])
  }

  norm(x: string, name: string): string {
    const g = this.graph
    return g.add('LayerNormalization', [x, g.weight(`${name}.weight`), g.weight(`${name}.bias`)], {
      axis: -1,
      epsilon: { float: this.eps },
    })
  }

  /** q [rows,n,D], k and v [rows,m,D] to [rows,n,D] */
  attention(q: string, k: string, v: string, [rows, n, m, D]: [number, number, number, number]): string {
    const { graph: g, heads } = this
    if (this.attends === 'MHA') return g.add('MultiHeadAttention', [q, k, v], { num_heads: heads }, 'com.microsoft')
    const split = (x: string, n: number, perm: number[]): string =>
      g.transpose(g.reshape(x, [rows, n, heads, D / heads]), perm)
    const scores = g.add('Mul', [
      g.add('MatMul', [split(q, n, [0, 2, 1, 3]), split(k, m, [0, 2, 3, 1])]),
      g.float(1 / Math.sqrt(D / heads)),
    ])
    const mixed = g.add('MatMul', [g.add('Softmax', [scores], { axis: -1 }), split(v, m, [0, 2, 1, 3])])
    return g.reshape(g.transpose(mixed, [0, 2, 1, 3]), [rows, n, D])
  }

  /** LayerNorm(x + dense(attention(x))), x [rows,n,D]; keys and values from source [rows,m,*]. */
  block(x: string, names: Names, [rows, n, D]: [number, number, number], source = x, m = n): string {
    const mixed = this.attention(
      this.linear(x, names.query),
      this.linear(source, names.key),
      this.linear(source, names.value),
      [rows, n, m, D],
    )
    return this.norm(this.graph.add('Add', [x, this.linear(mixed, names.dense)]), names.norm)
  }

  feed(x: string, inner: string, outer: string): string {
    const g = this.graph
    return this.norm(
      g.add('Add', [x, this.linear(g.add('Gelu', [this.linear(x, `${inner}.dense`)]), `${outer}.dense`)]),
      `${outer}.LayerNorm`,
    )
  }

  /** f over T of [B,T,L,D]: it sees [B·L,T,D]. */
  overTime(x: string[], [B, T, L, D]: [number, number, number, number], f: (...x: string[]) => string): string {
    const g = this.graph
    const swapped = x.map((x) => g.reshape(g.transpose(g.reshape(x, [B, T, L, D]), [0, 2, 1, 3]), [B * L, T, D]))
    return g.transpose(g.reshape(f(...swapped), [B, L, T, D]), [0, 2, 1, 3])
  }
}

function core(layers: Layers, { form, sizes: { B, T, L, D } }: PeerCase): void {
  const { graph: g } = layers
  const qkv = ['q', 'k', 'v'].map((name) => g.feed(name))
  const over = (rows: number, n: number): string => {
    const [q, k, v] = qkv.map((x) => g.reshape(x, [rows, n, D])) as [string, string, string]
    return g.reshape(layers.attention(q, k, v, [rows, n, n, D]), [B, T, L, D])
  }
  if (form === 'joint') return g.give('joint', over(B, T * L), [B, T, L, D])
  g.give('space', over(B * T, L), [B, T, L, D])
  g.give(
    'time',
    layers.overTime(qkv, [B, T, L, D], (q, k, v) => layers.attention(q!, k!, v!, [B * L, T, T, D])),
    [B, T, L, D],
  )
}

function block(layers: Layers, { form, sizes: { B, T, L, D } }: PeerCase): void {
  const { graph: g } = layers
  const names: Names = { query: 'query', key: 'key', value: 'value', dense: 'dense', norm: 'norm' }
  const [rows, n] = form === 'joint' ? [B, T * L] : [B * T, L]
  let y = layers.block(g.reshape(g.feed('x'), [rows, n, D]), names, [rows, n, D])
  if (form === 'factorized') y = layers.overTime([y], [B, T, L, D], (x) => layers.block(x!, names, [B * L, T, D]))
  g.give('y', g.reshape(y, [B, T, L, D]), [B, T, L, D])
}

function qformer(
  layers: Layers,
  { form, sizes: { B, T, L, K, D, KV = 0, DV = 0, layers: count = 0 } }: PeerCase,
): void {
  const { graph: g } = layers
  const joint = form === 'joint'
  const [rows, n] = joint ? [B, T * L] : [B * T, L] // the tokens of one attention: the queries of a video, or of a frame
  const names = (at: string): Names => ({
    query: `${at}.attention.query`,
    key: `${at}.attention.key`,
    value: `${at}.attention.value`,
    dense: `${at}.output.dense`,
    norm: `${at}.output.LayerNorm`,
  })
  const part = (x: string, from: number, to: number): string =>
    g.add('Slice', [x, g.ints([from]), g.ints([to]), g.ints([1])])
  let x = g.reshape(g.feed('queries'), [rows, n, D])
  if (K) {
    const copies = g.add('Expand', [g.reshape(g.feed('text'), [B, 1, K, D]), g.ints([B, rows / B, K, D])])
    x = g.add('Concat', [x, g.reshape(copies, [rows, K, D])], { axis: 1 })
  }
  const image = g.reshape(g.feed('image'), [B * T, KV, DV])
  x = layers.norm(x, 'qformer.embeddings.layernorm')
  for (let m = 0; m < count; m++) {
    const at = `qformer.encoder.layer.${m}`
    const own = names(`${at}.attention`)
    x = layers.block(x, own, [rows, n + K, D])
    let q = K ? part(x, 0, n) : x
    if (!joint) q = layers.overTime([q], [B, T, L, D], (q) => layers.block(q!, own, [B * L, T, D]))
    if (m % 2 === 0)
      q = layers.block(g.reshape(q, [B * T, L, D]), names(`${at}.crossattention`), [B * T, L, D], image, KV)
    q = layers.feed(g.reshape(q, [rows, n, D]), `${at}.intermediate_query`, `${at}.output_query`)
    // The last layer's text output is unused.
    x =
      K && m + 1 < count
        ? g.add('Concat', [q, layers.feed(part(x, n, n + K), `${at}.intermediate`, `${at}.output`)], { axis: 1 })
        : q
  }
  g.give('y', g.reshape(x, [B, T, L, D]), [B, T, L, D])
}

function linear({ graph: g }: Layers, { sizes: { B: M, D: N } }: PeerCase): void {
  g.give('y', g.add('MatMul', [g.feed('x'), g.transpose(g.weight('weight'), [1, 0])]), [M, N])
}

const KINDS = { core, block, qformer, linear }

/** The model of a case over the tensors of its file. */
export function graphOf(c: PeerCase, tensors: SafetensorsHeader, attends: Attention): Graph {
  if (c.pass !== 'forward') throw invalid('pass', 'forward', c.pass, 'it has no gradients')
  if (c.dtype !== 'float32') throw invalid('dtype', 'float32', c.dtype, 'its kernels of the CPU know no other')
  if (c.sizes.rank)
    throw invalid('rank', 'none', c.sizes.rank, 'who deploys a model merges LoRA into its weights first')
  const graph = new Graph(tensors)
  KINDS[c.kind](new Layers(graph, c, attends), c)
  return graph
}
