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
import type { QuantizedDType } from '../../lib/tensor/dtype.js'
import { scope } from '../../lib/tensor/scope.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { type NdArray, concat, size, slice } from '../oracle/array.js'
import {
  type Adapter as OracleAdapter,
  type Batch,
  type Json,
  type Model,
  adapterConfig,
  model as oracleModel,
} from '../oracle/model.js'
import type { LanguageConfig } from '../oracle/config.js'
import { quantised } from '../oracle/quantised.js'
import { shifted } from '../oracle/t5.js'
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
 * written @param weights quantises those of layers; the oracle gets the numbers that they stand for
 */
export async function openTiny(
  kind: TinyKind,
  seed: number,
  change: (tiny: Tiny) => Tiny = (t) => t,
  weights?: QuantizedDType,
): Promise<Both> {
  const tiny = change(tinyCheckpoint(kind, seed))
  const folder = temporaryFolder('tiny')
  writeTiny(folder, tiny)
  const model = await loadImageModel(folder, {
    device: (process.env.MT_TEST_DEVICE ?? 'cpu') as DeviceChoice,
    ...(weights && { weights, weightsCache: false }),
  })
  const tensors = weights ? keptBy(weights, tiny.tensors) : tiny.tensors
  return { kind, config: tiny.config, folder, oracle: oracleModel(tensors, tiny.config), native: model }
}

/** Whether int8 and nf4 quantise a tensor. */
export const isQuantised = (name: string): boolean =>
  /^(vision_model|language_model)\..*\.layers\.\d+\..*(proj|qkv|projection|fc\d)\.weight$/.test(name) ||
  /^language_model\..*\.block\.\d+\..*\.(q|k|v|o|qkv|kv|wi_\d|wo)\.weight$/.test(name)

/** The tensors with what a form keeps of matrices. Those of one input have their rows behind each other for int8. */
function keptBy(form: QuantizedDType, tensors: ReadonlyMap<string, NdArray>): Map<string, NdArray> {
  const groups = new Map<string, string[]>()
  for (const name of [...tensors.keys()].filter(isQuantised)) {
    const group =
      form === 'int8'
        ? name
            .replace(/\b[qkv]_proj|(?<=SelfAttention\.)[qkv]\b/, 'qkv')
            .replace(/(gate|up)_proj/, 'gateUp')
            .replace(/(?<=EncDecAttention\.)[kv]\b/, 'kv')
        : name
    groups.set(group, [...(groups.get(group) ?? []), name])
  }
  const out = new Map(tensors)
  for (const names of groups.values()) {
    const parts = names.map((name) => tensors.get(name)!)
    const whole = quantised[form](concat(parts, 0))
    let row = 0
    for (const [i, name] of names.entries()) {
      const rows = parts[i]!.shape[0]!
      out.set(name, slice(whole, 0, row, row + rows))
      row += rows
    }
  }
  return out
}

/** The oracle calls a fresh block's norm as BERT does. */
export const nativeName = (name: string): string => name.replace('.temporal.LayerNorm.', '.temporal.norm.')

export const float32 = (a: NdArray): Tensor => tensor(Float32Array.from(a.data), a.shape)
const int32 = (a: NdArray): Tensor => tensor(Int32Array.from(a.data), a.shape)
const uint8 = (a: NdArray): Tensor => tensor(Uint8Array.from(a.data), a.shape)

/** The two texts of a batch as the native model takes them. */
export const qformerText = (b: Batch): QFormerText | undefined =>
  b.qformerIds && b.qformerMask ? { ids: int32(b.qformerIds), mask: uint8(b.qformerMask) } : undefined
/** @param language of T5, whose decoder reads the labels shifted while an encoder reads the ids */
export const textRows = (b: Batch, language: Pick<LanguageConfig, 't5'> = {}): TextRows => ({
  rows: b.inputIds.shape[0]!,
  ids: Int32Array.from(b.inputIds.data),
  mask: Uint8Array.from(b.attentionMask.data),
  labels: Int32Array.from(b.labels.data),
  ...(language.t5 && { decoder: Int32Array.from(shifted(b.labels, language.t5).data) }),
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
