/** Which samples the steps of an epoch take. */
import type { Sample } from '../data/manifest.js'
import { encode, type TextConfig, type TextSide } from '../session/encode.js'
import type { TrainConfig } from './config.js'
import { shuffled } from '../random.js'
import { byLength, chunks } from './schedule.js'

/** Tokens of a sample's texts, of both towers. */
function tokensOf(texts: TextSide, config: TextConfig, sample: Sample): number {
  const { prompt, answer, qformer } = encode(texts, config, sample)
  return prompt.length + answer.length + (qformer?.length ?? 0)
}

/**
 * The samples of an epoch, by optimiser step and micro-batch. They depend on samples, seed and epoch alone.
 *
 * @param epoch counted from 1
 */
export function batchesOf(
  samples: readonly Sample[],
  { batch, accumulation, seed, batching }: TrainConfig['train'],
  epoch: number,
  texts: TextSide,
  config: TextConfig,
): Sample[][][] {
  const order =
    batching === 'length'
      ? byLength(
          samples.map((s) => tokensOf(texts, config, s)),
          batch,
          seed,
          epoch,
        )
      : shuffled(samples.length, seed, epoch)
  const ordered = order.map((i) => samples[i]!)
  return chunks(chunks(ordered, batch), accumulation)
}
