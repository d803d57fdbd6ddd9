/** What the ranks of a run agree on: that they compute the same run, and where it begins. */
import { createHash } from 'node:crypto'
import { deserialize, serialize } from 'node:v8'
import type { Adapter } from '../adapter/adapter.js'
import { programVersion } from '../adapter/save.js'
import { write } from '../ops/copy.js'
import type { Ranks } from '../ranks/ranks.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { scope } from '../tensor/scope.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { Average } from './average.js'
import type { TrainConfig } from './config.js'
import type { AdamW } from './optimizer.js'
import type { Samples } from './prepare.js'
import { dataOf, unchanging } from './run-folder.js'
import type { RunState } from './run-state.js'
import { configHash, type Progress } from './state.js'

/** What a run is, for {@link Ranks.requireSame}: program, configuration, base model and samples. */
export async function identityOf(
  config: TrainConfig,
  samples: Samples,
  { model, fingerprint, form }: Checkpoint,
): Promise<Record<string, string>> {
  const short = (value: object): string => configHash(value).slice(0, 16)
  const { training, validation } = dataOf(samples)
  return {
    'version of the program': await programVersion(),
    configuration: short(unchanging(config)),
    model: `${fingerprint}, ${form}, ${model.precision}`,
    'data.train': short(training!),
    'data.val': short(validation!),
  }
}

/** What changes while a run is computed. */
interface Changing {
  adapter: Adapter
  optimizer: AdamW
  average: Average | undefined
  state: RunState
}

const tensorsOf = ({ adapter, optimizer, average }: Changing): Tensor[] => [
  ...adapter.parameters.values(),
  ...[...optimizer.moments.values()].flatMap(({ m, v }) => [m, v]),
  ...(average?.values.values() ?? []),
]

/** Gives every rank the state of the first, which may have read it from the run's folder. */
export async function shareState(ranks: Ranks, run: Changing): Promise<void> {
  if (ranks.size === 1) return
  const { optimizer, state } = run
  const tensors = tensorsOf(run)
  const sizes = tensors.map((t) => t.size)
  const all = new Float32Array(sizes.reduce((a, b) => a + b, 0))
  const progress = serialize({ steps: optimizer.steps, progress: state.progress })
  if (ranks.first) await each(tensors, async (t, at) => all.set((await t.data()) as Float32Array, at))
  const bytes = await ranks.fromFirst(new Uint8Array(all.buffer))
  const told = deserialize(await ranks.fromFirst(progress)) as { steps: number; progress: Progress }
  if (ranks.first) return
  const given = new Float32Array(bytes.buffer, bytes.byteOffset, all.length)
  await scope(() =>
    each(tensors, async (t, at) => write(t, tensor(given.subarray(at, at + t.size), t.shape, 'float32', t.device))),
  )
  optimizer.steps = told.steps
  state.restore(told.progress)
}

/** Calls `act` with every tensor and the number of elements before it. */
async function each(tensors: readonly Tensor[], act: (t: Tensor, at: number) => Promise<void>): Promise<void> {
  let at = 0
  for (const t of tensors) {
    await act(t, at)
    at += t.size
  }
}

/** A hash of the trained tensors' bits. */
export async function bitsOf(adapter: Adapter): Promise<string> {
  const hash = createHash('sha256')
  for (const t of adapter.parameters.values()) {
    const data = (await t.data()) as Float32Array
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  }
  return hash.digest('hex').slice(0, 16)
}
