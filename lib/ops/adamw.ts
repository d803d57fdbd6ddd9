import { native } from '../native.js'
import type { Tensor } from '../tensor/tensor.js'

declare module '../native.js' {
  interface Ops {
    square_sum(x: tensor, sum: inout): void
    adamw(
      param: inout,
      grad: tensor,
      m: inout,
      v: inout,
      scale: tensor | null,
      lr: float,
      beta1: float,
      beta2: float,
      eps: float,
      decay: float,
      step: int,
    ): void
    accumulate(sums: inouts, xs: tensors): void
    gradient_norm(grads: tensors, losses: tensor | null, clip: float, report: out): void
    adamw_schedule(step: int, beta1: float, beta2: float, lr: floats, decay: floats, schedule: out): void
    adamw_all(
      params: inouts,
      grads: tensors,
      m: inouts,
      v: inouts,
      rows: floats,
      report: tensor,
      schedule: tensor,
      beta1: float,
      beta2: float,
      eps: float,
    ): void
  }
}

/** The settings of one AdamW step of one parameter. */
export interface AdamWStep {
  lr: number
  betas: readonly [number, number]
  eps: number
  weightDecay: number
  /** Counted from 1. */
  step: number
  /** One float32 number that the gradient is multiplied by: clipping. */
  scale?: Tensor
}

/**
 * One step of AdamW with decoupled weight decay, in place: with g the scaled gradient, m = β₁m + (1 − β₁)g, v = β₂v +
 * (1 − β₂)g², θ = θ(1 − lr·decay) − lr·m̂/(√v̂ + ε). `param`, `grad`, `m` and `v` are float32 of one shape.
 */
export function adamw(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, s: AdamWStep): void {
  native().ops.adamw(
    param.handle,
    grad.handle,
    m.handle,
    v.handle,
    s.scale?.handle ?? null,
    s.lr,
    s.betas[0],
    s.betas[1],
    s.eps,
    s.weightDecay,
    s.step,
  )
}

/** sum += Σ x², `sum` one float32 number. */
export function addSquareSum(sum: Tensor, x: Tensor): void {
  native().ops.square_sum(x.handle, sum.handle)
}

// ---- all trained tensors at once, in a handful of launches on a CUDA device: the bits of the calls above, one after
// the other ----

const handles = (tensors: readonly Tensor[]) => tensors.map((t) => t.handle)

/** sums[i] += xs[i], float32, of one shape each. */
export function accumulate(sums: readonly Tensor[], xs: readonly Tensor[]): void {
  native().ops.accumulate(handles(sums), handles(xs))
}

/**
 * What a step depends on, into `report` [3+k], float32: S, the sum of the squares of all gradients; min(1, clip / (√S +
 * 1e-6)), or 1 where `clip` is 0; 1 where S and all k losses are finite, else 0; the losses.
 */
export function gradientNorm(grads: readonly Tensor[], losses: Tensor | undefined, clip: number, report: Tensor): void {
  native().ops.gradient_norm(handles(grads), losses?.handle ?? null, clip, report.handle)
}

/** A learning rate and weight decay that some of the parameters share. */
export interface Kind {
  lr: number
  weightDecay: number
}

/**
 * Writes what changes from step to step into `schedule`, int64 [2+2n] for n kinds of parameters. No part of a graph,
 * but what is called before one is launched.
 *
 * @param step counted from 1
 */
export function adamwSchedule(
  schedule: Tensor,
  step: number,
  betas: readonly [number, number],
  kinds: readonly Kind[],
): void {
  native().ops.adamw_schedule(
    step,
    betas[0],
    betas[1],
    kinds.map((k) => k.lr),
    kinds.map((k) => k.weightDecay),
    schedule.handle,
  )
}

/** A parameter's tensors, and which of the kinds in the schedule it is. */
export interface Trained {
  param: Tensor
  grad: Tensor
  m: Tensor
  v: Tensor
  kind: number
}

/**
 * {@link adamw} for every parameter, with the gradients' scale of a {@link gradientNorm} report. Nothing is changed
 * where the report says that something is not finite.
 */
export function adamwAll(
  trained: readonly Trained[],
  report: Tensor,
  schedule: Tensor,
  { betas, eps }: Pick<AdamWStep, 'betas' | 'eps'>,
): void {
  const all = (of: (t: Trained) => Tensor) => handles(trained.map(of))
  native().ops.adamw_all(
    all((t) => t.param),
    all((t) => t.grad),
    all((t) => t.m),
    all((t) => t.v),
    trained.map((t) => t.kind),
    report.handle,
    schedule.handle,
    betas[0],
    betas[1],
    eps,
  )
}
