/**
 * A tiny random checkpoint twice: as the native model, loaded from a folder, and as the oracle's float64 arrays, for
 * tests that compare the two.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Adapter, type GivenMasks } from '../../lib/adapter/adapter.js'
import { adapterConfigFromGolden } from '../../lib/parity/adapter-config.js'
import { loadImageModel } from '../../lib/session/checkpoint.js'
import type { ImageModel, QFormerText, TextRows } from '../../lib/models/image-model.js'
import type { DeviceChoice } from '../../lib/tensor/device.js'
import { scope } from '../../lib/tensor/scope.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { type NdArray, size } from '../oracle/array.js'
import {
  type Adapter as OracleAdapter,
  type Batch,
  type Json,
  type Model,
  adapterConfig,
  model as oracleModel,
} from '../oracle/model.js'
import { type Tiny, type TinyKind, tinyCheckpoint, tinyParameters, writeTiny } from '../oracle/tiny.js'

/** A folder that is removed when the process ends. */
export function temporaryFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `mtransllama-${name}-`))
  if (!folders.length) process.on('exit', () => folders.forEach((f) => rmSync(f, { recursive: true, force: true })))
  folders.push(folder)
  return folder
}
const folders: string[] = []

export interface Both {
  kind: TinyKind
  config: Json
  folder: string
  oracle: Model
  native: ImageModel
}

/**
 * On the device that MT_TEST_DEVICE names. @param change what to change about config.json and weights before they are
 * written
 */
export async function openTiny(kind: TinyKind, seed: number, change: (tiny: Tiny) => Tiny = (t) => t): Promise<Both> {
  const tiny = change(tinyCheckpoint(kind, seed))
  const folder = temporaryFolder('tiny')
  writeTiny(folder, tiny)
  const model = await loadImageModel(folder, { device: (process.env.MT_TEST_DEVICE ?? 'cpu') as DeviceChoice })
  return { kind, config: tiny.config, folder, oracle: oracleModel(tiny.tensors, tiny.config), native: model }
}

/** The oracle calls a fresh block's norm as BERT does. */
export const nativeName = (name: string): string => name.replace('.temporal.LayerNorm.', '.temporal.norm.')

export const float32 = (a: NdArray): Tensor => tensor(Float32Array.from(a.data), a.shape)
const int32 = (a: NdArray): Tensor => tensor(Int32Array.from(a.data), a.shape)
const uint8 = (a: NdArray): Tensor => tensor(Uint8Array.from(a.data), a.shape)

/** The two texts of a batch as the native model takes them. */
export const qformerText = (b: Batch): QFormerText | undefined =>
  b.qformerIds && b.qformerMask ? { ids: int32(b.qformerIds), mask: uint8(b.qformerMask) } : undefined
export const textRows = (b: Batch): TextRows => ({
  rows: b.inputIds.shape[0]!,
  ids: Int32Array.from(b.inputIds.data),
  mask: Uint8Array.from(b.attentionMask.data),
  labels: Int32Array.from(b.labels.data),
})

/** One adapter for both, in mid-training: nothing of it is zero. `json` is a golden configuration (snake case). */
export function bothAdapters(
  model: Both,
  json: Json,
  frames: number,
  seed: number,
  masks: OracleAdapter['masks'] = {},
): { oracle: OracleAdapter; native: Adapter } {
  const config = adapterConfig(json)
  const params = tinyParameters(model.config, config, seed)
  const native = scope(
    () =>
      new Adapter(model.native.config, adapterConfigFromGolden(json, frames), {
        device: model.native.device,
        values: new Map([...params].map(([name, value]) => [nativeName(name), float32(value)])),
        masks: givenMasks(masks),
      }),
  )
  const names = [...native.parameters.keys()].sort()
  if (`${names}` !== `${[...params.keys()].map(nativeName).sort()}`) throw new Error(`trained tensors differ: ${names}`)
  return { oracle: { config, params, masks }, native }
}

function givenMasks(masks: OracleAdapter['masks']): GivenMasks {
  const set = (a: NdArray | undefined) => a && { size: a.shape[0]!, bits: Uint8Array.from(a.data) }
  return { spatial: set(masks?.spatial), temporal: set(masks?.temporal) }
}

/** A tensor as float64. */
export const read = async (t: Tensor): Promise<Float64Array> => Float64Array.from((await t.data()) as Float32Array)

/** ‖a − b‖/‖b‖ of a tensor and the oracle's array; infinite where the sizes differ. */
export async function errorOf(actual: Tensor, expected: NdArray): Promise<number> {
  if (actual.size !== size(expected.shape)) return Infinity
  const a = await read(actual)
  let [difference, whole] = [0, 0]
  a.forEach((x, i) => {
    difference += (x - expected.data[i]!) ** 2
    whole += expected.data[i]! ** 2
  })
  return Math.sqrt(difference) / (Math.sqrt(whole) || 1)
}
