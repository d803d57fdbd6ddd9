/**
 * One optimiser step: forward and backward over its micro-batches, the check for numbers that are not finite, AdamW.
 */
import { performance } from 'node:perf_hooks'
import type { Adapter } from '../adapter/adapter.js'
import type { Sample } from '../data/manifest.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { encode, qformerRows, textRows, type Encoded } from '../session/encode.js'
import type { Features } from '../session/features.js'
import { alone, type Ranks } from '../ranks/ranks.js'
import { seenOf } from '../session/visual.js'
import { answerTokens } from '../models/image-model.js'
import { scope } from '../tensor/scope.js'
import { full, write, zeros } from '../ops/copy.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { forwardBackward, type StepInputs, StepGraphs } from './graphs.js'
import type { Recompute } from './config.js'
import { GradientSum } from './gradient-sum.js'
import { own, type AdamW, type GradientOf } from './optimizer.js'

/** The result of one optimiser step. */
export interface StepResult {
  /** Cross-entropy per answer token. */
  loss: number
  /** Answer tokens of the step. */
  tokens: number
  /** Global norm of the gradient before clipping. */
  norm: number
  /** Share of padding in the texts of both language towers, from 0 to 1. */
  padding: number
  /** Seconds that the step waited for data. */
  waited: number
  /** Set where the step was skipped: the name of what was not finite. */
  bad?: string
}

const powerOfTwo = (n: number): number => 2 ** Math.ceil(Math.log2(n))

/** Takes optimiser steps on an adapter. The caller owns the model, the adapter, the features and the optimiser. */
export class Trainer {
  private readonly graphs: StepGraphs | undefined
  /** Adds what several ranks computed; undefined where there is one. */
  private readonly sum: GradientSum | undefined
  /** The gradients of the step, where they are not those of the parameters. */
  private gradient: GradientOf | undefined
  /** Of the step: positions of texts, those that are no padding, and seconds waited for data. */
  private seen = { positions: 0, filled: 0, waited: 0 }

  /**
   * @param options `graphs: false` launches operators one by one on a CUDA device too; `graphBytes`: most bytes of
   *   memory for graphs; `recompute`: see {@link forwardBackward}; `ranks`: those that take each step together
   */
  constructor(
    readonly checkpoint: Checkpoint,
    readonly adapter: Adapter,
    readonly features: Features,
    readonly optimizer: AdamW,
    private readonly options: {
      graphs?: boolean | undefined
      graphBytes?: number | undefined
      recompute?: Recompute | undefined
      ranks?: Ranks | undefined
    } = {},
  ) {
    const { model } = checkpoint
    const { graphs, graphBytes: bytes, recompute, ranks = alone } = options
    if (ranks.size > 1) this.sum = new GradientSum(ranks, optimizer.parameters)
    if (model.device !== 'cpu' && graphs !== false)
      this.graphs = new StepGraphs(model, adapter, optimizer, { bytes, recompute })
  }

  /** Frees graphs and buffers; not the model, the adapter or the optimiser. */
  dispose(): void {
    this.graphs?.dispose()
  }

