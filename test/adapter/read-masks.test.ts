import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { spatialWindows, temporalWindows, type MaskSet } from '../../lib/adapter/masks.js'
import { readMasks } from '../../lib/adapter/read-masks.js'
import { InputError } from '../../lib/errors.js'
import { writeSafetensors, type TensorData } from '../../lib/files/safetensors.js'

const folder = mkdtempSync(join(tmpdir(), 'mtransllama-masks-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))

const put = async (name: string, ...tensors: TensorData[]) => (
  await writeSafetensors(join(folder, name), tensors), name
)
const masks = ({ size, bits }: MaskSet): TensorData => ({ name: 'masks', dtype: 'U8', shape: [size, size], data: bits })
const config = (keys: object, rest: object = {}) => parseAdapterConfig({ dar: { choices: 2, ...keys }, ...rest })

async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    assert.instance(error, InputError)
    return (error as Error).message
  }
  return assert.unreachable('nothing was refused') as never
}

test('files are read, relative to the folder of the configuration; built-in names are not files', async () => {
  const [s, t] = [spatialWindows(4, 6, [1], 2), temporalWindows(4, [1], 2)]
  const names = {
    spatialMasks: await put('s.safetensors', masks(s)),
    temporalMasks: join(folder, await put('t.safetensors', masks(t))),
  }
  assert.equal(await readMasks(config(names), folder, { queries: 4 }), { spatial: s, temporal: t })
  assert.equal(await readMasks(config(names, { text: { maxTokens: 6 } }), folder, { queries: 4 }), {
    spatial: s,
    temporal: t,
  })
  assert.equal(await readMasks(config({ spatialMasks: 'modality' }), '/nowhere'), {})
  assert.equal(await readMasks(config({ mode: 'off', spatialMasks: 'none.safetensors' }), folder), {})
  assert.equal(
    await readMasks(config({ temporalMasks: 'none.safetensors' }, { temporal: { attention: 'none' } }), folder),
    {},
  )
})

const ones = (n: number, m = n) => new Uint8Array(n * m).fill(3)
/** 4 tokens, one element changed. */
const changed = (i: number, k: number, value: number, bits = ones(4)) => ((bits[i * 4 + k] = value), { size: 4, bits })
/** Row 1 sees only key 3 under M_1. */
const late = changed(1, 0, 1, changed(1, 1, 1, changed(1, 2, 1).bits).bits)

for (const [name, tensors, axis, rest, queries, expected] of [
  ['no file', undefined, 'spatial', {}, undefined, /no such file/],
  [
    'another dtype',
    [{ name: 'masks', dtype: 'I32', shape: [2, 2], data: new Int32Array(4) }],
    'spatial',
    {},
    undefined,
    /dar\.spatialMasks \(.*\): expected masks of dtype U8, .* got "I32"/,
  ],
  [
    'not square',
    [{ name: 'masks', dtype: 'U8', shape: [2, 3], data: ones(2, 3) }],
    'spatial',
    {},
    undefined,
    /of shape \[n,n\], queries by keys, but got \[2,3\]/,
  ],
  [
    'one dimension',
    [{ name: 'masks', dtype: 'U8', shape: [4], data: ones(2) }],
    'temporal',
    {},
    undefined,
    /dar\.temporalMasks .* got \[4\]/,
  ],
  [
    'nothing in it',
    [{ name: 'masks', dtype: 'U8', shape: [0, 0], data: ones(0) }],
    'spatial',
    {},
    undefined,
    /got \[0,0\]/,
  ],
  [
    'another name',
    [{ name: 'mask', dtype: 'U8', shape: [2, 2], data: ones(2) }],
    'spatial',
    {},
    undefined,
    /expected one tensor, named masks, but got \["mask"\]/,
  ],
  [
    'two tensors',
    [masks({ size: 4, bits: ones(4) }), { name: 'x', dtype: 'U8', shape: [1], data: ones(1) }],
    'spatial',
    {},
    undefined,
    /expected one tensor/,
  ],
  [
    'an empty row',
    [masks({ size: 2, bits: Uint8Array.of(3, 3, 1, 1) })],
    'spatial',
    {},
    undefined,
    /at least one key in every row of mask M_1, but got "none in row 1"/,
  ],
  ['M_0 empty in a row', [masks({ size: 2, bits: Uint8Array.of(2, 2, 3, 3) })], 'spatial', {}, undefined, /mask M_0/],
  [
    'fewer masks than choices',
    [masks({ size: 4, bits: ones(4) })],
    'spatial',
    { dar: { choices: 3, spatialWindows: [1, 1], temporalWindows: [1, 1] } },
    undefined,
    /mask M_2, but got "none in row 0"/,
  ],
  [
    'too small for the frames',
    [masks({ size: 3, bits: ones(3) })],
    'temporal',
    {},
    undefined,
    /a set for at least 4 tokens, but got 3; give a larger set, or lower frames/,
  ],
  [
    'too small for the queries',
    [masks({ size: 4, bits: ones(4) })],
    'spatial',
    {},
    5,
    /a set for at least 5 tokens, but got 4/,
  ],
  [
    'too small for the text',
    [masks({ size: 4, bits: ones(4) })],
    'spatial',
    { text: { maxTokens: 3 } },
    2,
    /a set for at least 5 tokens, but got 4; give a larger set, or lower text\.maxTokens/,
  ],
  [
    'a row that is empty once cut',
    [masks(late)],
    'spatial',
    {},
    2,
    /mask M_1, also when the set is cut to 2 tokens, but got "none in row 1"/,
  ],
  ['a row that is empty for fewer frames', [masks(late)], 'temporal', { frames: 3 }, undefined, /cut to 3 tokens/],
] satisfies [
  string,
  TensorData[] | undefined,
  'spatial' | 'temporal',
  { dar?: object; frames?: number; text?: object },
  number | undefined,
  RegExp,
][]) {
  test(`refused: ${name}`, async () => {
    const file = tensors ? await put('x.safetensors', ...(tensors as TensorData[])) : 'absent.safetensors'
    const { dar = {}, ...keys } = rest as { dar?: object }
    assert.match(
      await refusal(readMasks(config({ [`${axis}Masks`]: file, ...dar }, keys), folder, { queries })),
      expected,
    )
  })
}

test('a file that is not a mask set', async () => {
  writeFileSync(join(folder, 'x.txt'), 'hello')
  assert.match(
    await refusal(readMasks(config({ spatialMasks: 'x.txt' }), folder)),
    /x\.txt: not a usable safetensors file/,
  )
})

test('of the set of a saved adapter only the form is checked', async () => {
  const file = await put('x.safetensors', masks(late))
  assert.equal(await readMasks(config({ temporalMasks: file }, { frames: 3 }), folder, { accepted: true }), {
    temporal: late,
  })
})

test.run()
