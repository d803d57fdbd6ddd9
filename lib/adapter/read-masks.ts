/** Mask sets of the caller's own (SPEC §5): `dar.spatialMasks` or `dar.temporalMasks` naming a file. */
import { resolve } from 'node:path'
import { invalid } from '../errors.js'
import { readEntry, readHeader } from '../weights/safetensors.js'
import type { GivenMasks } from './adapter.js'
import type { AdapterConfig } from './config.js'
import { customMasks, type MaskSet } from './masks.js'

/** Name of the one tensor in such a file: [n,n] uint8, bit j of element (i,k) = whether M_j keeps the pair (query i, key k). */
export const MASKS = 'masks'

const BUILT_IN: readonly string[] = ['window', 'modality']

/**
 * Reads the mask sets that a configuration names as files. Sets that it does not use (`dar.mode: off`, no temporal
 * attention) are not read.
 *
 * A set serves every smaller number of tokens too, cut to its first rows and columns. It is therefore refused here if some
 * mask of the first `dar.choices` leaves a row without a key, at its full size or at one it will be cut to.
 *
 * @param folder what relative file names are relative to: the folder of the configuration
 * @param queries L of the model, where known: then the spatial set is checked for every length of text
 * @throws InputError naming key and file
 */
export async function readMasks(config: AdapterConfig, folder: string, queries?: number): Promise<GivenMasks> {
  const { dar, frames, fusion, text, temporal } = config
  const masks: GivenMasks = {}
  if (dar.mode === 'off') return masks
  const read = (axis: 'spatial' | 'temporal', least: number, most: number, hint: string) => readSet(`dar.${axis}Masks`, resolve(folder, dar[`${axis}Masks`]), dar.choices, least, most, hint)
  if (!BUILT_IN.includes(dar.spatialMasks)) {
    const most = queries === undefined ? 1 : queries + (fusion ? (text.maxTokens ?? 0) : 0)
    masks.spatial = await read('spatial', queries ?? Infinity, most, fusion ? 'give a larger set, or lower text.maxTokens' : 'give a larger set')
  }
  if (!BUILT_IN.includes(dar.temporalMasks) && temporal.attention === 'factorized') {
    masks.temporal = await read('temporal', frames, frames, 'give a larger set, or lower frames')
  }
  return masks
}

/** @param least, most the numbers of tokens that the set will be cut to; it has to be at least as large as `most` */
async function readSet(key: string, path: string, choices: number, least: number, most: number, hint: string): Promise<MaskSet> {
  const header = await readHeader(path)
  const name = `${key} (${path})`
  const entry = header.entries.get(MASKS)
  if (!entry || header.entries.size !== 1) throw invalid(name, `one tensor, named ${MASKS}`, [...header.entries.keys()])
  const { dtype, shape } = entry
  if (dtype !== 'U8') throw invalid(name, `${MASKS} of dtype U8, one bit for each mask`, dtype)
  const [size = 0, width] = shape
  if (shape.length !== 2 || size !== width || size === 0) throw invalid(name, `${MASKS} of shape [n,n], queries by keys`, shape)
  if (size < most) throw invalid(name, `a set for at least ${most} tokens`, size, hint)
  const set = customMasks(name, await readEntry(header, MASKS), size, choices)
  checkCuts(name, set, choices, least)
  return set
}

/** Row i is still there when the set is cut to the larger of `least` and i + 1 tokens, and then needs a key among those. */
function checkCuts(name: string, { size, bits }: MaskSet, choices: number, least: number): void {
  for (let i = 0; i < size; i++) {
    const tokens = Math.min(size, Math.max(least, i + 1))
    let kept = 0
    for (let k = 0; k < tokens; k++) kept |= bits[i * size + k]!
    for (let j = 0; j < choices; j++) {
      if (!(kept & (1 << j))) {
        throw invalid(name, `at least one key in every row of mask M_${j}, also when the set is cut to ${tokens} tokens`, `none in row ${i}`, 'let every row of every mask keep at least its own token')
      }
    }
  }
}
