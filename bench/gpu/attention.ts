/** Attention as an item of the benchmark: packed or separate, in space or in time, routed or plain. */
import { spatialWindows, temporalWindows } from '../../lib/adapter/masks.js'
import { native } from '../../lib/native.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import type { Inputs } from './inputs.js'
import type { Passes } from './operators.js'
import type { Item } from './record.js'

interface Attention extends Item {
  b0: number
  b1: number
  n: number
  text: number
  heads: number
  d: number
  over: 'space' | 'time'
  mode: 'off' | 'score' | 'attention'
  choices?: number
  keys?: number
  causal?: boolean
  gradients?: string
}
const modes = { off: 0, score: 1, attention: 2 }
const windows = { space: [16, 8, 4], time: [2, 1, 0] }

/** Every fourth clip has all of its text, the others an eighth less each. */
export const isToken = (clip: number, key: number, n: number, text: number): boolean =>
  key < n - (clip % 4) * Math.floor(text / 8)

export function attentionSet(item: Item, inputs: Inputs): Passes {
  const {
    b0,
    b1,
    n,
    text,
    heads,
    d,
    over,
    mode,
    causal = false,
    choices = 1,
    gradients = 'qkv',
    ...rest
  } = item as Attention
  const [D, keys, ops] = [heads * d, rest.keys ?? n, native().ops]
  /** Rows of width w, seen as [b0,b1,n,heads,d] from `at` on. In time the frames stand before the tokens. */
  const seen = (t: Tensor, rows: number, w: number, at = 0): Tensor =>
    t.view(
      [b0, b1, rows, heads, d],
      over === 'space' ? [b1 * rows * w, rows * w, w, d, 1] : [rows * b1 * w, w, b1 * w, d, 1],
      at,
    )
  const packed = rest.keys === undefined
  const shape = over === 'space' ? [b0, b1, n] : [b0, n, b1]
  const three = packed ? inputs.normal('x', [...shape, 3 * D]) : undefined
  const dthree = packed ? inputs.output('dx', [...shape, 3 * D]) : undefined
  const separate = (name: 'q' | 'k' | 'v', rows: number): Tensor =>
    seen(inputs.normal(name, [b0, b1, rows, D]), rows, D)
  const [q, k, v] = three
    ? ([0, 1, 2].map((i) => seen(three, n, 3 * D, i * D)) as [Tensor, Tensor, Tensor])
    : [separate('q', n), separate('k', keys), separate('v', keys)]
  const into = (i: number, name: 'q' | 'k' | 'v', rows: number): Tensor | null =>
    !gradients.includes(name)
      ? null
      : dthree
        ? seen(dthree, n, 3 * D, i * D)
        : seen(inputs.output(`d${name}`, [b0, b1, rows, D]), rows, D)
  const [dq, dk, dv] = [into(0, 'q', n), into(1, 'k', keys), into(2, 'v', keys)]
  const [y, dy] = [inputs.output('y', [...shape, D]), inputs.normal('dy', [...shape, D])]
  const [ySeen, dySeen] = [seen(y, n, D), seen(dy, n, D)]

  const routed = mode !== 'off'
  const alpha = routed ? inputs.uniform('alpha', [b0, b1, choices], 0.1, 1) : null
  const dalpha = routed ? inputs.output('dalpha', [b0, b1, choices], 'float32') : null
  const set = routed
    ? over === 'space'
      ? spatialWindows(n - text, text, windows.space, choices)
      : temporalWindows(n, windows.time, choices)
    : undefined
  const masks = set ? inputs.given('masks', set.bits, [n, n], 'uint8') : null
  const tokens = text
    ? inputs.given(
        'tokens',
        Uint8Array.from({ length: b0 * b1 * n }, (_, i) => Number(isToken(Math.floor(i / (b1 * n)), i % n, n, text))),
        [b0, b1, n],
        'uint8',
      )
    : null
  const lse = inputs.output('lse', [b0, b1, heads, n, mode === 'attention' ? choices : 1], 'float32')

  const h = (t: Tensor | null) => t?.handle ?? null
  const pairs = b0 * b1 * heads * n * keys * d
  const half = causal ? 0.5 : 1
  const moved = (q: number, k: number): number => 2 * b0 * b1 * D * (q * n + k * keys)
  return {
    forward: {
      call: () =>
        ops.attention_forward(
          q.handle,
          k.handle,
          v.handle,
          h(tokens),
          h(masks),
          h(alpha),
          null,
          modes[mode],
          causal,
          1 / Math.sqrt(d),
          ySeen.handle,
          lse.handle,
        ),
      outputs: [y],
      flops: 4 * half * pairs,
      bytes: moved(2, 2),
    },
    backward: {
      call: () =>
        ops.attention_backward(
          dySeen.handle,
          q.handle,
          k.handle,
          v.handle,
          h(tokens),
          h(masks),
          h(alpha),
          null,
          modes[mode],
          causal,
          1 / Math.sqrt(d),
          lse.handle,
          h(dq),
          h(dk),
          h(dv),
          h(dalpha),
        ),
      outputs: dthree ? [dthree] : [dq, dv].filter((t) => t !== null),
      flops: (dk ? 10 : 8) * half * pairs,
      bytes: moved(3, dk ? 4 : 3),
    },
  }
}
