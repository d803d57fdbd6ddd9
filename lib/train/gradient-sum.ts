/** The gradients of a step, added over the ranks that computed its parts. */
import { accumulate } from '../ops/adamw.js'
import { write, zeros } from '../ops/copy.js'
import type { Ranks } from '../ranks/ranks.js'
import { roundUp } from '../shape.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { GradientOf, Parameter } from './optimizer.js'

/** Gradients and losses of all ranks, as {@link AdamW.update} takes them. */
export interface Summed {
  gradient: GradientOf
  losses: Tensor
}

/** Elements that a gradient is aligned to in the flat buffer, as separate tensors are. */
const ALIGNED = 64

/**
 * Adds what the ranks computed of a step: all gradients in one flat buffer, by {@link Ranks.sum}.
 */
export class GradientSum {
  readonly #places: ReadonlyMap<Parameter, { offset: number; index: number }>
  readonly #gradients: number

  constructor(
    private readonly ranks: Ranks,
    private readonly parameters: readonly Parameter[],
  ) {
    let offset = 0
    this.#places = new Map(
      parameters.map((p, index) => {
        const place = { offset, index }
        offset += roundUp(p.tensor.size, ALIGNED)
        return [p, place]
      }),
    )
    this.#gradients = offset
  }

  /**
   * The sums. A parameter that no rank has a gradient of has none.
   *
   * @param losses [k], as many on every rank
   */
  async of(gradient: GradientOf, losses: Tensor): Promise<Summed> {
    const { ranks, parameters } = this
    const k = losses.size
    const device = losses.device!
    // The gradients, the losses, and which of the gradients there are.
    const given = roundUp(this.#gradients + k, ALIGNED)
    const flat = zeros([given + parameters.length], 'float32', device)
    const view = (of: Tensor, p: Parameter): Tensor => of.view(p.tensor.shape, undefined, this.#places.get(p)!.offset)
    const there = parameters.flatMap((p) => {
      const grad = gradient(p)
      return grad ? [{ p, grad }] : []
    })
    if (there.length)
      accumulate(
        there.map(({ p }) => view(flat, p)),
        there.map(({ grad }) => grad),
      )
    write(flat.view([k], undefined, this.#gradients), losses)
    const mine = (await flat.data()) as Float32Array
    for (const { p } of there) mine[given + this.#places.get(p)!.index] = 1
    const added = await ranks.sum(mine)
    const sum = tensor(added, [added.length], 'float32', device)
    return {
      gradient: (p) => (added[given + this.#places.get(p)!.index] ? view(sum, p) : undefined),
      losses: sum.view([k], undefined, this.#gradients),
    }
  }
}
