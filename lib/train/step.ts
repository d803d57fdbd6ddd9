/** One optimiser step: forward and backward over its micro-batches, the check for numbers that are not finite, AdamW. */
import type { Adapter } from '../adapter/adapter.js'
import type { Sample } from '../data/manifest.js'
import type { Bundle } from '../eval/bundle.js'
import { encode, qformerRows, textRows, type Encoded } from '../eval/encode.js'
import type { Features } from '../eval/features.js'
import { answerTokens } from '../models/mtransllama.js'
import { scope } from '../tensor/scope.js'
import { backward } from '../tensor/tape.js'
import type { AdamW } from './optimizer.js'

export interface StepResult {
  /** Cross-entropy per answer token. */
  loss: number
  /** Answer tokens of the step. */
  tokens: number
  /** Global norm of the gradient before clipping. */
  norm: number
  /** Set where the step was skipped: what was not finite. */
  bad?: string
}

export class Trainer {
  constructor(
    readonly bundle: Bundle,
    readonly adapter: Adapter,
    readonly features: Features,
    readonly optimizer: AdamW,
  ) {}

  /**
   * The loss of (3): cross-entropy summed over the answer tokens of all micro-batches, divided by their number; then one
   * step. Where loss or gradient is not finite the step is skipped and the culprit named.
   */
  async step(microBatches: readonly (readonly Sample[])[], factor = 1): Promise<StepResult> {
    const { bundle, adapter, optimizer } = this
    const encoded = microBatches.map((samples) => samples.map((s) => encode(bundle, adapter.config, s)))
    const tokens = encoded.reduce((n, batch) => n + answerTokens(textRows(batch, bundle.special.padId)), 0)
    let loss = 0
    for (const [i, samples] of microBatches.entries()) loss += await this.accumulate(samples, encoded[i]!, 1 / tokens)
    const norm = await optimizer.gradientNorm()
    if (!Number.isFinite(loss) || !Number.isFinite(norm)) {
      const bad = (await this.badParameter()) ?? (await optimizer.firstBad().then((name) => name && `the gradient of ${name}`)) ?? 'the loss'
      optimizer.zeroGrad()
      return { loss, tokens, norm, bad }
    }
    optimizer.step(norm, factor)
    return { loss, tokens, norm }
  }

  /** Forward and backward of one micro-batch; gradients add up. Returns its share of the loss. */
  private accumulate(samples: readonly Sample[], encoded: readonly Encoded[], factor: number): Promise<number> {
    const { bundle: { model, special }, adapter, features } = this
    return scope(async () => {
      const text = textRows(encoded, special.padId)
      const visual = model.visualTokens(await features.batch(samples), qformerRows(encoded), adapter)
      const loss = model.loss(model.hidden(visual, text), text, factor)
      backward(loss)
      return loss.item()
    })
  }

  /** A trained tensor that is itself not finite explains every loss after it. */
  private async badParameter(): Promise<string | undefined> {
    for (const [name, t] of this.adapter.parameters) if (!((await t.data()) as Float32Array).every(Number.isFinite)) return name
    return undefined
  }
}
