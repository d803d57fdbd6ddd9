/** AdamW over named parameters, with learning rates per group and clipping by the global norm. */
import { InputError } from '../errors.js'
import { adamwAll, adamwSchedule, gradientNorm } from '../ops/adamw.js'
import { zeros } from '../ops/copy.js'
import { keep, scope } from '../tensor/scope.js'
import { empty, type Tensor } from '../tensor/tensor.js'

/** A trained tensor, and what the optimiser has to know of it. */
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

/** What a step came to. */
export interface Outcome {
  /** Global norm of the gradients that there are, before clipping. */
  norm: number
  losses: number[]
  /** Whether it was taken: norm and losses are finite. Else parameters and moments are as they were. */
  taken: boolean
}

/** Where a parameter's gradient lies; undefined where it has none. */
export type GradientOf = (p: Parameter) => Tensor | undefined
const own: GradientOf = (p) => p.tensor.grad

/** What all gradients are multiplied by so that their norm is at most `max`. */
export const clipScale = (norm: number, max: number): number => Math.min(1, max / (norm + 1e-6))

/**
 * A step is {@link prepare}, {@link update} and {@link finish}: what changes from step to step is written to where the
 * parameters lie; norm, clipping, the check for finite numbers and the update are queued, or recorded into a graph; one
 * wait tells what became of it. {@link step} is all three.
 */
export class AdamW {
  /** Steps taken. */
  steps = 0
  readonly moments: ReadonlyMap<string, { m: Tensor; v: Tensor }>
  /** Of each kind of parameter its group, and weight decay. */
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

  /** Where the parameters lie. */
  get device() {
    return this.parameters[0]?.tensor.device
  }

  /**
   * Writes what the next step depends on beside gradients.
   *
   * @param factor what the learning rates are multiplied by: the schedule
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
   * Queues the step that was prepared; parameters without a gradient stay as they are. Returns what {@link finish}
   * reads.
   *
   * @param losses [k], float32: numbers without which the step is not taken either, unless they are finite
   * @param report where to put what it came to, [3+k]
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

  /** One step on the gradients that there are, which are freed. `factor`: see {@link prepare}. */
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
