/**
 * The attention block of the Q-Former with its projections: twice with the same weights (space, time), or once over all
 * tokens. With and without LoRA.
 */
import { blockFlops, type Form, type Pass } from '../cost.js'
import { attend, type AttentionWeights } from '../../lib/nn/attention.js'
import type { LoRA } from '../../lib/nn/layers.js'
import { finder } from '../../lib/models/finder.js'
import { contiguous } from '../../lib/ops/copy.js'
import { narrow } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward, noGrad } from '../../lib/tensor/tape.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import type { Bench, Outputs, Precision } from '../bench.js'
import { Draw, load, numbers, upload, type Numbers } from '../files.js'
import { frames, type Sizes } from './attention.js'

const eps = 1e-12
const copies = 3
type Pair = { q: LoRA; v: LoRA }

/** x and dy [B,T,L+K,D], the block's weights, and LoRA where there is a rank: of both blocks, or of the one. */
function given({ B, T, L, K, heads }: Sizes, rank: number, form: Form): Map<string, Numbers> {
  const [draw, D] = [new Draw(2), heads * 64]
  const low = (form === 'joint' ? ['space'] : ['space', 'time']).flatMap((at) =>
    ['q', 'v'].flatMap((of): [string, Numbers][] => [
      [`lora.${at}.${of}.A`, draw.normal([rank, D], 1 / Math.sqrt(D))],
      [`lora.${at}.${of}.B`, draw.normal([D, rank], 0.2)],
    ]),
  )
  return new Map([
    ['x', draw.normal([B, T, L + K, D])],
    ['dy', draw.normal([B, T, L + K, D])],
    ...['query', 'key', 'value', 'dense'].flatMap((name) => draw.linear(name, D, D)),
    ...draw.norm('norm', D),
    ...(rank ? low : []),
  ])
}

/** Trained tensors of LoRA by the names that peers use. */
export function trained(all: ReadonlyMap<string, Numbers>, bench: Bench): Map<string, Tensor> {
  return new Map(
    [...all]
      .filter(([name]) => name.startsWith('lora.'))
      .map(([name, n]) => [name, tensor(n.data, n.shape, 'float32', bench.device).requireGrad(name)]),
  )
}

/** The gradients of tensors by name, taken off them. */
export function taken(of: Iterable<[string, Tensor]>): Map<string, Tensor> {
  return new Map(
    [...of].map(([name, t]) => {
      const grad = t.grad!
      t.grad = undefined
      return [name, grad]
    }),
  )
}

export interface BlockCase {
  form: Form
  sizes: Sizes
  pass: Pass
  dtype: Precision
  rank: number
}

export async function block(bench: Bench, { form, sizes, pass, dtype, rank }: BlockCase): Promise<void> {
  const { B, T, L, K, heads } = sizes
  const D = heads * 64
  const all = given(sizes, rank, form)
  const file = await bench.files.write(
    [...all].filter(([name]) => !/^(x|dy|lora\.)/.test(name)),
    dtype,
  )
  const stored = await load(file, bench.device, dtype)
  await scope(async () => {
    const find = finder(stored)
    const weights: AttentionWeights = {
      query: find.linear('query', D, D),
      key: find.linear('key', D, D),
      value: find.linear('value', D, D),
      dense: find.linear('dense', D, D),
      norm: find.norm('norm', D, eps),
      heads,
    }
    const low = trained(all, bench)
    const pair = (at: string): Pair => ({
      q: { A: low.get(`lora.${at}.q.A`)!, B: low.get(`lora.${at}.q.B`)!, scaling: 1 },
      v: { A: low.get(`lora.${at}.v.A`)!, B: low.get(`lora.${at}.v.B`)!, scaling: 1 },
    })
    const [space, time] = [rank ? pair('space') : undefined, rank && form === 'factorized' ? pair('time') : undefined]

    /** As it is given to the block: all tokens of a video in one row where they see each other. */
    const shaped = (t: Tensor): Tensor =>
      form === 'factorized' ? t : t.view([B, 1, T * L + K, D], [T * (L + K) * D, 0, D, 1])
    const inputs = Array.from({ length: copies }, () =>
      Object.assign(contiguous(shaped(upload(all.get('x')!, bench.device, dtype))), {
        requiresGrad: pass !== 'forward',
      }),
    )
    const forward = (x: Tensor): Tensor => {
      const seen = attend(weights, x, { over: 2, lora: space })
      return form === 'joint' ? seen : attend(weights, contiguous(narrow(seen, 2, 0, L)), { over: 1, lora: time })
    }
    const dyWhole = upload(all.get('dy')!, bench.device, dtype)
    const dy = form === 'joint' ? contiguous(shaped(dyWhole)) : contiguous(narrow(dyWhole, 2, 0, L))
    const step = (x: Tensor): { y: Tensor; gradients: Map<string, Tensor> } => {
      const y = forward(x)
      backward(y, dy)
      return { y, gradients: taken([['dx', x], ...[...low].map(([name, t]): [string, Tensor] => [`d.${name}`, t])]) }
    }
    const calls = inputs.map(
      (x) => () =>
        scope(() => {
          if (pass === 'forward') noGrad(() => forward(x))
          else for (const t of step(x).gradients.values()) t.dispose()
        }),
    )
    await bench.time({
      id: `${form} block T=${T} K=${K}${rank ? ', LoRA' : ''}`,
      sizes: { ...sizes, D, rank },
      dtype,
      pass,
      calls,
      ...(T === 8 && K === 0 && bench.options.threads === 1 && { ways: [{ name: '2 threads', calls, threads: 2 }] }),
      flops: blockFlops(form, { videos: B, frames: T, queries: L, text: K }, D, pass, rank),
      outputs: (): Outputs => {
        if (pass === 'forward') return { y: numbers(noGrad(() => forward(inputs[0]!))) }
        const { y, gradients } = step(inputs[0]!)
        const read = {
          y: numbers(y.detach()),
          ...Object.fromEntries([...gradients].map(([name, t]) => [name, numbers(t)])),
        }
        for (const t of gradients.values()) t.dispose()
        return read
      },
      ...(K === 0 && {
        peer: { kind: 'block', pass, form, sizes: { ...sizes, D, eps, ...(rank && { rank, scaling: 1 }) } },
        numbers: () => all,
      }),
      ...(dtype === 'bfloat16' && { peerDtypes: ['float32', 'bfloat16'] as const }),
    })
  })
  for (const t of stored.values()) t.dispose()
  bench.files.forget(file)
}

export async function run(bench: Bench): Promise<void> {
  for (const dtype of bench.options.dtypes) {
    for (const { sizes, pass } of frames(bench, false)) {
      if (dtype !== 'float32' && bench.options.selection === 'some' && (sizes.K > 0 || sizes.T !== 8)) continue
      for (const form of ['factorized', 'joint'] as const) {
        if (form === 'joint' && bench.options.selection === 'goals') continue
        await block(bench, { form, sizes, pass, dtype, rank: pass === 'forward' ? 0 : bench.quick ? 2 : 16 })
      }
    }
  }
}
