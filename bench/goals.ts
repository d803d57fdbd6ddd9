/** The goals of this project on a CPU, in one thread, as ratios within one run; and whether a run's rows reach them. */
import type { Goal, Row } from './record.js'

interface Target {
  goal: string
  target: number
  unit: Goal['unit']
  /** The measured value in a list of rows; undefined where it was not measured. */
  from: string
  measured(rows: Rows): number | undefined
  /** The same with float32 activations on those matrices: the better one counts. */
  mixed?(rows: Rows): number | undefined
  /** Also asked of AVX2 alone, within 10 %. */
  avx2?: true
}

/** The bound of a case whose target is missed, by the beginning of the goal's name; the first match counts. */
const bounds: readonly (readonly [begins: string, why: string])[] = [
  [
    'factorized block',
    "nearly all of it is matrix products, which run close to the measured rate of the core, and so do the peer's: see which share of that rate the target asks for",
  ],
  [
    'factorized attention core',
    'it multiplies little and reads and writes megabytes, strided, through the cache that cores share; the call and the waking of threads come on top',
  ],
  [
    'own joint core',
    'the joint core is bound by arithmetic, the factorized one by the cache that cores share, so that the ratio stays below that of the products they count; and what makes the joint core faster lowers it',
  ],
  [
    'joint attention core',
    "products and exponentials on both sides, and the peer's products run close to the core's rate as well",
  ],
  [
    'Q-Former forward (',
    'products at nearly the measured rate; cross-attention already multiplies its weights into queries and result. What is left are the small products of single heads and rows read from shared cache',
  ],
  [
    'Q-Former forward + backward',
    'nearly all of it is products, which come close to the measured rate where their factors lie in cache and stay further below where weights and activations come from memory; the peer waits for the same memory. With gradients, keys and values of the image are formed, as the peer does',
  ],
  [
    'prompt',
    'the rate is measured on factors that lie in cache, where products of so few rows reach it too; here every weight comes from memory in each call and meets few rows',
  ],
  [
    'one token',
    'each weight is read once: memory alone counts, and its speed changes from minute to minute on a shared machine',
  ],
  ['the same in two threads', 'two cores share one memory'],
  [
    'two threads',
    "each operator by itself gains about as little: two cores share cache and memory. JavaScript's thread then takes its time from one of them",
  ],
]
export const bound = ({ goal, cpu }: Goal): string =>
  cpu === 'avx2' && goal.includes('ONNX Runtime')
    ? 'ONNX Runtime cannot be told to leave wider instructions alone, and used them'
    : (bounds.find(([begins]) => goal.startsWith(begins))?.[1] ?? 'not looked into')

const idOf = ({ from }: Goal): string => from.replace(/, activations in .*/, '')
/** For a case whose target is a peer's time: its share of the floor, and the share that the target needs. */
export function asked(goal: Goal, rows: readonly Row[]): { share: number; asked: number } | undefined {
  if (goal.unit !== '×' || !goal.measured || goal.goal.includes('two threads')) return undefined
  const dtype = goal.from.endsWith('in bfloat16') ? 'bfloat16' : goal.from.endsWith('in float32') ? 'mixed' : 'float32'
  const pass = goal.goal.includes('forward + backward') ? 'forward+backward' : 'forward'
  const row = rows.find(
    (r) => r.id === idOf(goal) && r.pass === pass && r.dtype === dtype && (r.cpu === 'avx2') === (goal.cpu === 'avx2'),
  )
  return row?.share === undefined ? undefined : { share: row.share, asked: (row.share * goal.target) / goal.measured }
}

/** Finds rows by id, pass and dtype. */
class Rows {
  constructor(readonly rows: readonly Row[]) {}
  find(id: string, pass: Row['pass'], dtype: Row['dtype'] = 'float32'): Row | undefined {
    return this.rows.find((r) => r.id === id && r.pass === pass && r.dtype === dtype)
  }
  /** A peer's time over ours; of variants of a peer, the fastest. */
  over(
    peer: string,
    id: string,
    pass: Row['pass'],
    dtype: Row['dtype'] = 'float32',
    peerDtype: Row['dtype'] = dtype,
  ): number | undefined {
    const found = this.find(id, pass, dtype)?.peers.filter((p) => {
      const [name, given] = p.name.split(', ')
      return (name === peer || name!.startsWith(`${peer} `)) && (given ?? dtype) === peerDtype
    })
    const ratios = found?.flatMap((p) => p.ratio ?? []) ?? []
    return ratios.length ? Math.min(...ratios) : undefined
  }
  share(id: string, dtype: Row['dtype']): number | undefined {
    const share = this.find(id, 'forward', dtype)?.share
    return share === undefined ? undefined : 100 * share
  }
  /** Joint over factorized. */
  form(T: number): number | undefined {
    const [joint, factorized] = ['joint', 'factorized'].map((form) => this.find(`${form} core T=${T} K=0`, 'forward'))
    return joint && factorized && joint.us.median / factorized.us.median
  }
  threads(id: string): number | undefined {
    const two = this.find(id, 'forward')?.peers.find((p) => p.name === '2 threads')?.ratio
    return two === undefined ? undefined : 1 / two
  }
}

