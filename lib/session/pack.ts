/** Adjacent memory for the linear layers of one input, so that one product computes all of them. */
import type { Device } from '../tensor/device.js'
import { keep } from '../tensor/scope.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import type { DType } from '../tensor/dtype.js'

interface Member {
  name: string
  shape: readonly number[]
  dtype: DType
  /** The name of the pack that it belongs to. */
  pack?: string | undefined
}

/**
 * Memory on a device for all packs of tensors that are alike in width and dtype: by the name of each part its rows, by
 * the name of the pack all of them. The caller fills in the parts and frees everything.
 */
export function allocatePacks(
  tensors: Iterable<Member>,
  device: Device,
): { parts: Map<string, Tensor>; packs: Map<string, Tensor> } {
  const members = new Map<string, Member[]>()
  for (const t of tensors) if (t.pack !== undefined) members.set(t.pack, [...(members.get(t.pack) ?? []), t])
  const [parts, packs] = [new Map<string, Tensor>(), new Map<string, Tensor>()]
  for (const [pack, of] of members) {
    const { dtype, shape } = of[0]!
    const width = shape.slice(1)
    if (!of.every((t) => t.dtype === dtype && `${t.shape.slice(1)}` === `${width}`)) continue
    const all = keep(empty([of.reduce((n, t) => n + t.shape[0]!, 0), ...width], dtype, device))
    packs.set(pack, all)
    let start = 0
    for (const t of of) {
      parts.set(t.name, keep(all.view(t.shape, all.strides, start * all.strides[0]!)))
      start += t.shape[0]!
    }
  }
  return { parts, packs }
}
