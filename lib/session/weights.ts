/**
 * Brings the planned tensors of a checkpoint into native memory, as the policy for memory says (budget.ts): as they lie
 * in their files where that will do, else read piece by piece and converted on the way, never through JavaScript.
 *
 * A file of 64 MiB or more whose tensors stay in it is mapped: its pages are read when they are first used, shared
 * between processes, and dropped when memory is short or a pack has replaced them. Such a file may be renamed, deleted
 * or replaced by another of its name while the model lives. Cut short or written over in place, its next use is an
 * error. What was read into memory no longer depends on the file.
 */
import { InputError } from '../errors.js'
import { native } from '../native.js'
import { cast, copy, write } from '../ops/copy.js'
import { keep, scope } from '../tensor/scope.js'
import type { Device } from '../tensor/device.js'
import { sync } from '../tensor/runtime.js'
import { tensor, Tensor } from '../tensor/tensor.js'
import type { DType } from '../tensor/dtype.js'
import { allocatePacks } from './pack.js'
import { readPlanned, type CheckpointPlan, type PlannedTensor } from '../checkpoint/plan.js'
import { DTYPES, weightsPolicy, type WeightsPolicy } from './budget.js'

export interface WeightsOptions {
  /** Makes float32 copies of everything, which can be trained. */
  trained?: boolean | undefined
  /** Where they are to lie; on a CUDA device they are copies. */
  device?: Device | undefined
  /** Default: as the files store them. */
  policy?: WeightsPolicy | undefined
  /** Called while weights are read: bytes so far, of those that are held. Not called where all stay in their files. */
  onLoad?: ((bytes: number, total: number) => void) | undefined
  /** Bytes that are read between two reports. */
  step?: number | undefined
}

/**
 * The weights of a complete plan, or of those entries of one that are wanted, by canonical name. The caller frees them.
 *
 * @throws InputError for a file that cannot be read
 */
export async function loadWeights(
  plan: Pick<CheckpointPlan, 'entries'>,
  { trained = false, device = 'cpu', policy: given, onLoad, step = 2 ** 28 }: WeightsOptions = {},
): Promise<Map<string, Tensor>> {
  const entries = [...plan.entries.values()]
  const policy = given ?? weightsPolicy({ entries, device, weights: 'stored' })
  const dtypeOf = (planned: PlannedTensor): DType => (trained ? 'float32' : policy.dtypeOf(planned))
  const once = (open: (path: string) => object): ((path: string) => object) => {
    const files = new Map<string, object>()
    return (path) => {
      const file = files.get(path) ?? open(path)
      files.set(path, file)
      return file
    }
  }
  const map = once((path) => native().map(path))
  const open = once((path) => native().openFile(path))
  const weights = new Map<string, Tensor>()
  // On the CPU weights lie one by one: each product packs its panels anyway; on a device they are copies, so that where
  // these go costs nothing.
  const { parts, packs } = allocatePacks(
    device === 'cpu' || trained ? [] : entries.map((p) => ({ ...p, dtype: dtypeOf(p) })),
    device,
  )

  /** A tensor of the host in the dtype that is wanted. */
  const onHost = (planned: PlannedTensor, bytes: Uint8Array<ArrayBuffer> | undefined): Tensor => {
    const { shape } = planned
    const [stored, dtype] = [DTYPES[planned.dtype], dtypeOf(planned)]
    if (planned.kind === 'thirds') {
      const { buffer } = bytes!
      return cast(
        tensor(stored === 'float32' ? new Float32Array(buffer) : new Uint16Array(buffer), shape, stored),
        dtype,
      )
    }
    const { header, begin } = planned.piece
    if (!trained && policy.isMapped(planned))
      return cast(new Tensor(native().mapped(map(header.path), begin, shape, stored), shape, stored), dtype)
    const asItIs = trained || policy.asItIs
    return new Tensor(
      native().load(open(header.path), begin, shape, stored, dtype, asItIs, policy.forget),
      shape,
      dtype,
    )
  }

  let [read, told] = [0, 0]
  try {
    for (const planned of entries) {
      const { name } = planned
      // A fused bias that is stored in thirds is put together in memory.
      const bytes = planned.kind === 'thirds' ? await readPlanned(planned) : undefined
      weights.set(
        name,
        scope(() => {
          const there = onHost(planned, bytes).to(device)
          const part = parts.get(name)
          if (part) {
            write(part, there)
            part.label = name
            return part
          }
          const used = trained ? copy(there) : there
          used.label = name
          return keep(trained ? used : used.freeze())
        }),
      )
      if (!trained && policy.isMapped(planned)) continue
      read += (planned.kind === 'stored' ? planned.piece.end - planned.piece.begin : 0) || 0
      if (read - told < step) continue
      await sync()
      onLoad?.(read, total(entries))
      told = read
    }
    if (told) onLoad?.(total(entries), total(entries))
    await sync()
    for (const [name, pack] of packs) weights.set(name, Object.assign(pack.freeze(), { label: name }))
  } catch (error) {
    for (const t of [...weights.values(), ...parts.values(), ...packs.values()]) t.dispose()
    const { message } = error as Error
    throw /^(load|map|openFile): /.test(message)
      ? new InputError(`${message.replace(/^\w+: /, '').replace(/\.$/, '')}.`, { cause: error })
      : error
  }
  return weights
}

/** Bytes that the tensors take in their files. */
const total = (entries: readonly PlannedTensor[]): number =>
  entries.reduce((n, t) => n + (t.kind === 'stored' ? t.piece.end - t.piece.begin : 0), 0)
