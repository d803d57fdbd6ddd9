/** An exponential moving average of the trained tensors. */
import type { Adapter } from '../adapter/adapter.js'
import { copy, write } from '../ops/copy.js'
import { add, scale } from '../ops/elementwise.js'
import { keep, scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'

/** e ← d·e + (1 − d)·θ after each step t that was taken, with d = min(decay, (1 + t)/(10 + t)); e starts as θ. */
export class Average {
  /** By the names of the trained tensors, float32. */
  readonly values: ReadonlyMap<string, Tensor>

  constructor(
    private readonly adapter: Adapter,
    private readonly decay: number,
  ) {
    this.values = new Map([...adapter.parameters].map(([name, t]) => [name, this.copied(t)]))
  }

  /** After step `t`, counted from 1. */
  update(t: number): void {
    const d = Math.min(this.decay, (1 + t) / (10 + t))
    for (const [name, e] of this.values)
      scope(() => noGrad(() => write(e, add(scale(e, d), this.adapter.parameters.get(name)!, 1 - d))))
  }

  /** Runs `act` while the adapter holds the average; afterwards it holds what it held before, to the bit. */
  async during<R>(act: () => Promise<R>): Promise<R> {
    const { parameters } = this.adapter
    const before = new Map([...parameters].map(([name, t]) => [name, this.copied(t)]))
    try {
      for (const [name, e] of this.values) write(parameters.get(name)!, e)
      return await act()
    } finally {
      for (const [name, t] of before) {
        write(parameters.get(name)!, t)
        t.dispose()
      }
    }
  }

  dispose(): void {
    for (const t of this.values.values()) t.dispose()
  }

  private copied(t: Tensor): Tensor {
    return scope(() => noGrad(() => keep(copy(t))))
  }
}
