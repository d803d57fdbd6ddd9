/** The attention core alone: softmax(qkᵀ/√64)v in space and then in time, against all tokens of a video at once. */
import { coreFlops, type Form, type Pass } from '../cost.js'
import { attention } from '../../lib/ops/attention.js'
import { contiguous } from '../../lib/ops/copy.js'
import { concat, narrow, reshape } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { backward, noGrad } from '../../lib/tensor/tape.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import type { Bench, Outputs, Precision } from '../bench.js'
import { Draw, numbers, upload, type Numbers } from '../files.js'

export interface Sizes {
  B: number
  T: number
  L: number
  K: number
  heads: number
}
const headWidth = 64
const copies = 3

/** Frames and texts of each selection, for this suite and for blocks. */
export function frames(bench: Bench, core: boolean): { sizes: Sizes; pass: Pass }[] {
  if (bench.quick)
    return (['forward', 'forward+backward'] as const).flatMap((pass) =>
      [0, 2].map((K) => ({ sizes: { B: 1, T: 3, L: 4, K, heads: 2 }, pass })),
    )
  const at = (T: number, K: number, ...passes: Pass[]) =>
    passes.map((pass) => ({ sizes: { B: 1, T, L: 32, K, heads: 12 }, pass }))
  const both: Pass[] = ['forward', 'forward+backward']
  const all = [4, 8, 16, 32, 64, ...(core ? [128] : [])]
  switch (bench.options.selection) {
    case 'goals':
      return [...(core ? [8, 64] : [8])].flatMap((T) => at(T, 0, ...(core ? both.slice(0, 1) : both)))
    case 'some':
      return [
        ...[4, 8, 16, 32, 64].flatMap((T) => at(T, 0, 'forward')),
        ...[8, 64].flatMap((T) => at(T, 0, 'forward+backward')),
        ...[32, 128].flatMap((K) => [8, 64].flatMap((T) => at(T, K, 'forward'))),
      ]
    default:
      return all.flatMap((T) => [0, 32, 128].flatMap((K) => at(T, K, ...both)))
  }
}

/** q, k and v [B,T,L+K,D]; with text, queries stand first in each frame. */
function given({ B, T, L, K, heads }: Sizes): Map<string, Numbers> {
  const draw = new Draw(1)
  return new Map(['q', 'k', 'v', 'dy'].map((name) => [name, draw.normal([B, T, L + K, heads * headWidth])]))
}

type QKV = readonly [Tensor, Tensor, Tensor]

/** Over the tokens of each frame, and over time for each query: the same q, k and v, other strides. */
function factorized(qkv: QKV, { L, heads }: Sizes): { space: Tensor; time: Tensor } {
  const [q, k, v] = qkv
  const [a, b, c] = qkv.map((t) => narrow(t, 2, 0, L)) as [Tensor, Tensor, Tensor]
  return { space: attention(q, k, v, { heads, over: 2 }), time: attention(a, b, c, { heads, over: 1 }) }
}

/** Over all T·L query tokens and the text, which is there once. */
const joint = ([q, k, v]: QKV, { heads }: Sizes): { joint: Tensor } => ({
  joint: attention(q, k, v, { heads, over: 1 }),
})

/** [B,T,L+K,D] as [B,T·L+K,D]. */
function together(t: Tensor, { B, T, L, K }: Sizes): Tensor {
  const flat = reshape(contiguous(narrow(t, 2, 0, L)), [B, T * L, t.dim(3)])
  return K
    ? concat([flat, reshape(contiguous(narrow(narrow(t, 1, 0, 1), 2, L, K)), [B, K, t.dim(3)])], 1)
    : contiguous(flat)
}

async function one(bench: Bench, form: Form, sizes: Sizes, pass: Pass, dtype: Precision): Promise<void> {
  const { B, T, L, K, heads } = sizes
  const D = heads * headWidth
  await scope(async () => {
    const all = given(sizes)
    const made = (name: string): Tensor =>
      scope(() => {
        const t = upload(all.get(name)!, bench.device, dtype)
        return form === 'joint' ? contiguous(together(t, sizes)) : t
      })
    const inputs = Array.from(
      { length: copies },
      () =>
        ['q', 'k', 'v'].map((name) =>
          Object.assign(made(name), { requiresGrad: pass !== 'forward' }),
        ) as unknown as QKV,
    )
    const dy = made('dy')
    const run = (qkv: QKV): Record<string, Tensor> =>
      form === 'factorized' ? factorized(qkv, sizes) : joint(qkv, sizes)
    const seed = (name: string): Tensor => (name === 'time' && K ? contiguous(narrow(dy, 2, 0, L)) : dy)
    const step = (qkv: QKV): Record<string, Tensor> => {
      const outputs = run(qkv)
      for (const [name, y] of Object.entries(outputs)) backward(y, seed(name))
      return Object.fromEntries(
        qkv.map((t, i) => {
          const grad = t.grad!
          t.grad = undefined
          return [`d${'qkv'[i]}`, grad]
        }),
      )
    }
    const results = (): Outputs => {
      const outputs = noGrad(() => run(inputs[0]!))
      const gradients = pass === 'forward' ? {} : step(inputs[0]!)
      const read = Object.fromEntries(
        Object.entries({ ...outputs, ...gradients }).map(([name, t]) => [name, numbers(t)]),
      )
      for (const t of Object.values(gradients)) t.dispose()
      return read
    }
    await bench.time({
      id: `${form} core T=${T} K=${K}`,
      sizes: { ...sizes, D },
      dtype,
      pass,
      calls: inputs.map(
        (qkv) => () =>
          scope(() => {
            if (pass === 'forward') noGrad(() => run(qkv))
            else for (const t of Object.values(step(qkv))) t.dispose()
          }),
      ),
      flops: coreFlops(form, { videos: B, frames: T, queries: L, text: K }, D, pass),
      outputs: results,
      ...(K === 0 && { peer: { kind: 'core', pass, form, sizes: { ...sizes, D } }, numbers: () => all }),
    })
  })
}

export async function run(bench: Bench): Promise<void> {
  for (const dtype of bench.options.dtypes) {
    if (dtype === 'mixed') continue // there are no matrices here
    for (const { sizes, pass } of frames(bench, true)) {
      if (
        dtype === 'bfloat16' &&
        bench.options.selection === 'some' &&
        (sizes.K > 0 || pass !== 'forward' || ![8, 64].includes(sizes.T))
      )
        continue
      for (const form of ['factorized', 'joint'] as const) await one(bench, form, sizes, pass, dtype)
    }
  }
}
