import { invalid } from '../errors.js'
import { native } from '../native.js'
import type { QuantizedDType } from '../tensor/dtype.js'
import { scope } from '../tensor/scope.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    quantize(ws: tensors, out: out): void
    dequantize(q: tensor, w: out): void
  }
}

/**
 * A weight [out,in] of any float type in 8 or 4 bits, frozen, for {@link linear}, {@link linearGelu} and {@link lora}
 * (docs/weights.md has the equations). Several weights of one width become one, their rows behind each other: `nf4`
 * quantises each by itself, and all but the last must have a multiple of 16384 elements; `int8` chooses the columns
 * that stay bfloat16 for all together. The result is made on the CPU and lies where the first weight lies.
 */
export function quantize(weight: Tensor | readonly Tensor[], dtype: QuantizedDType): Tensor {
  const given = Array.isArray(weight) ? (weight as readonly Tensor[]) : [weight as Tensor]
  if (dtype !== 'int8' && dtype !== 'nf4') throw invalid('quantize', 'dtype int8 or nf4', dtype)
  const [first] = given
  if (!first) throw invalid('quantize', 'a weight or several', 'none')
  const trained = given.find((w) => w.requiresGrad)
  if (trained)
    throw invalid('quantize', 'a frozen weight', `${trained.label ?? 'one'} that requires a gradient`, 'detach() it')
  const device = first.device ?? 'cpu'
  return scope(() => {
    const here = given.map((w) => contiguous(w.to('cpu')))
    const out = empty([here.reduce((n, w) => n + w.dim(0), 0), here[0]!.dim(1)], dtype, 'cpu')
    native().ops.quantize(
      here.map((w) => w.handle),
      out.handle,
    )
    return out.freeze().to(device).freeze()
  })
}

/** The numbers [out,in] float32 that a weight of {@link quantize} stands for. */
export function dequantize(q: Tensor): Tensor {
  const w = empty(q.shape)
  native().ops.dequantize(q.handle, w.handle)
  return w
}
