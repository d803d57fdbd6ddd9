/**
 * Brings the planned tensors of a checkpoint into native memory, used as they lie in the file where that is possible.
 *
 * A file of 64 MiB or more is mapped: its pages are read when they are first used, shared between processes, and
 * dropped when memory is short. Such a file may be renamed, deleted or replaced by another of its name while the model
 * lives; cut short or written over in place it may not be: then the operating system ends the process (SIGBUS), or
 * weights change.
 * Put new weights beside the old and rename, as saving does. A smaller file is read whole: nothing that happens to it
 * later matters.
 */
import { native } from '../native.js'
import { cast, copy, write } from '../ops/copy.js'
import { keep, scope } from '../tensor/scope.js'
import type { Device } from '../tensor/device.js'
import type { Precision } from '../tensor/dtype.js'
import { tensor, Tensor } from '../tensor/tensor.js'
import type { DType } from '../tensor/dtype.js'
import { allocatePacks } from './pack.js'
import { readPlanned, type CheckpointPlan, type FloatDtype, type PlannedTensor } from '../checkpoint/plan.js'

const DTYPES: Record<FloatDtype, DType> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }

/**
 * Matrices that operators read in 16 bits as well: weights of linear layers and token tables. Everything else is small
 * and widened to float32; widening is exact.
 */
function keepsDtype({ name, shape }: PlannedTensor): boolean {
  return shape.length === 2 && name.endsWith('.weight') && !name.includes('position')
}

/**
 * The weights of a complete plan, or of those entries of one that are wanted, by canonical name. The caller frees them.
 *
 * @param trained makes float32 copies of everything, which can be trained; else files are used as they lie
 * @param device where they are to lie; on a CUDA device they are copies
 * @param precision bfloat16 rounds matrices that are stored otherwise
 */
export async function loadWeights(
  plan: Pick<CheckpointPlan, 'entries'>,
  {
    trained = false,
    device = 'cpu',
    precision = 'float32',
  }: { trained?: boolean; device?: Device; precision?: Precision } = {},
): Promise<Map<string, Tensor>> {
  const files = new Map<string, object>()
  const map = (path: string): object => {
    const mapping = files.get(path) ?? native().map(path)
    files.set(path, mapping)
    return mapping
  }
  const weights = new Map<string, Tensor>()
  const dtypeOf = (planned: PlannedTensor): DType =>
    !keepsDtype(planned) ? 'float32' : precision === 'bfloat16' ? 'bfloat16' : DTYPES[planned.dtype]
  // On the CPU weights stay where they lie in the file, which a pack would double, and each product packs its panels
  // anyway; on a device they are copies, so that where these go costs nothing.
  const packed = device === 'cpu' || trained ? [] : [...plan.entries.values()]
  const { parts, packs } = allocatePacks(
    packed.map((p) => ({ ...p, dtype: dtypeOf(p) })),
    device,
  )
  try {
    for (const planned of plan.entries.values()) {
      const { name, shape } = planned
      const dtype = DTYPES[planned.dtype]
      // A fused bias that is stored in thirds is put together in memory.
      const bytes = planned.kind === 'thirds' ? await readPlanned(planned) : undefined
      weights.set(
        name,
        scope(() => {
          const stored =
            planned.kind === 'stored'
              ? new Tensor(
                  native().mapped(map(planned.piece.header.path), planned.piece.begin, shape, dtype),
                  shape,
                  dtype,
                )
              : tensor(
                  dtype === 'float32' ? new Float32Array(bytes!.buffer) : new Uint16Array(bytes!.buffer),
                  shape,
                  dtype,
                )
          const there = stored.to(device)
          const part = parts.get(name)
          if (part) {
            write(part, there)
            part.label = name
            return part
          }
          const used = trained ? copy(cast(there, 'float32')) : cast(there, dtypeOf(planned))
          used.label = name
          return keep(trained ? used : used.freeze())
        }),
      )
    }
    for (const [name, pack] of packs) weights.set(name, Object.assign(pack.freeze(), { label: name }))
  } catch (error) {
    for (const t of [...weights.values(), ...parts.values(), ...packs.values()]) t.dispose()
    throw error
  }
  return weights
}
