/** Golden cases of kind op: recognised by the tensors they hold. */
import { masksPerLayer } from '../adapter/config.js'
import { spatialWindows, temporalWindows } from '../adapter/masks.js'
import { adamw, addSquareSum } from '../ops/adamw.js'
import { attention } from '../ops/attention.js'
import { full, zeros } from '../ops/copy.js'
import { crossEntropy, IGNORE } from '../ops/cross-entropy.js'
import { gelu } from '../ops/elementwise.js'
import { layerNorm } from '../ops/layernorm.js'
import { lora } from '../ops/lora.js'
import { rmsNorm } from '../ops/rmsnorm.js'
import { rope } from '../ops/rope.js'
import { router } from '../ops/router.js'
import { siluMul } from '../ops/silu-mul.js'
import { permute, reshape } from '../ops/views.js'
import { backward } from '../tensor/tape.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { clipScale } from '../train/optimizer.js'
import { relativeError, type GoldenCase, type Score } from './golden.js'

/** Differentiable inputs by name. */
type Inputs = Record<string, Tensor>

function leaves(c: GoldenCase, names: string[]): Inputs {
  return Object.fromEntries(names.filter((n) => c.has(`in.${n}`)).map((n) => [n, c.tensor(`in.${n}`).requireGrad(n)]))
}

/**
 * Compares an output and the gradients that flow from dy back to `inputs`; `named` gives the file's name of each
 * gradient.
 */
async function check(
  c: GoldenCase,
  score: Score,
  out: string,
  y: Tensor,
  dy: Tensor | undefined,
  inputs: Inputs,
  named: (n: string) => string,
): Promise<void> {
  await score.compare('forward', c, out, y)
  backward(y, dy)
  for (const [n, x] of Object.entries(inputs)) {
    if (c.has(named(n))) await score.compare('gradient', c, named(n), x.grad!)
    x.grad?.dispose()
  }
}

export async function operatorCase(c: GoldenCase, score: Score): Promise<void> {
  const { config } = c
  const has = (...names: string[]): boolean => names.every((n) => c.has(`in.${n}`))
  const d = (n: string): string => `d${n}`
  if (has('q', 'k', 'positions')) return rotary(c, score)
  if (has('q', 'k', 'v')) return attentionCase(c, score)
  if (has('lora_A')) {
    const i = leaves(c, ['x', 'lora_A', 'lora_B'])
    const y = lora(
      i.x!,
      c.tensor('in.W'),
      has('b') ? c.tensor('in.b') : undefined,
      i.lora_A!,
      i.lora_B!,
      config.alpha / config.r,
    )
    return check(c, score, 'y', y, c.tensor('in.dy'), i, (n) => d(n.replace('lora_', '')))
  }
  if (has('w1', 'w2')) {
    const i = leaves(c, ['x', 'w1', 'b1', 'w2', 'b2'])
    const x = i.x!
    const alpha = router(x, { w1: i.w1!, b1: i.b1!, w2: i.w2!, b2: i.b2! }, x.rank - 2)
    return check(c, score, 'alpha', alpha, c.tensor('in.dalpha'), i, d)
  }
  if (has('gate', 'up')) {
    const i = leaves(c, ['gate', 'up'])
    return check(c, score, 'y', siluMul(i.gate!, i.up!), c.tensor('in.dy'), i, d)
  }
  if (has('logits')) {
    const i = leaves(c, ['logits'])
    const labels = c.get('in.labels').data
    return check(
      c,
      score,
      'loss',
      crossEntropy(i.logits!, c.tensor('in.labels'), 1 / labels.filter((l) => l !== IGNORE).length),
      undefined,
      i,
      d,
    )
  }
  if (has('weight')) {
    const i = leaves(c, ['x', 'weight', 'bias'])
    const y = i.bias ? layerNorm(i.x!, i.weight!, i.bias, config.eps) : rmsNorm(i.x!, i.weight!, config.eps)
    return check(c, score, 'y', y, c.tensor('in.dy'), i, d)
  }
  if (c.names('in.param.').length) return optimiserCase(c, score)
  if (has('x', 'dy')) {
    const i = leaves(c, ['x'])
    return check(c, score, 'y', gelu(i.x!), c.tensor('in.dy'), i, d)
  }
  if (c.names('spatial.').length || c.names('temporal.').length) return maskCase(c, score)
  score.faults.push(`no operator is known for the tensors ${c.names('in.').join(', ')}`)
}

async function rotary(c: GoldenCase, score: Score): Promise<void> {
  // The files have [B,h,n,d]; the operator has [B,n,h,d].
  const turn = (t: Tensor): Tensor => permute(t, [0, 2, 1, 3])
  for (const name of ['q', 'k']) {
    const i = leaves(c, [name])
    const y = turn(rope(turn(i[name]!), c.tensor('in.positions'), c.config.theta))
    await check(c, score, name, y, c.tensor(`in.d${name}_out`), i, (n) => `d${n}`)
  }
}

