/** Mask sets of the caller's own (docs/model.md#masks): `dar.spatialMasks` or `dar.temporalMasks` naming a file. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { invalid } from '../errors.js'
import { readEntry, readHeader } from '../files/safetensors.js'
import type { GivenMasks } from './adapter.js'
import type { AdapterConfig } from './config.js'
import { customMasks, isBuiltIn, type MaskSet } from './masks.js'

/**
 * Name of the one tensor in such a file: [n,n] uint8, bit j of element (i,k) = whether M_j keeps the pair (query i, key
 * k).
 */
export const MASKS = 'masks'

export interface ReadMasksOptions {
  /** L of the model, where known: the spatial set is then checked for every length of text up to `text.maxTokens`. */
  queries?: number | undefined
  /** The sets of a saved adapter were accepted when it was trained: only the form of the files is checked. */
  accepted?: boolean
}

/**
 * Reads the mask sets that a configuration names as files. Sets that it does not use (`dar.mode: off`, no temporal
 * attention) are not read.
 *
 * A set serves every smaller number of tokens too, cut to its first rows and columns. It is therefore refused here if
 * some mask of the first `dar.choices` leaves a row without a key, at its full size or at one it will be cut to.
 *
 * @param folder what relative file names are relative to: the folder of the configuration
 * @throws InputError naming key and file
 */
export async function readMasks(
  config: AdapterConfig,
  folder: string,
  options: ReadMasksOptions = {},
): Promise<GivenMasks> {
  const { dar, frames, fusion, text, temporal } = config
  const { queries, accepted = false } = options
  const masks: GivenMasks = {}
  if (dar.mode === 'off') return masks
  const read = async (axis: 'spatial' | 'temporal', fewest: number, most: number, remedy: string): Promise<MaskSet> => {
    const path = resolve(folder, dar[`${axis}Masks`])
    const name = `dar.${axis}Masks (${path})`
    const set = await readSet(name, path)
    if (!accepted) check(name, set, dar.choices, fewest, most, remedy)
    return set
  }
  if (!isBuiltIn(dar.spatialMasks)) {
    const most = queries === undefined ? 1 : queries + (fusion ? (text.maxTokens ?? 0) : 0)
    masks.spatial = await read(
      'spatial',
      queries ?? Infinity,
      most,
      fusion ? 'or lower text.maxTokens' : 'one row for each query token',
    )
  }
  if (!isBuiltIn(dar.temporalMasks) && temporal.attention === 'factorized') {
    masks.temporal = await read('temporal', frames, frames, 'or lower frames')
  }
  return masks
}

async function readSet(name: string, path: string): Promise<MaskSet> {
  if (!existsSync(path)) throw invalid(name, '"window", "modality" or a safetensors file', new Error('no such file'))
  const header = await readHeader(path)
  const entry = header.entries.get(MASKS)
  if (!entry || header.entries.size !== 1) throw invalid(name, `one tensor, named ${MASKS}`, [...header.entries.keys()])
  const { dtype, shape } = entry
  if (dtype !== 'U8') throw invalid(name, `${MASKS} of dtype U8, one bit for each mask`, dtype)
  const [size = 0, width] = shape
  if (shape.length !== 2 || size !== width || size === 0)
    throw invalid(name, `${MASKS} of shape [n,n], queries by keys`, shape)
  return { size, bits: await readEntry(header, MASKS) }
}

/**
 * Row i exists when the set is cut to max(`fewest`, i + 1) tokens or more, and needs a key among those.
 *
 * @param fewest, most the smallest and the largest number of tokens that there will be
 */
function check(
  name: string,
  { size, bits }: MaskSet,
  choices: number,
  fewest: number,
  most: number,
  remedy: string,
): void {
  if (size < most) throw invalid(name, `a set for at least ${most} tokens`, size, `give a larger set, ${remedy}`)
  customMasks(name, bits, size, choices)
  for (let i = 0; i < size; i++) {
    const tokens = Math.min(size, Math.max(fewest, i + 1))
    let kept = 0
    for (let k = 0; k < tokens; k++) kept |= bits[i * size + k]!
    const empty = Array.from({ length: choices }, (_, j) => j).find((j) => !(kept & (1 << j)))
    if (empty === undefined) continue
    throw invalid(
      name,
      `at least one key in every row of mask M_${empty}, also when the set is cut to ${tokens} tokens`,
      `none in row ${i}`,
      'let every row of every mask keep at least its own token',
    )
  }
}
