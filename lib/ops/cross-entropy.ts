import { native } from '../native.js'
import { record } from '../tensor/tape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { contiguous } from './copy.js'

declare module '../native.js' {
  interface Ops {
    cross_entropy_forward(logits: act, labels: tensor, ignore: int, factor: float, loss: out, lse: out): void
    cross_entropy_backward(
      dloss: tensor,
      logits: act,
      labels: tensor,
      lse: tensor,
      ignore: int,
      factor: float,
      dlogits: actOut,
    ): void
  }
}

/** The label of rows that are ignored. */
export const IGNORE = -100

/**
 * factor·Σ (log Σ exp(logits) − logits at the label) over the rows whose label is not {@link IGNORE}: logits [...,V]
 * float32 or bfloat16, labels [...] int32; one float32 number. factor 1/count makes it a mean.
 */
export function crossEntropy(a: Tensor, labels: Tensor, factor = 1): Tensor {
  const logits = contiguous(a)
  labels = contiguous(labels)
  const [loss, lse] = [empty([]), empty([logits.size / (logits.shape.at(-1) || 1)])]
  native().ops.cross_entropy_forward(logits.handle, labels.handle, IGNORE, factor, loss.handle, lse.handle)
  return record('crossEntropy', loss, [logits], (dloss) => {
    const dlogits = empty(logits.shape, logits.dtype)
    native().ops.cross_entropy_backward(
      dloss.handle,
      logits.handle,
      labels.handle,
      lse.handle,
      IGNORE,
      factor,
      dlogits.handle,
    )
    return [dlogits]
  })
}