async function attentionCase(c: GoldenCase, score: Score): Promise<void> {
  const { heads, causal } = c.config
  const swapped = c.get('in.q').shape.length === 4 && 'T' in c.config && 'L' in c.config
  // Rows [rows,h,n,d] become [rows,n,h·d]; a channel-swap case is [B,T,L,h·d] already and attends over T.
  const inward = (t: Tensor): Tensor =>
    swapped ? t : reshape(permute(t, [0, 2, 1, 3]), [t.dim(0), t.dim(2), t.dim(1) * t.dim(3)])
  const outward = (t: Tensor): Tensor =>
    swapped ? t : permute(reshape(t, [t.dim(0), t.dim(1), heads, t.dim(2) / heads]), [0, 2, 1, 3])
  for (const mode of ['off', 'score', 'attention'] as const) {
    if (!c.has(`${mode}.out`)) continue
    const i = leaves(c, mode === 'off' ? ['q', 'k', 'v'] : ['q', 'k', 'v', 'alpha'])
    const y = outward(
      attention(inward(i.q!), inward(i.k!), inward(i.v!), {
        heads,
        mode,
        causal: causal === true,
        over: 1,
        keyMask: c.has('in.key_mask') ? c.tensor('in.key_mask') : undefined,
        masks: mode === 'off' ? undefined : c.tensor('in.masks'),
        alpha: i.alpha,
      }),
    )
    await check(c, score, `${mode}.out`, y, c.tensor('in.dout'), i, (n) => `${mode}.d${n}`)
  }
}

/** The file's note gives lr, betas, eps and which parameters decay; the config may give them too. */
async function optimiserCase(c: GoldenCase, score: Score): Promise<void> {
  const { clip, lr = 1e-2, betas = [0.9, 0.95], eps = 1e-8, weight_decay: decay = 0.05 } = c.config
  const names = c.names('in.param.').map((n) => n.slice('in.param.'.length))
  const state = new Map(
    names.map((n) => [
      n,
      {
        w: c.tensor(`in.param.${n}`),
        m: zeros(c.get(`in.param.${n}`).shape, 'float32', c.device),
        v: zeros(c.get(`in.param.${n}`).shape, 'float32', c.device),
        after: [] as number[],
      },
    ]),
  )
  const steps = c.get(`in.grad.${names[0]}`).shape[0]!
  const norms: number[] = []
  for (let step = 1; step <= steps; step++) {
    const grads = names.map((n) => {
      const { shape, data } = c.get(`in.grad.${n}`)
      const size = data.length / steps
      return tensor(
        Float32Array.from(data.subarray((step - 1) * size, step * size)),
        shape.slice(1),
        'float32',
        c.device,
      )
    })
    let scale: Tensor | undefined
    if (clip) {
      const sum = zeros([1], 'float32', c.device)
      for (const g of grads) addSquareSum(sum, g)
      const norm = Math.sqrt(await sum.item())
      norms.push(norm)
      scale = full([1], clipScale(norm, clip), 'float32', c.device)
    }
    for (const [k, n] of names.entries()) {
      const s = state.get(n)!
      adamw(s.w, grads[k]!, s.m, s.v, {
        lr,
        betas,
        eps,
        weightDecay: n === 'b' ? 0 : decay,
        step,
        ...(scale && { scale }),
      })
      s.after.push(...((await s.w.data()) as Float32Array))
    }
  }
  for (const n of names) {
    const s = state.get(n)!
    score.note('forward', `after.${n}`, relativeError(s.after, c.get(`after.${n}`).data))
    await score.compare('forward', c, `exp_avg.${n}`, s.m)
    await score.compare('forward', c, `exp_avg_sq.${n}`, s.v)
  }
  if (c.has('grad_norm')) score.note('forward', 'grad_norm', relativeError(norms, c.get('grad_norm').data))
}

/** Mask sets by the sizes in their names; p_m by the number of layers. */
async function maskCase(c: GoldenCase, score: Score): Promise<void> {
  const {
    spatial_windows: spatial = [4, 8, 16],
    temporal_windows: temporal = [1, 2, 4],
    choices = 4,
    masks_per_layer: layers = {},
  } = c.config
  const equal = (what: string, a: ArrayLike<number>, b: ArrayLike<number>): void => {
    if (a.length !== b.length || Array.from(a).some((x, i) => x !== b[i])) score.faults.push(`${what} differs`)
  }
  for (const name of c.names()) {
    const sizes = [...name.matchAll(/\d+/g)].map(Number)
    const set = name.startsWith('spatial.')
      ? spatialWindows(sizes[0]!, sizes[1]!, spatial, choices)
      : temporalWindows(sizes[0]!, temporal, choices)
    equal(name, set.bits, c.get(name).data)
  }
  for (const [n, expected] of Object.entries(layers))
    equal(`masks_per_layer of ${n}`, masksPerLayer(Number(n), choices), expected as number[])
}
