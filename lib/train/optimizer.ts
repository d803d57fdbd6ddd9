/** AdamW over named parameters, with learning rates per group and clipping by the global norm. */
import { InputError } from '../errors.js'
import { adamw, addSquareSum } from '../ops/adamw.js'
import { full, zeros } from '../ops/copy.js'
import { keep, scope } from '../tensor/scope.js'
import type { Tensor } from '../tensor/tensor.js'

export interface Parameter {
  name: string
  tensor: Tensor
  /** Which learning rate applies. */
  group: string
  /** Whether weight decay applies. */
  decay: boolean
}

export interface AdamWOptions {
  /** One rate, or one per group. */
  lr: number | Readonly<Record<string, number>>
  betas: readonly [number, number]
  eps: number
  weightDecay: number
  /** Largest global norm of the gradient, or 0 for none. */
  clip?: number
}

/** What all gradients are multiplied by so that their norm is at most `max`. */
export const clipScale = (norm: number, max: number): number => Math.min(1, max / (norm + 1e-6))

export class AdamW {
  /** Steps taken. */
  steps = 0
  readonly moments: ReadonlyMap<string, { m: Tensor; v: Tensor }>

  constructor(
    readonly parameters: readonly Parameter[],
    readonly options: AdamWOptions,
  ) {
    const { lr } = options
    if (typeof lr === 'object') {
      const missing = parameters.find((p) => lr[p.group] === undefined)
      if (missing) throw new InputError(`train.lr: expected a rate for the group ${missing.group} (${missing.name}); give train.lr.${missing.group}, or one number for all.`)
    }
    this.moments = new Map(parameters.map(({ name, tensor }) => [name, { m: keep(zeros(tensor.shape, 'float32', tensor.device)), v: keep(zeros(tensor.shape, 'float32', tensor.device)) }]))
  }

  /** Global norm of the gradients that there are. */
  async gradientNorm(): Promise<number> {
    return scope(async () => {
      const sum = zeros([1], 'float32', this.parameters[0]?.tensor.device)
      for (const { tensor } of this.parameters) if (tensor.grad) addSquareSum(sum, tensor.grad)
      return Math.sqrt(await sum.item())
    })
  }

  /** The first parameter whose gradient holds a NaN or an infinity. */
  async firstBad(): Promise<string | undefined> {
    for (const { name, tensor } of this.parameters) {
      if (tensor.grad && !(((await tensor.grad.data()) as Float32Array).every(Number.isFinite))) return name
    }
    return undefined
  }

  /**
   * One step, and the gradients are freed.
   *
   * @param norm the gradients' global norm, for clipping
   * @param factor what the learning rates are multiplied by: the schedule
   */
  step(norm: number, factor = 1): void {
    const { lr, betas, eps, weightDecay, clip = 0 } = this.options
    this.steps++
    scope(() => {
      const scale = clip > 0 ? full([1], clipScale(norm, clip), 'float32', this.parameters[0]?.tensor.device) : undefined
      for (const { name, tensor, group, decay } of this.parameters) {
        if (!tensor.grad) continue
        const { m, v } = this.moments.get(name)!
        const rate = (typeof lr === 'number' ? lr : lr[group]!) * factor
        adamw(tensor, tensor.grad, m, v, { lr: rate, betas, eps, weightDecay: decay ? weightDecay : 0, step: this.steps, ...(scale && { scale }) })
      }
    })
    this.zeroGrad()
  }

  /** Frees all gradients. */
  zeroGrad(): void {
    for (const { tensor } of this.parameters) {
      tensor.grad?.dispose()
      tensor.grad = undefined
    }
  }

  dispose(): void {
    this.zeroGrad()
    for (const { m, v } of this.moments.values()) {
      m.dispose()
      v.dispose()
    }
  }
}
