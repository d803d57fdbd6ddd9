/**
 * Each kind of item of shapes.json as operator calls into preallocated memory: one set of inputs, forward and backward.
 */
import { IGNORE } from '../../lib/ops/cross-entropy.js'
import { native } from '../../lib/native.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { attentionSet } from './attention.js'
import type { Inputs, Name } from './inputs.js'
import type { Item } from './record.js'

export interface Pass {
  call: () => void
  /** The outputs that are compared with the peers' results. */
  outputs: Tensor[]
  /** The least operations, and the least bytes between the chip and its memory. */
  flops: number
  bytes: number
}
export interface Passes {
  forward: Pass
  backward?: Pass
}

const handle = (t: Tensor) => t.handle
const inverseRoot = (k: number): number => 1 / Math.sqrt(k)

/** y = x Wᵀ, several matrices one after another, each with an x of its width. */
function linearSet(item: Item, inputs: Inputs): Passes {
  const { m, layers } = item as Item & { m: number; layers: [number, number][] }
  const { linear_forward, linear_backward_input } = native().ops
  const xs = new Map<number, Tensor>()
  const dys = new Map<number, Tensor>()
  const made = (of: Map<number, Tensor>, name: Name, width: number): Tensor =>
    of.get(width) ?? of.set(width, inputs.normal(of.size ? (name === 'x' ? 'up' : 'v') : name, [m, width])).get(width)!
  // Two widths at most: streams have names.
  const parts = layers.map(([n, k], i) => ({
    n,
    k,
    w: inputs.normal((['w', 'w1', 'w2', 'w3', 'w4', 'w5', 'w6'] as const)[i]!, [n, k], inverseRoot(k)),
    x: made(xs, 'x', k),
    y: inputs.output(`y${i}`, [m, n]),
    dx: inputs.output(`dx${i}`, [m, k]),
    dy: () => made(dys, 'dy', n),
  }))
  const backward = item.passes?.includes('backward') ?? true
  const dyOf = parts.map((p) => (backward ? p.dy() : undefined))
  const flops = layers.reduce((s, [n, k]) => s + 2 * m * n * k, 0)
  const bytes = layers.reduce((s, [n, k]) => s + 2 * (n * k + m * n + m * k), 0)
  return {
    forward: {
      call: () => parts.forEach((p) => linear_forward(p.x.handle, p.w.handle, null, null, p.y.handle)),
      outputs: parts.map((p) => p.y),
      flops,
      bytes,
    },
    ...(backward && {
      backward: {
        call: () => parts.forEach((p, i) => linear_backward_input(dyOf[i]!.handle, p.w.handle, null, p.dx.handle)),
        outputs: parts.map((p) => p.dx),
        flops,
        bytes,
      },
    }),
  }
}

interface Low extends Item {
  m: number
  n: number
  k: number
  rank: number
}

/** A frozen layer with a low-rank update: y, and dx, dA, dB. */
function loraPart({ m, n, k, rank }: Low, inputs: Inputs, x: Tensor, w: Name, a: Name, b: Name, dy: Tensor) {
  const { ops } = native()
  const t = {
    w: inputs.normal(w, [n, k], inverseRoot(k)),
    a: inputs.normal(a, [rank, k], inverseRoot(k), 'float32'),
    b: inputs.normal(b, [n, rank], inverseRoot(rank), 'float32'),
    y: inputs.output('y', [m, n]),
    shrunk: inputs.output('shrunk', [m, rank], 'float32'),
    dx: inputs.output('dx', [m, k]),
    da: inputs.output('da', [rank, k], 'float32'),
    db: inputs.output('db', [n, rank], 'float32'),
  }
  return {
    ...t,
    forward: () => ops.lora_forward(x.handle, t.w.handle, null, t.a.handle, t.b.handle, 1, t.y.handle, t.shrunk.handle),
    backward: () =>
      ops.lora_backward(
        dy.handle,
        x.handle,
        t.shrunk.handle,
        t.w.handle,
        t.a.handle,
        t.b.handle,
        1,
        null,
        t.dx.handle,
        t.da.handle,
        t.db.handle,
      ),
  }
}

