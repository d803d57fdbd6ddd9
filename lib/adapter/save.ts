/**
 * An adapter as a folder. LoRA is stored in PEFT's layout, one PEFT adapter per role: spatial and cross in the folder
 * itself, where PEFT finds an image adapter, temporal in `temporal/`, under the same module names. What PEFT does not
 * know (positions, routers, gates, temporal weights) is in `mtransllama.safetensors`; `mtransllama.json` describes
 * everything.
 *
 * FOLDER/  adapter_config.json  adapter_model.safetensors  mtransllama.json  mtransllama.safetensors  README.md
 *              temporal/ (the first two)  and, of mask sets that came from files, {spatial,temporal}_masks.safetensors
 */
import { existsSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { InputError, invalid } from '../errors.js'
import { readJsonObject } from '../files/json.js'
import type { ModelConfig } from '../models/image-model.js'
import { checkWith } from '../files/schema.js'
import { scope } from '../tensor/scope.js'
import type { Device } from '../tensor/device.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { FileSystem } from '../files/atomic.js'
import { findFolder, identity, replaceFolder, type FolderFile, type FolderKind } from '../files/folder.js'
import { readAsFloat32, readHeader } from '../files/safetensors.js'
import { Adapter } from './adapter.js'
import { checkAdapterConfig, parseAdapterConfig, type AdapterConfig, type CheckedAdapterConfig } from './config.js'
import {
  countGroups,
  countTrained,
  GROUPS,
  trainedParameters,
  type GroupCount,
  type TrainedParameter,
} from './parameters.js'
import { checkPeftConfig } from './peft.js'
import { MASKS, readMasks } from './read-masks.js'

const [FORMAT, VERSION] = ['mtransllama-adapter', 1] as const
const [ABOUT, OWN] = ['mtransllama.json', 'mtransllama.safetensors'] as const
const [PEFT, PEFT_CONFIG] = ['adapter_model.safetensors', 'adapter_config.json'] as const

/** An adapter's folder; that of a training run holds the run's state as well. */
export const ADAPTER_FOLDER: FolderKind = {
  name: 'a saved adapter',
  mark: ABOUT,
  ours: /^(temporal|README\.md|adapter_(config\.json|model\.safetensors)|(mtransllama|training)\.(json|safetensors)|(spatial|temporal)_masks\.safetensors)$/,
}

/** The origin of an adapter. */
export interface AdapterMeta {
  /** Fingerprint of the base model's weights. */
  fingerprint: string
  /** Name of the base model for people and for PEFT: a hub name, or that of its folder. */
  base: string
  /** Further values to keep, as JSON: step, metrics, seed. */
  info?: Record<string, unknown> | undefined
}

/**
 * The description of a saved adapter: its origin, its trained tensors by group, and the program and version that wrote
 * it.
 */
export type AdapterInfo = AdapterMeta & { config: AdapterConfig; counts: GroupCount[]; createdBy: string }

/** What has to be known of the open base model. */
export interface Base {
  model: { config: ModelConfig; device?: Device }
  plan: { folder: string }
  fingerprint: string
}

// --------------------------------------------------------------------------------------------------------------- names

const MODULES: Record<string, string> = {
  spatial: 'attention',
  temporal: 'attention',
  cross: 'crossattention',
  q: 'query',
  v: 'value',
}

/** The file and the key in it that a trained parameter is stored under. */
export function placeOf(name: string): { file: string; key: string } {
  const [, layer, role, part, side] = /^layer\.(\d+)\.(spatial|temporal|cross)\.([qv])\.(lora_[AB])$/.exec(name) ?? []
  if (!layer) return { file: OWN, key: name }
  const module = `qformer.encoder.layer.${layer}.${MODULES[role!]}.attention.${MODULES[part!]}`
  return { file: role === 'temporal' ? `temporal/${PEFT}` : PEFT, key: `base_model.model.${module}.${side}.weight` }
}

/** Where every trained parameter is stored: by file and key. */
function storedAt(trained: readonly TrainedParameter[]): Map<string, Map<string, TrainedParameter>> {
  const files = new Map<string, Map<string, TrainedParameter>>()
  for (const parameter of trained) {
    const { file, key } = placeOf(parameter.name)
    files.set(file, (files.get(file) ?? new Map()).set(key, parameter))
  }
  return files
}

/** Only the fields that every version of PEFT knows: an older one refuses a file with newer fields. */
function peftConfig(file: string, base: string, { lora }: AdapterConfig): Record<string, unknown> {
  const attention = file === PEFT ? '(attention|crossattention)' : 'attention'
  return {
    peft_type: 'LORA',
    task_type: null,
    base_model_name_or_path: base,
    inference_mode: true,
    r: lora.r,
    lora_alpha: lora.alpha,
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: false,
    modules_to_save: null,
    target_modules: String.raw`qformer\.encoder\.layer\.\d+\.${attention}\.attention\.(query|value)`,
  }
}

// ---------------------------------------------------------------------------------------------------------------- save

/**
 * Saves an adapter to `folder`, replacing it as a whole: if anything fails, the old content stays. Throws an InputError
 * where the folder cannot be written, or holds something that is not an adapter.
 */
export async function saveAdapter(
  folder: string,
  adapter: Adapter,
  meta: AdapterMeta,
  on: FileSystem = fs,
): Promise<void> {
  await replaceFolder(folder, await adapterFiles(adapter, meta), ADAPTER_FOLDER, on)
}

/** The content of all files. Tensors are read as they are at the time of the call. */
export async function adapterFiles(adapter: Adapter, meta: AdapterMeta): Promise<FolderFile[]> {
  const names = [...adapter.parameters.keys()]
  const [values, createdBy] = await Promise.all([
    Promise.all([...adapter.parameters.values()].map((t) => t.data())),
    programVersion(),
  ])
  const data = new Map(names.map((name, i) => [name, values[i]!]))
  const [trained, { config, files }] = [adapter.trained(), withMasks(adapter)]
  for (const [path, parameters] of storedAt(trained)) {
    files.push({
      path,
      tensors: [...parameters].map(([name, p]) => ({ name, dtype: 'F32', shape: p.shape, data: data.get(p.name)! })),
    })
    if (path !== OWN)
      files.push({ path: join(dirname(path), PEFT_CONFIG), text: json(peftConfig(path, meta.base, config)) })
  }
  const { base, fingerprint, info } = meta
  const about = {
    format: FORMAT,
    version: VERSION,
    createdBy,
    base: { name: base, fingerprint },
    config,
    counts: countGroups(trained),
    ...(info && { info }),
  }
  files.push({ path: 'README.md', text: readme(base, createdBy, trained) }, { path: ABOUT, text: json(about) })
  return files
}

/** Mask sets of the caller's own are saved with the adapter; its configuration then names the copies. */
function withMasks(adapter: Adapter): { config: CheckedAdapterConfig; files: FolderFile[] } {
  const dar = { ...adapter.config.dar }
  const files: FolderFile[] = []
  for (const axis of ['spatial', 'temporal'] as const) {
    const set = adapter.given[axis]
    if (!set) continue
    dar[`${axis}Masks`] = `${axis}_masks.safetensors`
    files.push({
      path: dar[`${axis}Masks`],
      tensors: [{ name: MASKS, dtype: 'U8', shape: [set.size, set.size], data: set.bits }],
    })
  }
  return { config: { ...adapter.config, dar }, files }
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`
/** The name and version of this program. */
export const programVersion = (): Promise<string> =>
  readJsonObject(fileURLToPath(new URL('../../package.json', import.meta.url))).then(
    (about) => `mtransllama ${about.version}`,
    () => 'mtransllama',
  )

function readme(base: string, createdBy: string, trained: readonly TrainedParameter[]): string {
  const counts = countGroups(trained).map(({ group, parameters }) => `${group} ${parameters.toLocaleString('en')}`)
  return `# A video adapter for ${base}

Turns the image model ${base} into a video model; written by ${createdBy}. ${countTrained(trained).toLocaleString('en')} trained
parameters in float32 (${counts.join(', ')}) and no weight of the base model.

    mtransllama ask --model BASE --adapter THIS_FOLDER --video FILE --prompt "..."

\`${ABOUT}\` has the configuration and the fingerprint of the base model; on another base the adapter is refused.
\`${PEFT_CONFIG}\` and \`${PEFT}\` are the spatial and cross-attention LoRA as PEFT stores it, so PEFT can load this
folder as an adapter of the image model. \`temporal/\` has the temporal LoRA of the same modules (where it was trained), and
\`${OWN}\` everything that PEFT does not know; the video model needs them all.
`
}

// ---------------------------------------------------------------------------------------------------------------- load

const About = z.strictObject({
  format: z.literal(FORMAT),
  version: z.literal(VERSION),
  createdBy: z.string(),
  base: z.strictObject({ name: z.string(), fingerprint: z.string().min(1) }),
  config: z.unknown(),
  info: z.record(z.string(), z.unknown()).optional(),
  counts: z.array(z.strictObject({ group: z.enum(GROUPS), tensors: z.int().min(0), parameters: z.int().min(0) })),
})

/** What an adapter is, without its tensors. */
export async function readAdapterInfo(folder: string): Promise<AdapterInfo> {
  const path = join(await findFolder(folder), ABOUT)
  const value = await readJsonObject(path, 'a folder with a saved adapter has one')
  if (value.format !== FORMAT) throw invalid(`${path}: format`, `"${FORMAT}"`, value.format)
  if (value.version !== VERSION)
    throw invalid(
      `${path}: version`,
      `${VERSION}, the one that this program reads`,
      value.version,
      'load it with the program that wrote it',
    )
  const { base, config, counts, createdBy, info } = checkWith(About, value, path)
  return {
    base: base.name,
    fingerprint: base.fingerprint,
    config: parseAdapterConfig(config, `${path}: config`),
    counts,
    createdBy,
    info,
  }
}

/**
 * Loads an adapter onto the base model that it was trained on. Every parameter has to be there once and in its shape,
 * and nothing else.
 *
 * @throws InputError for another base, an unfinished or damaged folder, one that is replaced while it is being read, and
 *   for a tensor that is not finite
 */
export async function loadAdapter(folder: string, base: Base): Promise<Adapter> {
  const adapter = await loadSaved(folder, base)
  for (const [name, t] of adapter.parameters) {
    if (((await t.data()) as Float32Array).every(Number.isFinite)) continue
    adapter.dispose()
    throw new InputError(
      `${folder}: the trained tensor ${name} holds a NaN or an infinity; take an adapter that was saved before.`,
    )
  }
  return adapter
}

/** The same for a run that is resumed, whose tensors may not be finite: its next step reports that. */
export async function loadSaved(folder: string, base: Base): Promise<Adapter> {
  const at = await findFolder(folder)
  const before = await identity(at)
  const { config: model } = base.model
  const info = await readAdapterInfo(folder)
  if (info.fingerprint !== base.fingerprint) {
    throw new InputError(
      `${folder}: this adapter belongs to the base model ${info.base} (fingerprint ${info.fingerprint.slice(0, 12)}), but the one loaded is ` +
        `${basename(resolve(base.plan.folder))} (fingerprint ${base.fingerprint.slice(0, 12)}); load it onto the model that it was trained on.`,
    )
  }
  const config = checkAdapterConfig(info.config, model, `${join(at, ABOUT)}: config`)
  const masks = await readMasks(config, at, { accepted: true })
  return scope(async () => {
    const values = await readParameters(at, config, model)
    if ((await identity(at)) !== before)
      throw new InputError(`${folder}: the adapter was replaced while it was being read; load it again.`)
    return new Adapter(model, config, { values, masks, device: base.model.device ?? 'cpu' })
  })
}

async function readParameters(
  at: string,
  config: CheckedAdapterConfig,
  model: ModelConfig,
): Promise<Map<string, Tensor>> {
  const values = new Map<string, Tensor>()
  const faults: string[] = []
  const files = storedAt(trainedParameters(model, config))
  if (!files.has(`temporal/${PEFT}`) && existsSync(join(at, 'temporal', PEFT)))
    faults.push(`temporal/${PEFT} is there, but this configuration has no temporal LoRA`)
  for (const [file, expected] of files) {
    if (file !== OWN)
      checkPeftConfig(
        join(at, dirname(file), PEFT_CONFIG),
        await readJsonObject(join(at, dirname(file), PEFT_CONFIG)),
        config.lora,
        [...expected.keys()],
      )
    const header = await readHeader(join(at, file))
    for (const key of header.entries.keys())
      if (!expected.has(key)) faults.push(`${file}: ${key} is not a parameter of this adapter`)
    for (const [key, { name, shape }] of expected) {
      const entry = header.entries.get(key)
      if (!entry) faults.push(`${file}: ${key} is missing`)
      else if (entry.dtype !== 'F32' || `${entry.shape}` !== `${shape}`)
        faults.push(`${file}: ${key} should be F32 [${shape}], and is ${entry.dtype} [${entry.shape}]`)
      else values.set(name, tensor(await readAsFloat32(header, key), shape))
    }
  }
  if (faults.length)
    throw new InputError(
      `${at}: the tensors do not fit ${ABOUT}: ${faults.slice(0, 5).join('; ')}${faults.length > 5 ? `; and ${faults.length - 5} more` : ''}.`,
    )
  return values
}
