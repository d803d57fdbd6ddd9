/**
 * Columns of a packed tensor: results of one product for several readers, which read them and write gradients in place.
 */
import { empty, type Tensor } from '../tensor/tensor.js'

/** Elements `start` to `start + width` of the last dimension of `of`. Those of one packed tensor do not overlap. */
export interface Columns {
  readonly of: Tensor
  readonly start: number
  readonly width: number
}

const isWhole = ({ of, width }: Columns): boolean => width === of.dim(-1)

/** All columns of a tensor, or those that are given. */
export const columnsOf = (x: Tensor | Columns): Columns => ('of' in x ? x : { of: x, start: 0, width: x.dim(-1) })

/** The same columns after `arranged` was applied to each tensor once. */
export function columnsIn(given: readonly Columns[], arranged: (t: Tensor) => Tensor): Columns[] {
  const made = new Map<Tensor, Tensor>()
  return given.map(({ of, start, width }) => {
    const t = made.get(of) ?? arranged(of)
    made.set(of, t)
    return { of: t, start, width }
  })
}

/** The columns as a view, for as long as an operator is called. */
export function viewOf({ of, start, width }: Columns, t: Tensor = of): Tensor {
  return t.view([...t.shape.slice(0, -1), width], t.strides, start * (t.strides.at(-1) ?? 1))
}

/** The shape of the columns alone. */
export const shapeOf = ({ of, width }: Columns): number[] => [...of.shape.slice(0, -1), width]

/** An operator's arguments that are columns: the tensors that the tape records, and their gradients. */
export class ColumnArguments {
  /** Whole tensors one for each argument, packed ones once. */
  readonly inputs: Tensor[] = []
  readonly #index: number[]

  constructor(readonly columns: readonly Columns[]) {
    this.#index = columns.map((c) => {
      const known = isWhole(c) ? -1 : this.inputs.indexOf(c.of)
      return known >= 0 ? known : this.inputs.push(c.of) - 1
    })
  }

  /**
   * Memory for the gradients of the inputs that need one, and views of the columns in it, for the caller to fill and to
   * dispose of. Columns that no argument names get 0.
   */
  gradients(
    needs: readonly boolean[],
    zeros: (like: Tensor) => Tensor,
  ): { inputs: (Tensor | undefined)[]; columns: (Tensor | undefined)[] } {
    const inputs = this.inputs.map((t, i) => {
      if (!needs[i]) return undefined
      const named = this.columns.reduce((n, c, k) => n + (this.#index[k] === i ? c.width : 0), 0)
      return named === t.dim(-1) ? empty(t.shape, t.dtype) : zeros(t)
    })
    return {
      inputs,
      columns: this.columns.map((c, k) => {
        const dx = inputs[this.#index[k]!]
        return dx && viewOf(c, dx)
      }),
    }
  }
}