function loraSet(item: Item, inputs: Inputs): Passes {
  const low = item as Low
  const { m, n, k, rank } = low
  const p = loraPart(low, inputs, inputs.normal('x', [m, k]), 'w', 'a', 'b', inputs.normal('dy', [m, n]))
  const thin = 2 * m * rank * (n + k)
  return {
    forward: {
      call: p.forward,
      outputs: [p.y],
      flops: 2 * m * n * k + thin,
      bytes: 2 * (n * k + m * n + m * k) + 4 * rank * (n + k),
    },
    backward: {
      call: p.backward,
      outputs: [p.dx, p.da, p.db],
      flops: 2 * m * n * k + 2 * thin,
      bytes: 2 * (n * k + m * n + 2 * m * k) + 8 * rank * (n + k),
    },
  }
}

/** Query and value with LoRA, key without, of one x. The gradients of x are added up. */
function qkvSet(item: Item, inputs: Inputs): Passes {
  const low = item as Low
  const { m, n, k, rank } = low
  const { ops } = native()
  const x = inputs.normal('x', [m, k])
  const dys = (['q', 'k', 'v'] as const).map((name) => inputs.normal(name, [m, n])) as [Tensor, Tensor, Tensor]
  const q = loraPart(low, inputs, x, 'w', 'a', 'b', dys[0])
  const v = loraPart(low, inputs, x, 'w2', 'a2', 'b2', dys[2])
  const w = inputs.normal('w1', [n, k], inverseRoot(k))
  const [y, dk, sum, dx] = [
    inputs.output('yk', [m, n]),
    inputs.output('dk', [m, k]),
    inputs.output('sum', [m, k]),
    inputs.output('dx', [m, k]),
  ]
  const thin = 4 * m * rank * (n + k)
  return {
    forward: {
      call: () => {
        q.forward()
        ops.linear_forward(x.handle, w.handle, null, null, y.handle)
        v.forward()
      },
      outputs: [q.y, y, v.y],
      flops: 6 * m * n * k + thin,
      bytes: 2 * (3 * n * k + 3 * m * n + m * k),
    },
    backward: {
      call: () => {
        q.backward()
        ops.linear_backward_input(dys[1].handle, w.handle, null, dk.handle)
        v.backward()
        ops.add(q.dx.handle, dk.handle, 1, sum.handle)
        ops.add(sum.handle, v.dx.handle, 1, dx.handle)
      },
      outputs: [dx, q.da, q.db, v.da, v.db],
      flops: 6 * m * n * k + 2 * thin,
      bytes: 2 * (3 * n * k + 3 * m * n + 2 * m * k),
    },
  }
}

/**
 * One block of the image tower, forward: norms, packed QKV, attention, projection, MLP; GELU and residuals are fused
 * into products.
 */