const block = 'factorized block T=8 K=0'
const qformer = 'Q-Former B=2 T=4 K=32'
const [ort, torch] = ['onnxruntime', 'torch']
const both = 'forward+backward'
/** Matrices in bfloat16, activations in either: both are measured. */
const narrow = (
  goal: string,
  target: number,
  unit: Goal['unit'],
  from: string,
  measured: (rows: Rows, dtype: Row['dtype']) => number | undefined,
): Target => ({
  goal,
  target,
  unit,
  from,
  measured: (r) => measured(r, 'bfloat16'),
  mixed: (r) => measured(r, 'mixed'),
})
const ratio = (goal: string, target: number, from: string, measured: Target['measured'], avx2?: true): Target => ({
  goal,
  target,
  unit: '×',
  from,
  measured,
  ...(avx2 && { avx2 }),
})

const targets: readonly Target[] = [
  ratio('factorized block forward, T=8: against ONNX Runtime', 1.1, block, (r) => r.over(ort, block, 'forward'), true),
  ratio('factorized block forward, T=8: against PyTorch', 1.4, block, (r) => r.over(torch, block, 'forward'), true),
  ratio(
    'factorized block with LoRA forward + backward, T=8: against PyTorch',
    1.45,
    `${block}, LoRA`,
    (r) => r.over(torch, `${block}, LoRA`, both),
    true,
  ),
  narrow(
    'factorized block forward with bfloat16 weights, T=8: against ONNX Runtime in float32',
    2,
    '×',
    block,
    (r, dtype) => r.over(ort, block, 'forward', dtype, 'float32'),
  ),
  ratio(
    'factorized attention core, T=8: against PyTorch',
    4,
    'factorized core T=8 K=0',
    (r) => r.over(torch, 'factorized core T=8 K=0', 'forward'),
    true,
  ),
  ratio(
    'factorized attention core, T=64: against PyTorch',
    2,
    'factorized core T=64 K=0',
    (r) => r.over(torch, 'factorized core T=64 K=0', 'forward'),
    true,
  ),
  ratio('own joint core over own factorized core, T=8', 3.5, 'cores T=8 K=0', (r) => r.form(8), true),
  ratio('own joint core over own factorized core, T=64', 15, 'cores T=64 K=0', (r) => r.form(64), true),
  ratio(
    'joint attention core, T=8: against PyTorch',
    1.5,
    'joint core T=8 K=0',
    (r) => r.over(torch, 'joint core T=8 K=0', 'forward'),
    true,
  ),
  ratio(
    'joint attention core, T=64: against PyTorch',
    1.5,
    'joint core T=64 K=0',
    (r) => r.over(torch, 'joint core T=64 K=0', 'forward'),
    true,
  ),
  ratio(
    'Q-Former forward (12 layers, B=2, T=4, K=32): against ONNX Runtime',
    1.17,
    qformer,
    (r) => r.over(ort, qformer, 'forward'),
    true,
  ),
  ratio(
    'Q-Former forward + backward with LoRA: against PyTorch',
    1.2,
    `${qformer}, LoRA`,
    (r) => r.over(torch, `${qformer}, LoRA`, both),
    true,
  ),
  narrow(
    'Q-Former forward + backward with LoRA and bfloat16 weights: against PyTorch in float32',
    2,
    '×',
    `${qformer}, LoRA`,
    (r, dtype) => r.over(torch, `${qformer}, LoRA`, both, dtype, 'float32'),
  ),
  narrow(
    'prompt of 100 tokens, 11008×4096 with bfloat16 weights: of the measured product rate',
    87,
    '%',
    'GEMM 100×4096→11008',
    (r, dtype) => r.share('GEMM 100×4096→11008', dtype),
  ),
  narrow(
    'prompt of 100 tokens, 4096×4096 with bfloat16 weights: of the measured product rate',
    87,
    '%',
    'GEMM 100×4096→4096',
    (r, dtype) => r.share('GEMM 100×4096→4096', dtype),
  ),
  narrow(
    'one token, 11008×4096, bfloat16 weights from memory: of a plain read',
    75,
    '%',
    'GEMV 1×4096→11008',
    (r, dtype) => r.share('GEMV 1×4096→11008', dtype),
  ),
  narrow('the same in two threads: of a plain read in two', 85, '%', 'GEMV 1×4096→11008, 2 threads', (r, dtype) =>
    r.share('GEMV 1×4096→11008, 2 threads', dtype),
  ),
  ratio('two threads over one: factorized block T=8', 1.8, block, (r) => r.threads(block)),
  ratio('two threads over one: Q-Former forward', 1.8, qformer, (r) => r.threads(qformer)),
]

/** Every goal against the rows of a run; those for AVX2 alone against the rows of its child process. */
export function goals(rows: readonly Row[]): Goal[] {
  const of = (cpu: string, { goal, target, unit, from, measured, mixed }: Target, ease = 1): Goal => {
    const mine = new Rows(rows.filter((r) => (r.cpu === 'avx2') === (cpu === 'avx2')))
    const [same, mixedShare] = [measured(mine), mixed?.(mine)]
    const found = Math.max(same ?? 0, mixedShare ?? 0) || undefined
    const how = mixed && found !== undefined ? `, activations in ${found === same ? 'bfloat16' : 'float32'}` : ''
    return {
      goal,
      target: target * ease,
      unit,
      from: `${from}${how}`,
      cpu,
      ...(found !== undefined && { measured: found, reached: found >= target * ease }),
    }
  }
  return [...targets.map((t) => of('best', t)), ...targets.filter((t) => t.avx2).map((t) => of('avx2', t, 0.9))]
}
