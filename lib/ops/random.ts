import { native } from '../native.js'
import type { Device } from '../tensor/device.js'
import { empty, type Tensor } from '../tensor/tensor.js'

declare module '../native.js' {
  interface Ops {
    random_uniform(seed: int, stream: int, low: float, high: float, y: out): void
    random_normal(seed: int, stream: int, mean: float, std: float, y: out): void
  }
}

/**
 * A counter-based random generator (Philox). Numbers depend on seed, stream and position alone: they are the same on
 * every machine and for any number of threads.
 */
export class Random {
  #streams = 0
  /** @param device where its tensors lie */
  constructor(
    readonly seed: number,
    readonly device: Device = 'cpu',
  ) {}

  /** A float32 tensor, uniform in [low, high). Every call takes the next stream. */
  uniform(shape: readonly number[], low = 0, high = 1): Tensor {
    const y = empty(shape, 'float32', this.device)
    native().ops.random_uniform(this.seed, this.#streams++, low, high, y.handle)
    return y
  }
  /** A float32 tensor, normally distributed. */
  normal(shape: readonly number[], mean = 0, std = 1): Tensor {
    const y = empty(shape, 'float32', this.device)
    native().ops.random_normal(this.seed, this.#streams++, mean, std, y.handle)
    return y
  }
}