function vitSet(item: Item, inputs: Inputs): Passes {
  const { frames, tokens, heads, d, mlp } = item as Item & {
    frames: number
    tokens: number
    heads: number
    d: number
    mlp: number
  }
  const { ops } = native()
  const [rows, D] = [frames * tokens, heads * d]
  const [one, zero] = [
    inputs.given('one', new Float32Array(D).fill(1), [D], 'float32'),
    inputs.given('zero', new Float32Array(D), [D], 'float32'),
  ]
  const wide = inputs.given('wide', new Float32Array(Math.max(mlp, 3 * D)), [Math.max(mlp, 3 * D)], 'float32')
  const bias = (n: number): Tensor => wide.view([n])
  const w = {
    qkv: inputs.normal('w', [3 * D, D], inverseRoot(D)),
    out: inputs.normal('w1', [D, D], inverseRoot(D)),
    up: inputs.normal('w2', [mlp, D], inverseRoot(D)),
    down: inputs.normal('w3', [D, mlp], inverseRoot(mlp)),
  }
  const x = inputs.normal('x', [rows, D])
  const room = (name: string, width: number): Tensor => inputs.output(name, [rows, width])
  const t = {
    n1: room('n1', D),
    qkv: room('qkv', 3 * D),
    mixed: room('mixed', D),
    mid: room('mid', D),
    n2: room('n2', D),
    act: room('act', mlp),
    y: room('y', D),
  }
  const [mean, rstd] = [inputs.output('mean', [rows], 'float32'), inputs.output('rstd', [rows], 'float32')]
  const lse = inputs.output('lse', [frames, 1, heads, tokens, 1], 'float32')
  const seen = (t: Tensor, width: number, at = 0): Tensor =>
    t.view([frames, 1, tokens, heads, d], [tokens * width, 0, width, d, 1], at)
  const [q, k, v, mixed] = [seen(t.qkv, 3 * D), seen(t.qkv, 3 * D, D), seen(t.qkv, 3 * D, 2 * D), seen(t.mixed, D)]
  const biases = { qkv: bias(3 * D), mlp: bias(mlp) }
  const matrices = 4 * D * D + 2 * D * mlp
  return {
    forward: {
      call: () => {
        ops.layernorm_forward(x.handle, one.handle, zero.handle, 1e-6, t.n1.handle, null, mean.handle, rstd.handle)
        ops.linear_forward(t.n1.handle, w.qkv.handle, biases.qkv.handle, null, t.qkv.handle)
        ops.attention_forward(
          q.handle,
          k.handle,
          v.handle,
          null,
          null,
          null,
          null,
          0,
          false,
          1 / Math.sqrt(d),
          mixed.handle,
          lse.handle,
        )
        ops.linear_forward(t.mixed.handle, w.out.handle, zero.handle, x.handle, t.mid.handle)
        ops.layernorm_forward(t.mid.handle, one.handle, zero.handle, 1e-6, t.n2.handle, null, mean.handle, rstd.handle)
        ops.linear_gelu_forward(t.n2.handle, w.up.handle, biases.mlp.handle, null, t.act.handle)
        ops.linear_forward(t.act.handle, w.down.handle, zero.handle, t.mid.handle, t.y.handle)
      },
      outputs: [t.y],
      flops: 2 * rows * matrices + 4 * frames * heads * tokens * tokens * d,
      bytes: 2 * (matrices + 2 * rows * D),
    },
  }
}

interface Rows extends Item {
  rows: number
  width: number
}

function normSet(item: Item, inputs: Inputs): Passes {
  const { rows, width, kind } = item as Rows
  const { ops } = native()
  const [x, dy, w, bias] = [
    inputs.normal('x', [rows, width]),
    inputs.normal('dy', [rows, width]),
    inputs.normal('w', [width], 1, 'float32'),
    inputs.normal('bias', [width], 1, 'float32'),
  ]
  const [y, dx, dw, db] = [
    inputs.output('y', [rows, width]),
    inputs.output('dx', [rows, width]),
    inputs.output('dw', [width], 'float32'),
    inputs.output('db', [width], 'float32'),
  ]
  const [mean, rstd] = [inputs.output('mean', [rows], 'float32'), inputs.output('rstd', [rows], 'float32')]
  const layer = kind === 'layernorm'
  return {
    forward: {
      call: () =>
        layer
          ? ops.layernorm_forward(x.handle, w.handle, bias.handle, 1e-6, y.handle, null, mean.handle, rstd.handle)
          : ops.rmsnorm_forward(x.handle, w.handle, 1e-6, y.handle, rstd.handle),
      outputs: [y],
      flops: 0,
      bytes: 4 * rows * width,
    },
    // The frozen norms of the model: no gradient but dx.
    backward: {
      call: () =>
        layer
          ? ops.layernorm_backward(
              dy.handle,
              null,
              x.handle,
              w.handle,
              mean.handle,
              rstd.handle,
              null,
              dx.handle,
              dw.handle,
              db.handle,
            )
          : ops.rmsnorm_backward(dy.handle, x.handle, w.handle, rstd.handle, null, dx.handle, null),
      outputs: [dx],
      flops: 0,
      bytes: 6 * rows * width,
    },
  }
}

