/** Memory in which linear layers of one input lie behind each other, so that one product does for all of them. */
import { PACKS } from '../checkpoint/config.js'
import type { Device } from '../tensor/device.js'
import { keep } from '../tensor/scope.js'
import { empty, type DType, type Tensor } from '../tensor/tensor.js'

/**
 * Memory on a device for the weights and biases of all {@link PACKS} that are there whole, alike in width and dtype: by
 * the name of each part its rows, by the name of the pack all of them. The caller fills in the parts and frees
 * everything.
 */
export function allocatePacks(
  tensors: Iterable<{ name: string; shape: readonly number[]; dtype: DType }>,
  device: Device,
): { parts: Map<string, Tensor>; packs: Map<string, Tensor> } {
  const given = new Map([...tensors].map((t) => [t.name, t]))
  const [parts, packs] = [new Map<string, Tensor>(), new Map<string, Tensor>()]
  for (const [pack, members] of Object.entries(PACKS)) {
    const end = `.${members[0]!}.weight`
    for (const name of given.keys()) {
      if (!name.endsWith(end)) continue
      const prefix = name.slice(0, -end.length + 1)
      const layers = ['weight', 'bias'].map((kind) => members.flatMap((m) => given.get(`${prefix}${m}.${kind}`) ?? []))
      const alike = (ts: (typeof layers)[0]): boolean =>
        ts.every((t) => t.dtype === ts[0]!.dtype && `${t.shape.slice(1)}` === `${ts[0]!.shape.slice(1)}`)
      // One product has one bias, or none.
      if (
        layers[0]!.length !== members.length ||
        (layers[1]!.length && layers[1]!.length !== members.length) ||
        !layers.every(alike)
      )
        continue
      for (const [i, of] of layers.entries()) {
        const first = of[0]
        if (!first) continue
        const all = keep(empty([of.reduce((n, t) => n + t.shape[0]!, 0), ...first.shape.slice(1)], first.dtype, device))
        packs.set(`${prefix}${pack}.${i ? 'bias' : 'weight'}`, all)
        let start = 0
        for (const t of of) {
          parts.set(t.name, keep(all.view(t.shape, all.strides, start * all.strides[0]!)))
          start += t.shape[0]!
        }
      }
    }
  }
  return { parts, packs }
}