  /**
   * The loss of (3): cross-entropy summed over the answer tokens of all micro-batches, divided by their number; then
   * one step. Where loss or gradient is not finite the step is skipped and the cause named.
   *
   * @param mine what this rank computes of the micro-batches
   */
  async step(
    microBatches: readonly (readonly Sample[])[],
    factor = 1,
    mine: readonly (readonly Sample[])[] = microBatches,
  ): Promise<StepResult> {
    const { checkpoint, adapter, optimizer } = this
    const texts = new Map(microBatches.flat().map((s) => [s, encode(checkpoint, adapter.config, s)]))
    const encoded = (batches: readonly (readonly Sample[])[]): Encoded[][] =>
      batches.map((samples) => samples.map((s) => texts.get(s)!))
    const tokens = encoded(microBatches).reduce((n, batch) => n + answerTokens(textRows(batch, checkpoint.special)), 0)
    optimizer.prepare(factor)
    this.seen = { positions: 0, filled: 0, waited: 0 }
    return scope(async () => {
      try {
        const { norm, losses, taken } = await optimizer.finish(await this.queue(mine, encoded(mine), tokens))
        this.graphs?.succeeded()
        const loss = losses.reduce((sum, l) => sum + l / tokens, 0)
        const { positions, filled, waited } = this.seen
        const result = { loss, tokens, norm, padding: positions ? 1 - filled / positions : 0, waited }
        if (taken) return result
        const bad =
          (await this.badParameter()) ??
          (await optimizer.firstBad(this.gradient).then((name) => name && `the gradient of ${name}`)) ??
          'the loss'
        return { ...result, bad }
      } catch (error) {
        this.graphs?.failed()
        throw error
      } finally {
        this.gradient = undefined
        optimizer.zeroGrad()
      }
    })
  }

  /** Queues a step and returns the optimiser's report; waits for features, and for other ranks, alone. */
  private async queue(
    microBatches: readonly (readonly Sample[])[],
    encoded: readonly (readonly Encoded[])[],
    tokens: number,
  ): Promise<Tensor> {
    const {
      checkpoint: { model },
      adapter,
      graphs,
      optimizer,
      sum,
      options: { recompute },
    } = this
    this.gradient = graphs?.gradient
    if (graphs && microBatches.length === 1 && !sum)
      return graphs.step(await this.inputs(microBatches[0]!, encoded[0]!, tokens))
    graphs?.begin()
    const losses = (sum ? zeros : empty)([microBatches.length], 'float32', model.device)
    for (const [i, samples] of microBatches.entries()) {
      if (!samples.length) continue // other ranks have them all
      await scope(async () => {
        const inputs = await this.inputs(samples, encoded[i]!, tokens)
        const loss = graphs?.run(inputs) ?? forwardBackward(model, adapter, inputs, recompute).detach()
        write(losses.view([], [], i), loss)
      })
    }
    if (!sum) return optimizer.update(losses, this.gradient)
    const summed = await sum.of(this.gradient ?? own, losses)
    this.gradient = summed.gradient
    return optimizer.update(summed.losses, summed.gradient)
  }

  /** A micro-batch's texts and features as tensors where the model computes. */
  private async inputs(samples: readonly Sample[], encoded: readonly Encoded[], tokens: number): Promise<StepInputs> {
    const {
      checkpoint: { model, special },
      adapter,
      features,
      graphs,
    } = this
    const { numQueryTokens: L, language, qformer } = model.config
    const begin = performance.now()
    const batch = await seenOf(features, samples, adapter)
    this.seen.waited += (performance.now() - begin) / 1000
    const seen = batch.to(model.device)
    const V = adapter.aggregate === 'concat' ? L * seen.dim(1) : L
    // Widths are rounded up so that few shapes recur often. Padding is masked, or is an answer that does not count.
    const step = graphs ? 32 : 1
    const words = qformerRows(encoded, { step, most: qformer.maxPositions })
    const rows = textRows(encoded, special, { step, most: language.maxPositions - V })
    this.seen.positions += rows.ids.length + (rows.decoder?.length ?? 0) + (words?.ids.size ?? 0)
    for (const e of encoded) this.seen.filled += e.prompt.length + e.answer.length + (e.qformer?.length ?? 0)
    return {
      features: seen,
      qformer: words && { ids: words.ids.to(model.device), mask: words.mask.to(model.device) },
      text: model.upload(rows, V, graphs && powerOfTwo),
      factor: full([], 1 / tokens, 'float32', model.device),
    }
  }

  /** The name of a trained tensor that is not finite. */
  private async badParameter(): Promise<string | undefined> {
    for (const [name, t] of this.adapter.parameters)
      if (!((await t.data()) as Float32Array).every(Number.isFinite)) return name
    return undefined
  }
}
