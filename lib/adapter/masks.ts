/** The mask sets of DAR (docs/model.md#masks), as bit sets, bit j = M_j. */
import { invalid } from '../errors.js'

/** Whether `dar.spatialMasks` or `dar.temporalMasks` names a mask set of this file; else it names one of the user's. */
export const isBuiltIn = (masks: string): boolean => masks === 'window' || masks === 'modality'

/** A square set of masks: byte i·n + k, bit j = whether M_j keeps the pair (query i, key k). */
export interface MaskSet {
  size: number
  bits: Uint8Array
}

function build(size: number, choices: number, keeps: (mask: number, i: number, k: number) => boolean): MaskSet {
  const bits = new Uint8Array(size * size)
  for (let i = 0; i < size; i++) {
    for (let k = 0; k < size; k++) {
      let set = 1 // M_0 keeps everything
      for (let j = 1; j < choices; j++) if (keeps(j, i, k)) set |= 1 << j
      bits[i * size + k] = set
    }
  }
  return { size, bits }
}

/** Windows over frames: M_j keeps pairs at most windows[j−1] apart. */
export function temporalWindows(frames: number, windows: readonly number[], choices: number): MaskSet {
  return build(frames, choices, (j, i, k) => Math.abs(i - k) <= windows[j - 1]!)
}

/** Windows inside each modality, by query index and by text position; every query–text pair is kept. */
export function spatialWindows(queries: number, text: number, windows: readonly number[], choices: number): MaskSet {
  return build(queries + text, choices, (j, i, k) => i < queries !== k < queries || Math.abs(i - k) <= windows[j - 1]!)
}

/** M_1 same modality, M_2 the other modality and oneself, M_3 as M_1 with text–text distance at most 8. */
export function modalityMasks(queries: number, text: number, choices: number): MaskSet {
  if (choices > 4) throw invalid('dar.choices', 'at most 4 with dar.spatialMasks: modality', choices)
  return build(queries + text, choices, (j, i, k) => {
    const same = i < queries === k < queries
    if (j === 1) return same
    if (j === 2) return !same || i === k
    return same && (i < queries || Math.abs(i - k) <= 8)
  })
}

/** A set given by the caller. Refused where some mask of the first `choices` leaves a row without any key. */
export function customMasks(name: string, bits: Uint8Array, size: number, choices: number): MaskSet {
  if (bits.length !== size * size)
    throw invalid(name, `${size}×${size} bytes, one per pair of tokens`, `${bits.length} bytes`)
  for (let j = 0; j < choices; j++) {
    for (let i = 0; i < size; i++) {
      if (!bits.subarray(i * size, (i + 1) * size).some((b) => b & (1 << j))) {
        throw invalid(
          name,
          `at least one key in every row of mask M_${j}`,
          `none in row ${i}`,
          'let every row of every mask keep at least its own token',
        )
      }
    }
  }
  return { size, bits }
}
