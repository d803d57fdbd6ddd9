/** Steps whose loss stands out from those before: marked in the log with their samples, and never skipped. */

/** Losses that a loss is compared with, and fewest of them. */
const [WINDOW, LEAST] = [64, 16]
/** A robust z-score above this is a spike. */
const LIMIT = 6
/** The standard deviation of a normal distribution over its median absolute deviation. */
const NORMAL = 1.4826

function median(sorted: readonly number[]): number {
  const half = sorted.length >> 1
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
}

/**
 * How far `value` lies above the median of `others`, in standard deviations as the median absolute deviation estimates
 * them: a few outliers among `others` change nothing. A deviation of less than a thousandth of the median counts as
 * that.
 */
export function robustZ(value: number, others: readonly number[]): number {
  const middle = median([...others].sort((a, b) => a - b))
  const deviation = median(others.map((x) => Math.abs(x - middle)).sort((a, b) => a - b))
  return (value - middle) / Math.max(NORMAL * deviation, 1e-3 * Math.abs(middle), Number.MIN_VALUE)
}

/**
 * Whether a loss is a spike against the losses of the steps before; then its robust z-score.
 *
 * @param recent the last finite losses; the loss is appended, and old ones are removed
 */
export function spike(loss: number, recent: number[]): number | undefined {
  if (!Number.isFinite(loss)) return undefined
  const z = recent.length < LEAST ? 0 : robustZ(loss, recent)
  recent.push(loss)
  if (recent.length > WINDOW) recent.shift()
  return z > LIMIT ? z : undefined
}
