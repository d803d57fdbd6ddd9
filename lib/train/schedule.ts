/** The order of samples and the schedule of the learning rate. */
import { shuffled } from '../random.js'

/**
 * The factor of the learning rate at a step, counted from 0: linear warm-up, then constant, or a line or half a cosine
 * to 0.
 */
export function rateFactor(
  step: number,
  total: number,
  warmup: number,
  schedule: 'constant' | 'linear' | 'cosine',
): number {
  if (step < warmup) return (step + 1) / (warmup + 1)
  if (schedule === 'constant') return 1
  if (schedule === 'linear') return Math.max(0, 1 - (step - warmup) / Math.max(1, total - warmup))
  return 0.5 * (1 + Math.cos((Math.PI * (step - warmup)) / Math.max(1, total - warmup)))
}

/** Batches that are sorted by length together, by {@link byLength}. */
const TOGETHER = 50

/**
 * The order of an epoch in which the samples of a batch have about the same length: a permutation of 0 … n−1 that
 * depends on lengths, seed and epoch alone. Pieces of 50 batches of {@link shuffled} are sorted, cut into batches, and
 * the batches shuffled; one that is not full comes last.
 */
export function byLength(lengths: readonly number[], batch: number, seed: number, epoch: number): number[] {
  const order = shuffled(lengths.length, seed, epoch)
  const batches = chunks(order, TOGETHER * batch).flatMap((piece) =>
    chunks(
      [...piece].sort((a, b) => lengths[b]! - lengths[a]!),
      batch,
    ),
  )
  const short = batches.at(-1)?.length === batch ? [] : batches.splice(-1)
  return [...shuffled(batches.length, seed, epoch).map((i) => batches[i]!), ...short].flat()
}

/** Consecutive pieces of at most `size`. */
export function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size))
}
