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
import type { FileSystem } from '../files/atomic.js'
import { native } from '../native.js'
import { cast, copy, write } from '../ops/copy.js'
import { keep, scope } from '../tensor/scope.js'
import type { Device } from '../tensor/device.js'
import { releaseCached, sync } from '../tensor/runtime.js'
import { tensor, Tensor } from '../tensor/tensor.js'
import { bytesOf, isQuantized, type DType, type QuantizedDType } from '../tensor/dtype.js'
import { allocatePacks } from './pack.js'
import { quantize } from '../ops/quantize.js'
import { sizeOf } from '../shape.js'
import { readQuantised, writeQuantised, type Unit } from './quantised-cache.js'
import { readPlanned, type CheckpointPlan, type PlannedTensor } from '../checkpoint/plan.js'
import { DTYPES, weightsPolicy, type WeightsPolicy } from './budget.js'

export interface WeightsOptions {
  /** Makes float32 copies of everything, which can be trained. */
  trained?: boolean | undefined
  /** Where they are to lie; on a CUDA device they are copies. */
  device?: Device | undefined
  /** Default: as the files store them. */
  policy?: WeightsPolicy | undefined
  /** The file that keeps what was quantised for the next time; absent: it is not kept. */
  cache?: string | undefined
  /** Called while weights are read: bytes so far, of those that are held. Not called where all stay in their files. */
  onLoad?: ((bytes: number, total: number) => void) | undefined
  /** Bytes that are read between two reports. */
  step?: number | undefined
  /** The file system that `cache` is written to. Default: the system's. */
  on?: FileSystem | undefined
}

/**
 * The weights of a complete plan, or of those entries of one that are wanted, by canonical name. The caller frees them.
 *
 * @throws InputError for a file that cannot be read
 */
