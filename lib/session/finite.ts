/**
 * Checks for numbers that are not finite, where they would decide something; the error names the tensor or layer that
 * they come from.
 */
import { InputError } from '../errors.js'
import type { ImageModel } from '../models/image-model.js'
import type { Observe } from '../models/finder.js'
import { cast } from '../ops/copy.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'

/** The model itself is not finite: no sample can be computed. */
export class NotFiniteError extends InputError {}

/** Elements checked at a time. */
const PIECE = 1 << 22

/** Whether a tensor holds neither NaN nor an infinity. Integers do not. */
export async function isFiniteTensor(t: Tensor): Promise<boolean> {
  if (!/float/.test(t.dtype)) return true
  const pieces = t.isContiguous ? Math.ceil(t.size / PIECE) : 1
  for (let i = 0; i < pieces; i++) {
    const values = scope(() =>
      noGrad(() =>
        cast(pieces === 1 ? t : t.view([Math.min(PIECE, t.size - i * PIECE)], [1], i * PIECE), 'float32').data(),
      ),
    )
    if (!((await values) as Float32Array).every(Number.isFinite)) return false
  }
  return true
}

/** The name of the first tensor that is not finite. */
export async function firstNotFinite(tensors: Iterable<readonly [string, Tensor]>): Promise<string | undefined> {
  for (const [name, t] of tensors) if (!(await isFiniteTensor(t))) return name
  return undefined
}

/** Inputs of {@link notFinite}. */
export interface Suspects {
  model: ImageModel
  /** Trained tensors. */
  adapter?: { parameters: ReadonlyMap<string, Tensor> } | undefined
  /** Computes the numbers again and shows every layer's output, in order. */
  again?: ((observe: Observe) => unknown) | undefined
}

/**
 * The error about numbers that are not finite: `WHAT: REASON.` The reason is the first of these that applies: a trained
 * tensor, a weight, or a layer's output that is not finite itself.
 */
export async function notFinite(what: string, { model, adapter, again }: Suspects): Promise<NotFiniteError> {
  const because = (reason: string): NotFiniteError => new NotFiniteError(`${what} not finite: ${reason}.`)
  const trained = await firstNotFinite(adapter?.parameters ?? [])
  if (trained !== undefined)
    return because(`the trained tensor ${trained} holds a NaN or an infinity; take an adapter that was saved before`)
  const weight = await firstNotFinite(model.weights)
  if (weight !== undefined)
    return because(`the weight ${weight} holds a NaN or an infinity; the checkpoint is damaged, fetch it again`)
  const layer =
    again &&
    (await scope(() =>
      noGrad(() => {
        const seen: [string, Tensor][] = []
        again((name, t) => seen.push([name, t]))
        return firstNotFinite(seen)
      }),
    ))
  const remedy = model.precision === 'float32' ? 'an activation is too large for float32' : 'try precision float32'
  return because(
    layer === undefined
      ? `every weight is finite, so ${remedy}`
      : `${layer} is the first layer whose output is not; ${remedy}`,
  )
}
