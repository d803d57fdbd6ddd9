/** Why a step was not finite, and what to do about it. */
import type { Adapter } from '../adapter/adapter.js'
import type { Sample } from '../data/manifest.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { encode, qformerRows, textRows } from '../session/encode.js'
import type { Features } from '../session/features.js'
import { firstNotFinite } from '../session/finite.js'
import { seenOf } from '../session/visual.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import type { StepResult } from './trainer.js'

/** Where the numbers of a step stop being finite: the first layer whose output is not, and the sample. */
export interface Place {
  layer: string
  sample: string
}

/** The reasons of a run's steps that were not finite. */
export class BadSteps {
  /** Of the frozen weights: the first that is not finite, or none; unknown until a step was bad. */
  private weight: Promise<string | undefined> | undefined
  /** The reason of the last bad step, and what to do. */
  reason = 'a step before it was stopped'
  remedy = 'lower train.lr or set train.clip'

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly adapter: Adapter,
    private readonly features: Features,
  ) {}

  /**
   * The result of a step; of a bad one with the frozen weight that it is due to, or the samples, and the layer and the
   * sample that it began with.
   */
  async explained(
    result: StepResult,
    microBatches: readonly (readonly Sample[])[],
  ): Promise<StepResult & { place?: Place }> {
    if (result.bad === undefined) return result
    let { bad } = result
    let place: Place | undefined
    if (!this.adapter.parameters.has(bad)) {
      const weight = await (this.weight ??= firstNotFinite(this.checkpoint.model.weights))
      const ids = microBatches.flat().map((s) => JSON.stringify(s.id))
      if (weight === undefined) {
        bad = `${bad} (samples ${ids.slice(0, 4).join(', ')}${ids.length > 4 ? ', …' : ''})`
        place = await this.find(microBatches.flat())
      } else {
        bad = `the weight ${weight}`
        this.remedy = 'it holds a NaN or an infinity: the checkpoint is damaged, fetch it again'
      }
    }
    this.reason = place ? `${bad}, first ${placeText(place)}` : bad
    return { ...result, bad, ...(place && { place }) }
  }

  /** Computes the samples again, one by one, with every layer's output. None where only a gradient overflows. */
  private async find(samples: readonly Sample[]): Promise<Place | undefined> {
    const { checkpoint, adapter, features } = this
    const { model, special } = checkpoint
    for (const sample of samples) {
      const encoded = [encode(checkpoint, adapter.config, sample)]
      const layer = await scope(() =>
        noGrad(async () => {
          const seen: [string, Tensor][] = []
          const observe = (name: string, t: Tensor): void => void seen.push([name, t])
          const visual = model.visualTokens(await seenOf(features, [sample], adapter), qformerRows(encoded), adapter, {
            observe,
          })
          const hidden = model.hidden(visual, textRows(encoded, special), { observe })
          return firstNotFinite([...seen, ['the last hidden states', hidden]])
        }),
      )
      if (layer !== undefined) return { layer, sample: sample.id }
    }
    return undefined
  }
}

/** A place in words. */
export const placeText = ({ layer, sample }: Place): string =>
  `in the output of ${layer} for sample ${JSON.stringify(sample)}`
