/** Why a step was not finite, and what to do about it. */
import type { Adapter } from '../adapter/adapter.js'
import type { Sample } from '../data/manifest.js'
import type { ImageModel } from '../models/image-model.js'
import { firstNotFinite } from '../session/finite.js'
import type { StepResult } from './trainer.js'

/** The reasons of a run's steps that were not finite. */
export class BadSteps {
  /** Of the frozen weights: the first that is not finite, or none; unknown until a step was bad. */
  private weight: Promise<string | undefined> | undefined
  /** The reason of the last bad step, and what to do. */
  reason = 'a step before it was stopped'
  remedy = 'lower train.lr or set train.clip'

  constructor(
    private readonly model: ImageModel,
    private readonly adapter: Adapter,
  ) {}

  /** The result of a step; of a bad one with the frozen weight or the samples that it is due to. */
  async explained(result: StepResult, microBatches: readonly (readonly Sample[])[]): Promise<StepResult> {
    if (result.bad === undefined) return result
    let { bad } = result
    if (!this.adapter.parameters.has(bad)) {
      const weight = await (this.weight ??= firstNotFinite(this.model.weights))
      const ids = microBatches.flat().map((s) => JSON.stringify(s.id))
      if (weight === undefined) bad = `${bad} (samples ${ids.slice(0, 4).join(', ')}${ids.length > 4 ? ', …' : ''})`
      else {
        bad = `the weight ${weight}`
        this.remedy = 'it holds a NaN or an infinity: the checkpoint is damaged, fetch it again'
      }
    }
    this.reason = bad
    return { ...result, bad }
  }
}
