/** One optimiser step: forward and backward over its micro-batches, the check for numbers that are not finite, AdamW. */
import type { Adapter } from '../adapter/adapter.js'
import type { Sample } from '../data/manifest.js'
import type { Bundle } from '../eval/bundle.js'
import { encode, qformerRows, textRows, type Encoded } from '../eval/encode.js'
import type { Features } from '../eval/features.js'
import { answerTokens } from '../models/mtransllama.js'
import { scope } from '../tensor/scope.js'
import { full } from '../ops/copy.js'
import { forwardBackward, StepGraphs } from './graphs.js'
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
  private readonly graphs: StepGraphs | undefined

  /** @param options `graphs: false` launches operators one by one on a CUDA device too */
  constructor(
    readonly bundle: Bundle,
    readonly adapter: Adapter,
    readonly features: Features,
    readonly optimizer: AdamW,
    options: { graphs?: boolean | undefined } = {},
  ) {
    const { model } = bundle
    if (model.device !== 'cpu' && options.graphs !== false) this.graphs = new StepGraphs(model, adapter)
  }

  /** Lets go of what steps keep between them; not the model, the adapter or the optimiser. */
  dispose(): void {
    this.graphs?.dispose()
  }

  /**
   * The loss of (3): cross-entropy summed over the answer tokens of all micro-batches, divided by their number; then one
   * step. Where loss or gradient is not finite the step is skipped and the culprit named.
   */
  async step(microBatches: readonly (readonly Sample[])[], factor = 1): Promise<StepResult> {
    const { bundle, adapter, optimizer } = this
    const encoded = microBatches.map((samples) => samples.map((s) => encode(bundle, adapter.config, s)))
    const tokens = encoded.reduce((n, batch) => n + answerTokens(textRows(batch, bundle.special.padId)), 0)
    let loss = 0
    for (const [i, samples] of microBatches.entries()) loss += await this.accumulate(samples, encoded[i]!, tokens)
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
  private accumulate(samples: readonly Sample[], encoded: readonly Encoded[], tokens: number): Promise<number> {
    const { bundle: { model, special }, adapter, features, graphs } = this
    const { numQueryTokens: L, language, qformer } = model.config
    return scope(async () => {
      const seen = (await features.batch(samples)).to(model.device)
      const V = adapter.aggregate === 'concat' ? L * seen.dim(1) : L
      // Shapes that come back are what graphs are for.
      const step = graphs ? 8 : 1
      const words = qformerRows(encoded, { step, most: qformer.maxPositions })
      const inputs = {
        features: seen,
        qformer: words && { ids: words.ids.to(model.device), mask: words.mask.to(model.device) },
        text: model.place(textRows(encoded, special.padId, { step, most: language.maxPositions - V }), V, step),
        factor: full([], 1 / tokens, 'float32', model.device),
      }
      const loss = graphs ? graphs.run(inputs) : forwardBackward(model, adapter, inputs)
      return (await loss.item()) / tokens
    })
  }

  /** A trained tensor that is itself not finite explains every loss after it. */
  private async badParameter(): Promise<string | undefined> {
    for (const [name, t] of this.adapter.parameters) if (!((await t.data()) as Float32Array).every(Number.isFinite)) return name
    return undefined
  }
}