export async function loadWeights(
  plan: Pick<CheckpointPlan, 'entries'>,
  { trained = false, device = 'cpu', policy: given, onLoad, cache, step = 2 ** 28, on }: WeightsOptions = {},
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
  // these go costs nothing. Quantised ones are copies everywhere, and the biases beside them follow.
  const plain = entries.filter((p) => !isQuantized(dtypeOf(p)))
  const units = quantizedUnits(
    entries.filter((p) => isQuantized(dtypeOf(p))),
    policy,
  )
  const asOne = new Set(units.filter(({ members }) => members.length > 1).map(({ name }) => name))
  const isPacked = ({ pack }: PlannedTensor): boolean =>
    device !== 'cpu' || asOne.has(pack?.replace(/bias$/, 'weight') ?? '')
  const { parts, packs } = allocatePacks(
    trained ? [] : plain.filter(isPacked).map((p) => ({ ...p, dtype: dtypeOf(p) })),
    device,
  )

  /** A tensor of the host in the dtype that is wanted. */
  const onHost = (
    planned: PlannedTensor,
    bytes: Uint8Array<ArrayBuffer> | undefined,
    dtype = dtypeOf(planned),
  ): Tensor => {
    const { shape } = planned
    const stored = DTYPES[planned.dtype]
    if (planned.kind !== 'stored') {
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
  const report = async (planned: PlannedTensor): Promise<void> => {
    read += (planned.kind === 'stored' ? planned.piece.end - planned.piece.begin : 0) || 0
    if (read - told < step) return
    await sync()
    // What matrices were converted from is of other sizes than what a model computes.
    releaseCached()
    onLoad?.(read, total(entries))
    told = read
  }
  /** Puts a quantised matrix where it is to lie, and its parts by their names. */
  const place = (unit: QuantizedUnit, q: Tensor): void =>
    scope(() => {
      const t = keep(Object.assign(q.to(device).freeze(), { label: unit.name }))
      if (t !== q) q.dispose()
      weights.set(unit.name, t)
      let row = 0
      for (const { name, shape } of unit.members) {
        if (name !== unit.name)
          weights.set(name, keep(Object.assign(t.view(shape, t.strides, row * t.strides[0]!), { label: name })))
        row += shape[0]!
      }
    })
  try {
    const known = units.length && cache ? await readQuantised(cache, units) : undefined
    if (known instanceof Map)
      for (const unit of units) {
        const { shape, dtype } = unit
        place(
          unit,
          scope(() =>
            keep(new Tensor(native().mapped(map(cache!), known.get(unit.name)!, shape, dtype), shape, dtype)),
          ),
        )
      }
    else {
      for (const unit of units) {
        const read = new Map<PlannedTensor, Uint8Array<ArrayBuffer>>()
        for (const p of unit.members) if (p.kind !== 'stored') read.set(p, await readPlanned(p))
        place(
          unit,
          scope(() =>
            keep(
              quantize(
                unit.members.map((p) => onHost(p, read.get(p), DTYPES[p.dtype])),
                unit.dtype,
              ),
            ),
          ),
        )
        // Its sources are freed before the next are read.
        await sync()
        for (const planned of unit.members) await report(planned)
      }
      if (units.length && cache) policy.notes.push(await saved(cache, units, weights, known, on))
    }
    for (const planned of plain) {
      const { name } = planned
      // A fused bias that is stored in thirds is put together in memory, and other orders of elements are undone there.
      const bytes = planned.kind === 'stored' ? undefined : await readPlanned(planned)
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
      await report(planned)
    }
    if (told) onLoad?.(total(entries), total(entries))
    await sync()
    releaseCached()
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

/** A quantised matrix, of one weight or of the weights of one input behind each other. */
interface QuantizedUnit extends Unit {
  members: readonly PlannedTensor[]
}

/** Weights of one input that are multiplied as one are quantised as one, where that leaves nf4's blocks as they are. */
function quantizedUnits(entries: readonly PlannedTensor[], policy: WeightsPolicy): QuantizedUnit[] {
  const groups = new Map<string, PlannedTensor[]>()
  for (const p of entries) groups.set(p.pack ?? p.name, [...(groups.get(p.pack ?? p.name) ?? []), p])
  return [...groups].flatMap(([name, members]): QuantizedUnit[] => {
    const unit = (name: string, members: readonly PlannedTensor[]): QuantizedUnit => ({
      name,
      shape: [members.reduce((n, p) => n + p.shape[0]!, 0), members[0]!.shape[1]!],
      dtype: policy.dtypeOf(members[0]!) as QuantizedDType,
      members,
    })
    const whole =
      members.every((p) => p.shape[1] === members[0]!.shape[1]) &&
      (policy.dtypeOf(members[0]!) === 'int8' || members.slice(0, -1).every((p) => sizeOf(p.shape) % 16384 === 0))
    return members.length === 1 || !whole ? members.map((p) => unit(p.name, [p])) : [unit(name, members)]
  })
}

/** Writes the cache, and says so; where that fails, why. */
async function saved(
  path: string,
  units: readonly QuantizedUnit[],
  weights: ReadonlyMap<string, Tensor>,
  fault: string | undefined,
  on: FileSystem | undefined,
): Promise<string> {
  const again = fault === undefined ? '' : ` again, since ${path} could not be used: ${fault}`
  const form = units[0]!.dtype
  const bytes = async (unit: Unit): Promise<Uint8Array> => (await weights.get(unit.name)!.data()) as Uint8Array
  try {
    await writeQuantised(path, units, bytes, on)
    const size = units.reduce((n, u) => n + bytesOf(u.dtype, u.shape), 0)
    const kept = `kept in ${path} (${(size / 1e9).toFixed(2)} GB) for the next time`
    return `the weights were quantised as ${form}${again}, and ${kept}`
  } catch (error) {
    const reason = (error as Error).message.replace(/\.$/, '')
    return `the weights were quantised as ${form}${again}, and not kept for the next time: ${reason}`
  }
}