function activationSet(item: Item, inputs: Inputs): Passes {
  const { rows, width, kind } = item as Rows
  const { ops } = native()
  const [x, dy, y, dx] = [
    inputs.normal('x', [rows, width]),
    inputs.normal('dy', [rows, width]),
    inputs.output('y', [rows, width]),
    inputs.output('dx', [rows, width]),
  ]
  if (kind === 'gelu')
    return {
      forward: { call: () => ops.gelu_forward(x.handle, y.handle), outputs: [y], flops: 0, bytes: 4 * rows * width },
      backward: {
        call: () => ops.gelu_backward(dy.handle, x.handle, dx.handle),
        outputs: [dx],
        flops: 0,
        bytes: 6 * rows * width,
      },
    }
  const [up, dup] = [inputs.normal('up', [rows, width]), inputs.output('dup', [rows, width])]
  return {
    forward: {
      call: () => ops.silu_mul_forward(x.handle, up.handle, y.handle),
      outputs: [y],
      flops: 0,
      bytes: 6 * rows * width,
    },
    backward: {
      call: () => ops.silu_mul_backward(dy.handle, x.handle, up.handle, dx.handle, dup.handle),
      outputs: [dx, dup],
      flops: 0,
      bytes: 10 * rows * width,
    },
  }
}

function lossSet(item: Item, inputs: Inputs): Passes {
  const { rows, width } = item as Rows
  const { ops } = native()
  const logits = inputs.normal('x', [rows, width])
  const labels = inputs.given(
    'labels',
    Int32Array.from({ length: rows }, (_, i) => (i * 7919) % width),
    [rows],
    'int32',
  )
  const one = inputs.given('one', Float32Array.of(1), [], 'float32')
  const [loss, lse, d] = [
    inputs.output('loss', [], 'float32'),
    inputs.output('lse', [rows], 'float32'),
    inputs.output('dlogits', [rows, width]),
  ]
  return {
    forward: {
      call: () => ops.cross_entropy_forward(logits.handle, labels.handle, IGNORE, 1 / rows, loss.handle, lse.handle),
      outputs: [loss],
      flops: 0,
      bytes: 2 * rows * width,
    },
    backward: {
      call: () =>
        ops.cross_entropy_backward(one.handle, logits.handle, labels.handle, lse.handle, IGNORE, 1 / rows, d.handle),
      outputs: [d],
      flops: 0,
      bytes: 4 * rows * width,
    },
  }
}

function adamwSet(item: Item, inputs: Inputs): Passes {
  const n = item.n as number
  const [w, g] = [inputs.normal('w', [n], 1, 'float32'), inputs.normal('x', [n], 1, 'float32')]
  const [m, v] = [
    inputs.given('m', new Float32Array(n), [n], 'float32'),
    inputs.given('v2', new Float32Array(n), [n], 'float32'),
  ]
  return {
    forward: {
      call: () => native().ops.adamw(handle(w), handle(g), handle(m), handle(v), null, 1e-4, 0.9, 0.95, 1e-8, 0.05, 1),
      outputs: [],
      flops: 0,
      bytes: 28 * n,
    },
  }
}

/** The copy that strided attention avoids. */
function swapSet(item: Item, inputs: Inputs): Passes {
  const shape = item.shape as [number, number, number, number]
  const [x, y] = [inputs.normal('x', shape), inputs.output('y', [shape[0], shape[2], shape[1], shape[3]])]
  return { forward: { call: () => native().ops.swap(x.handle, y.handle), outputs: [y], flops: 0, bytes: 4 * x.size } }
}

const kinds: Record<string, (item: Item, inputs: Inputs) => Passes> = {
  attention: attentionSet,
  linear: linearSet,
  lora: loraSet,
  qkv: qkvSet,
  vit: vitSet,
  layernorm: normSet,
  rmsnorm: normSet,
  gelu: activationSet,
  silu_mul: activationSet,
  cross_entropy: lossSet,
  adamw: adamwSet,
  swap: swapSet,
}

/** Kinds whose products cuBLASLt may compute. */
export const products: readonly string[] = ['linear', 'lora', 'qkv', 'vit']

export function build(item: Item, inputs: Inputs): Passes {
  const make = kinds[item.kind]
  if (!make) throw new Error(`shapes.json: ${item.kind} is no kind of item`)
  return make(item, inputs)
}
