// The mask sets of dynamic attention routing (docs/model.md#masks), as bit sets: bit j of [query, key] says that M_j
// keeps the pair.
import { type NdArray, array } from './array.js'

/** Masks of layer m of N: 1 + floor(m P / N). */
export const masksOfLayer = (layer: number, layers: number, choices: number): number =>
  1 + Math.floor((layer * choices) / layers)

/** A set of `count` masks over n tokens. */
export function maskSet(
  n: number,
  count: number,
  keeps: (mask: number, query: number, key: number) => boolean,
): NdArray {
  if (count < 1 || count > 8) throw new Error(`a mask set holds 1 to 8 masks, not ${count}`)
  const out = array([n, n])
  for (let q = 0; q < n; q++)
    for (let k = 0; k < n; k++) {
      let bits = 0
      for (let j = 0; j < count; j++) if (keeps(j, q, k)) bits |= 1 << j
      out.data[q * n + k] = bits
    }
  return out
}

/**
 * [L query tokens; K text tokens]. M_0: every pair. M_j: pairs of one modality no further apart than windows[j-1], and
 * every query-text pair.
 */
export function windowSpatial(
  queries: number,
  text: number,
  windows: readonly number[],
  choices = windows.length + 1,
): NdArray {
  return maskSet(queries + text, choices, (j, q, k) => {
    if (j === 0) return true
    if (q < queries !== k < queries) return true
    return Math.abs(q - k) <= window(windows, j)
  })
}

/** T frames. M_0: every pair. M_j: frames no further apart than windows[j-1]. */
export function windowTemporal(frames: number, windows: readonly number[], choices = windows.length + 1): NdArray {
  return maskSet(frames, choices, (j, q, k) => j === 0 || Math.abs(q - k) <= window(windows, j))
}

/** M_1: the same modality. M_2: the other one, and oneself. M_3: M_1, text-text pairs no further apart than 8. */
export function modalitySpatial(queries: number, text: number, choices = 4): NdArray {
  return maskSet(queries + text, choices, (j, q, k) => {
    const same = q < queries === k < queries
    if (j === 0) return true
    if (j === 1) return same
    if (j === 2) return !same || q === k
    if (j === 3) return same && (q < queries || Math.abs(q - k) <= 8)
    throw new Error(`the modality set has 4 masks, ${choices} were asked for`)
  })
}

function window(windows: readonly number[], mask: number): number {
  const w = windows[mask - 1]
  if (w === undefined)
    throw new Error(`${windows.length} windows serve ${windows.length + 1} masks, mask ${mask} was asked for`)
  return w
}
