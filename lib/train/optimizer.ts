/** AdamW over named parameters, with learning rates per group and clipping by the global norm. */
import { InputError } from '../errors.js'
import { adamwAll, adamwSchedule, gradientNorm } from '../ops/adamw.js'
import { zeros } from '../ops/copy.js'
import { keep, scope } from '../tensor/scope.js'
import { empty, type Tensor } from '../tensor/tensor.js'

/** A trained tensor with its group and decay. */
export interface Parameter {
  name: string
  tensor: Tensor
  /** Which learning rate applies. */
  group: string
  /** Whether weight decay applies. */
  decay: boolean
}

/** Settings of AdamW (docs/model.md#objective). */
export interface AdamWOptions {
  /** One rate, or one per group. */
  lr: number | Readonly<Record<string, number>>
  betas: readonly [number, number]
  eps: number
  weightDecay: number
  /** Largest global norm of the gradient, or 0 for none. */
  clip?: number
}

/** The result of a step. */
export interface Outcome {
  /** Global norm of all gradients before clipping. */
  norm: number
  /** The losses that the step was given. */
  losses: number[]
  /** Whether the step was taken: norm and losses are finite. Otherwise parameters and moments are unchanged. */
  taken: boolean
}

/** The gradient of a parameter; undefined where it has none. */
export type GradientOf = (p: Parameter) => Tensor | undefined
/** The one that the tape gave it. */
export const own: GradientOf = (p) => p.tensor.grad

/** The factor that limits the gradients' norm to `max`. */
export const clipScale = (norm: number, max: number): number => Math.min(1, max / (norm + 1e-6))

/**
 * AdamW with decoupled weight decay. A step has three parts: {@link prepare} writes learning rates and bias corrections
 * to the device; {@link update} queues norm, clipping, the check for finite numbers and the update, or records them
 * into a graph; {@link finish} waits for the result. {@link step} is all three.
 */
export class AdamW {
  /** Steps taken. */
  steps = 0
  readonly moments: ReadonlyMap<string, { m: Tensor; v: Tensor }>
  /** The distinct pairs of group and weight decay. */
  readonly #kinds: { group: string; weightDecay: number }[] = []
  readonly #kindOf = new Map<Parameter, number>()
  readonly #schedule: Tensor

  constructor(
    readonly parameters: readonly Parameter[],
    readonly options: AdamWOptions,
  ) {
    const { lr, weightDecay } = options
    if (typeof lr === 'object') {
      const missing = parameters.find((p) => lr[p.group] === undefined)
      if (missing)
        throw new InputError(
          `train.lr: expected a rate for the group ${missing.group} (${missing.name}); give train.lr.${missing.group}, or one number for all.`,
        )
    }
    this.moments = new Map(
      parameters.map(({ name, tensor }) => [
        name,
        {
          m: keep(zeros(tensor.shape, 'float32', tensor.device)),
          v: keep(zeros(tensor.shape, 'float32', tensor.device)),
        },
      ]),
    )
    for (const p of parameters) {
      const kind = { group: p.group, weightDecay: p.decay ? weightDecay : 0 }
      const known = this.#kinds.findIndex((k) => k.group === kind.group && k.weightDecay === kind.weightDecay)
      this.#kindOf.set(p, known < 0 ? this.#kinds.push(kind) - 1 : known)
    }
    this.#schedule = keep(empty([2 + 2 * this.#kinds.length], 'int64', this.device))
  }

  /** The device of the parameters. */
  get device() {
    return this.parameters[0]?.tensor.device
  }

  /**
   * Writes the learning rates and bias corrections of the next step.
   *
   * @param factor factor of the learning rates, from the schedule
   */
  prepare(factor = 1): void {
    const { lr, betas } = this.options
    const kinds = this.#kinds.map(({ group, weightDecay }) => ({
      lr: (typeof lr === 'number' ? lr : lr[group]!) * factor,
      weightDecay,
    }))
    adamwSchedule(this.#schedule, this.steps + 1, betas, kinds)
  }

  /**
   * Queues the prepared step; parameters without a gradient are not changed. Returns the report that {@link finish}
   * reads.
   *
   * @param losses [k], float32: the step is skipped unless these are finite too
   * @param report receives the report, [3+k]
   */
  update(losses?: Tensor, gradient = own, report = empty([3 + (losses?.size ?? 0)], 'float32', this.device)): Tensor {
    const trained = this.parameters.flatMap((p) => {
      const grad = gradient(p)
      return grad ? [{ param: p.tensor, grad, ...this.moments.get(p.name)!, kind: this.#kindOf.get(p)! }] : []
    })
    gradientNorm(
      trained.map((t) => t.grad),
      losses,
      this.options.clip ?? 0,
      report,
    )
    adamwAll(trained, report, this.#schedule, this.options)
    return report
  }

  /** Waits for what {@link update} returned, and counts the step where it was taken. */
  async finish(report: Tensor): Promise<Outcome> {
    const [sum, , taken, ...losses] = (await report.data()) as Float32Array
    if (taken) this.steps++
    return { norm: Math.sqrt(sum!), losses, taken: taken === 1 }
  }

  /** One step on the current gradients, which are freed. `factor`: see {@link prepare}. */
  async step(factor = 1): Promise<Outcome> {
    return scope(async () => {
      this.prepare(factor)
      const report = this.update()
      this.zeroGrad()
      return this.finish(report)
    })
  }

  /** The first parameter whose gradient holds a NaN or an infinity. */
  async firstBad(gradient = own): Promise<string | undefined> {
    for (const p of this.parameters) {
      const grad = gradient(p)
      if (grad && !((await grad.data()) as Float32Array).every(Number.isFinite)) return p.name
    }
    return undefined
  }

  /** Frees all gradients. */
  zeroGrad(): void {
    for (const { tensor } of this.parameters) {
      tensor.grad?.dispose()
      tensor.grad = undefined
    }
  }

  /** Frees the moments and all gradients; not the parameters. */
  dispose(): void {
    this.zeroGrad()
    this.#schedule.dispose()
    for (const { m, v } of this.moments.values()) {
      m.dispose()
      v.dispose()
    }
  }
}
