/**
 * An adapter's LoRA of spatial and cross-attention folded into a copy of the Q-Former, W + (α/r)·B·A: a checkpoint of
 * the image model that every reader of Hugging Face's layout opens. Positions, routers and temporal attention belong to
 * the video model and have no place in it.
 */
import { loadAdapter, placeOf } from '../adapter/save.js'
import { checkVacant, writeCheckpoint, type Converted, type WriteOptions } from '../checkpoint/convert.js'
import { assertComplete, fingerprint, planCheckpoint, readPlanned, type PlannedTensor } from '../checkpoint/plan.js'
import { toFloat32 } from '../files/safetensors.js'
import type { Adapter } from '../adapter/adapter.js'

/** What {@link exportMerged} wrote. */
export interface Exported extends Converted {
  /** Names of the matrices that LoRA was folded into; they are float32. */
  merged: string[]
  /** Trained tensors of the adapter that the image model has no place for. */
  left: string[]
}

/**
 * Writes `out`: the checkpoint with the adapter's spatial and cross LoRA folded into its Q-Former. Merged matrices are
 * float32, all others as they are.
 *
 * @param folder the checkpoint that the adapter was trained on
 * @throws InputError for an adapter of another checkpoint, and for an `out` that holds something
 */
export async function exportMerged(
  folder: string,
  adapterFolder: string,
  out: string,
  options: Pick<WriteOptions, 'shard' | 'onProgress' | 'on'> = {},
): Promise<Exported> {
  await checkVacant(out)
  const plan = await planCheckpoint(folder)
  assertComplete(plan)
  for (const file of plan.files) await file.check?.()
  const base = { model: { config: plan.config }, plan, fingerprint: await fingerprint(plan) }
  const adapter = await loadAdapter(adapterFolder, base)
  try {
    const changed = new Map<string, () => Promise<Float32Array<ArrayBuffer>>>()
    const left: string[] = []
    for (const name of adapter.parameters.keys()) {
      const matrix = mergedInto(name)
      if (matrix === undefined) left.push(name)
      else if (name.endsWith('lora_A')) changed.set(matrix, () => folded(adapter, name, plan.entries.get(matrix)!))
    }
    const written = await writeCheckpoint(plan, folder, out, { ...options, changed })
    return { ...written, merged: [...changed.keys()], left }
  } finally {
    adapter.dispose()
  }
}

/** The matrix of the image model that a parameter of LoRA changes; undefined for all others. */
function mergedInto(name: string): string | undefined {
  if (!/\.(spatial|cross)\.[qv]\.lora_[AB]$/.test(name)) return undefined
  return placeOf(name)
    .key.replace(/^base_model\.model\./, '')
    .replace(/lora_[AB]\./, '')
}

/** W + (α/r)·B·A, summed in float64; `a` is the name of A [r,in], beside which B [out,r] stands. */
async function folded(adapter: Adapter, a: string, planned: PlannedTensor): Promise<Float32Array<ArrayBuffer>> {
  const [A, B] = (await Promise.all([a, a.replace(/A$/, 'B')].map((name) => adapter.parameters.get(name)!.data()))) as [
    Float32Array,
    Float32Array,
  ]
  const { r, alpha } = adapter.config.lora
  const [rows, columns] = planned.shape as [number, number]
  const out = Float32Array.from(toFloat32(planned.dtype, await readPlanned(planned)))
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) {
      let sum = 0
      for (let k = 0; k < r; k++) sum += B[i * r + k]! * A[k * columns + j]!
      out[i * columns + j]! += (alpha / r) * sum
    }
  return out
}
