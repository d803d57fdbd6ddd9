/**
 * The state of a run, from which it resumes to the bit. `OUTPUT/last/` holds the adapter, AdamW's moments
 * (`training.safetensors`: `m.NAME`, `v.NAME` and, of a moving average, `ema.NAME`, float32), and its steps, the place
 * in the data, the random state and the configuration (`training.json`). The folder is replaced as a whole, so adapter
 * and moments always belong to the same step. `OUTPUT/best/` is an adapter alone.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Adapter } from '../adapter/adapter.js'
import { ADAPTER_FOLDER, adapterFiles, loadSaved, saveAdapter, type Base, type AdapterMeta } from '../adapter/save.js'
import { InputError, invalid, show } from '../errors.js'
import { readJsonObject } from '../files/json.js'
import { write } from '../ops/copy.js'
import { checkWith } from '../files/schema.js'
import { scope } from '../tensor/scope.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { FileSystem } from '../files/atomic.js'
import { checkReplaceable, findFolder, nearestExisting, replaceFolder, temporaryOf, tidy } from '../files/folder.js'
import { readAsFloat32, readHeader, type TensorData } from '../files/safetensors.js'
import type { AdamW } from './optimizer.js'

const [FORMAT, VERSION] = ['mtransllama-training', 2] as const
const [STATE, MOMENTS] = ['training.json', 'training.safetensors'] as const

/**
 * The progress of a run. Further JSON values, and numbers that are not finite, may be added and are restored as they
 * were.
 */
export interface Progress {
  /** Epochs that are complete. */
  epoch: number
  /** Optimiser steps, or samples, of the next epoch that are done: the caller's unit. */
  position: number
  [more: string]: unknown
}

/** The state of the run's random numbers: the seed, and what the caller's generators need. */
export interface RandomState {
  seed: number
  [more: string]: unknown
}

export interface TrainingState {
  adapter: Adapter
  optimizer: AdamW
  progress: Progress
  random: RandomState
  /** The moving average of the trained tensors, where there is one. */
  average?: ReadonlyMap<string, Tensor> | undefined
  /** The values that must be the same when the run resumes: the configuration without output paths. Plain JSON. */
  config: object
  /** The samples that must be the same. */
  data?: RunData | undefined
}

/** The samples of a run by id, each with a hash of its text and of where its clip lies in the video, in order. */
export type RunData = Readonly<Record<string, readonly (readonly [id: string, hash: string])[]>>

// ---------------------------------------------------------------------------------------------------------------- save

/**
 * Saves a run into `dir/last`. The state is read at the time of the call: training may continue before the promise
 * resolves. If saving fails, the earlier state is intact.
 */
export async function saveState(
  dir: string,
  state: TrainingState,
  meta: AdapterMeta,
  on: FileSystem = fs,
): Promise<void> {
  const { adapter, optimizer, average, config, progress, random } = state
  const about = {
    format: FORMAT,
    version: VERSION,
    steps: optimizer.steps,
    progress: pack(progress),
    random: pack(random),
    configHash: configHash(config),
    config: pack(config),
    data: state.data ?? {},
  }
  const text = `${JSON.stringify(about, null, 2)}\n`
  const [files, moments] = await Promise.all([adapterFiles(adapter, meta), momentData(optimizer, average)])
  await replaceFolder(
    join(dir, 'last'),
    [...files, { path: MOMENTS, tensors: moments }, { path: STATE, text }],
    ADAPTER_FOLDER,
    on,
  )
}

/** Saves the adapter alone into `dir/best`. */
export function saveBest(dir: string, adapter: Adapter, meta: AdapterMeta, on: FileSystem = fs): Promise<void> {
  return saveAdapter(join(dir, 'best'), adapter, meta, on)
}

function momentData({ moments }: AdamW, average: TrainingState['average']): Promise<TensorData[]> {
  return Promise.all(
    named(moments, average).map(async ([name, t]) => ({
      name,
      dtype: 'F32' as const,
      shape: t.shape,
      data: await t.data(),
    })),
  )
}

const named = (moments: AdamW['moments'], average: TrainingState['average']): [string, Tensor][] => [
  ...[...moments].flatMap(([name, { m, v }]): [string, Tensor][] => [
    [`m.${name}`, m],
    [`v.${name}`, v],
  ]),
  ...[...(average ?? [])].map(([name, t]): [string, Tensor] => [`ema.${name}`, t]),
]

/** Saves that are kept beside `last`, by their steps, the newest first. */
async function keptSaves(dir: string): Promise<number[]> {
  const names = await fs.readdir(dir).catch(() => [])
  return names
    .flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => b - a)
}

/** Names of the saves that can be resumed, the newest first. */
export async function savesOf(dir: string): Promise<string[]> {
  return [...((await hasState(dir)) ? ['last'] : []), ...(await keptSaves(dir)).map((step) => `step-${step}`)]
}

/**
 * Keeps `last/` as `step-N/` before it is replaced, and removes the oldest, so that `count` are there. The files are
 * links to the same bytes where the file system has links: a save never changes a file, it replaces the folder.
 */
export async function keepSave(dir: string, step: number, count: number): Promise<void> {
  const [from, to] = [await findFolder(join(dir, 'last')), join(dir, `step-${step}`)]
  if (count > 0 && existsSync(join(from, STATE))) {
    await tidy(to)
    const temporary = temporaryOf(to)
    await linkFolder(from, temporary)
    await fs.rm(to, { recursive: true, force: true })
    await fs.rename(temporary, to)
  }
  for (const old of (await keptSaves(dir)).slice(count))
    await fs.rm(join(dir, `step-${old}`), { recursive: true, force: true })
}

async function linkFolder(from: string, to: string): Promise<void> {
  await fs.mkdir(to)
  for (const entry of await fs.readdir(from, { withFileTypes: true })) {
    const [a, b] = [join(from, entry.name), join(to, entry.name)]
    if (entry.isDirectory()) await linkFolder(a, b)
    else await fs.link(a, b).catch(() => fs.cp(a, b))
  }
}

// ---------------------------------------------------------------------------------------------------------------- load

const State = z.strictObject({
  format: z.literal(FORMAT),
  version: z.union([z.literal(1), z.literal(VERSION)]),
  data: z.record(z.string(), z.array(z.tuple([z.string(), z.string()]))).default({}),
  steps: z.int().min(0),
  configHash: z.string(),
  config: z.looseObject({}),
  progress: z.looseObject({ epoch: z.int().min(0), position: z.int().min(0) }),
  random: z.looseObject({ seed: z.number() }),
})

/** Throws where saving into `dir` would be refused: it is no folder, or something else has a run's names in it. */
export async function checkOutput(dir: string): Promise<void> {
  const place = nearestExisting(dir)
  try {
    if (!(await fs.stat(place)).isDirectory()) throw new Error(`the file ${place}`)
    await fs.access(place, fs.constants.W_OK)
  } catch (error) {
    throw invalid('output', 'a folder that can be written', error, `choose another than ${dir}`)
  }
  for (const name of ['last', 'best']) await checkReplaceable(join(dir, name), ADAPTER_FOLDER)
}

/** Whether `dir` has a state to resume. */
export async function hasState(dir: string): Promise<boolean> {
  return existsSync(join(await findFolder(join(dir, 'last')), STATE))
}

/**
 * Restores a saved run: writes the trained tensors into `adapter`, moments and steps into `optimizer`, and returns the
 * progress. Everything is checked before anything is written.
 *
 * @param state a fresh adapter and optimiser of the same configuration, and the configuration itself
 * @throws InputError where there is no state, it is damaged, another base model is loaded, or the configuration
 *   differs: then it names the keys
 */
export async function loadState(
  dir: string,
  { adapter, optimizer, average, config, data, base }: Omit<TrainingState, 'progress' | 'random'> & { base: Base },
  { save = 'last', ...differences }: { save?: string } & Differences = {},
): Promise<{ progress: Progress; random: RandomState }> {
  const folder = await findFolder(join(dir, save))
  const path = join(folder, STATE)
  const value = await readJsonObject(path, 'there is no training run to go on with; start a new one')
  if (value.format !== FORMAT) throw invalid(`${path}: format`, `"${FORMAT}"`, value.format)
  if (value.version !== VERSION && value.version !== 1)
    throw invalid(
      `${path}: version`,
      `${VERSION}, the one that this program reads`,
      value.version,
      'resume with the program that wrote it',
    )
  const state = upgraded(checkWith(State, value, path))
  checkConfig(path, state, config, differences)
  if (data) checkData(path, state.data, data)
  await scope(async () => {
    const moments = await readMoments(join(folder, MOMENTS), optimizer, average)
    const saved = await loadSaved(join(dir, save), base)
    try {
      checkSameTable(folder, saved, adapter)
      for (const [name, t] of saved.parameters) write(adapter.parameters.get(name)!, t)
      for (const [t, value] of moments) write(t, value)
      optimizer.steps = state.steps
    } finally {
      saved.dispose()
    }
  })
  return { progress: unpack(state.progress) as Progress, random: unpack(state.random) as RandomState }
}

/** A state of version 1 with its samples, which were ids in the configuration, where they are now. */
function upgraded(state: z.output<typeof State>): z.output<typeof State> {
  const { samples } = state.config as { samples?: unknown }
  if (state.version !== 1 || !Array.isArray(samples)) return state
  return { ...state, data: { training: samples.map((id): [string, string] => [String(id), '']) } }
}

/** The saved moments with their destination tensors. */
async function readMoments(
  path: string,
  { moments }: AdamW,
  average: TrainingState['average'],
): Promise<Map<Tensor, Tensor>> {
  const header = await readHeader(path)
  const expected = new Map(named(moments, average))
  const unknown = [...header.entries.keys()].find((name) => !expected.has(name))
  if (unknown !== undefined)
    throw invalid(path, 'the moments of the parameters that are trained', `${unknown}, which is not one of them`)
  const values = new Map<Tensor, Tensor>()
  for (const [name, t] of expected) {
    const entry = header.entries.get(name)
    if (entry?.dtype !== 'F32' || `${entry.shape}` !== `${t.shape}`) {
      throw invalid(`${path}: ${name}`, `F32 [${t.shape}]`, entry ? `${entry.dtype} [${entry.shape}]` : 'nothing')
    }
    values.set(t, tensor(await readAsFloat32(header, name), t.shape, 'float32', t.device))
  }
  return values
}

function checkSameTable(folder: string, saved: Adapter, adapter: Adapter): void {
  const list = (a: Adapter) => [...a.parameters].map(([name, t]) => `${name} [${t.shape}]`).sort()
  const [there, here] = [list(saved), list(adapter)]
  const odd = there.find((p) => !here.includes(p)) ?? here.find((p) => !there.includes(p))
  if (odd)
    throw invalid(
      folder,
      'an adapter with the parameters of the one in training',
      `${odd}, which only ${there.includes(odd) ? 'the saved one' : 'the one in training'} has`,
    )
}

// ------------------------------------------------------------------------------------------------------- configuration

/** SHA-256 of a configuration, independent of the order of keys. */
export function configHash(config: object): string {
  return createHash('sha256')
    .update(JSON.stringify(flat(config)))
    .digest('hex')
}

/** Dotted keys and values as JSON, sorted; `undefined` counts as absent. */
function flat(value: unknown, key = ''): [string, string][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return value === undefined ? [] : [[key, JSON.stringify(pack(value))]]
  return Object.entries(value)
    .flatMap(([name, inner]) => flat(inner, key === '' ? name : `${key}.${name}`))
    .sort(([a], [b]) => (a < b ? -1 : 1))
}

/** Differences between the saved configuration and the present one that are accepted. */
export interface Differences {
  /** Values of keys that the program which saved the run did not know. */
  assumed?: object
  /** Whether `train.epochs` may be more than it was. */
  extend?: boolean
  /** Dotted keys that may change. */
  free?: readonly string[]
}

function checkConfig(
  path: string,
  saved: { config: object; configHash: string; version: number },
  config: object,
  { assumed = {}, extend = false, free = [] }: Differences,
): void {
  const old = unpack(saved.config) as Record<string, unknown>
  const { samples, ...rest } = old
  const then = saved.version === 1 && Array.isArray(samples) ? rest : old
  const known = flat(then)
  // A number for all groups is no default beside one for each of them.
  const unknown = flat(assumed).filter(([key]) => !known.some(([other]) => other.startsWith(`${key}.`)))
  const [before, now] = [new Map([...unknown, ...known]), new Map(flat(config))]
  const epochs = 'train.epochs'
  const more = Number(now.get(epochs)) >= Number(before.get(epochs))
  const differ = [...new Set([...before.keys(), ...now.keys()])].filter(
    (key) => before.get(key) !== now.get(key) && !free.includes(key) && !(extend && more && key === epochs),
  )
  const value = (of: Map<string, string>, key: string): string =>
    key === 'ranks' ? (of.get(key) ?? '1') : brief(of.get(key))
  const words = differ.map((key) => `${key} was ${value(before, key)} and is now ${value(now, key)}`)
  if (words.length) {
    const rest = words.length > 5 ? `, and ${words.length - 5} more` : ''
    const only = differ.length === 1 ? differ[0] : undefined
    const hint =
      only === epochs && more
        ? 'allow it with --extend, or '
        : only === 'ranks'
          ? 'gradients are then added in another order, which --rescale allows; or '
          : ''
    throw new InputError(
      `${path}: the saved run had another configuration: ${words.slice(0, 5).join(', ')}${rest}; ${hint}restore it to resume, or start a new run in another folder.`,
    )
  }
  if (saved.configHash !== configHash(old))
    throw invalid(
      `${path}: configHash`,
      `${configHash(old)}, that of its configuration`,
      saved.configHash,
      'the file was changed by hand',
    )
}

/** Refuses other samples than those of the saved run, and names the differences. */
function checkData(path: string, saved: RunData, data: RunData): void {
  for (const [split, now] of Object.entries(data)) {
    const then = saved[split]
    if (!then) continue // saved by an earlier version, which did not record this
    const [before, after] = [new Map(then), new Map(now)]
    const words = [
      ...[...before.keys()].filter((id) => !after.has(id)).map((id) => `${show(id)} is gone`),
      ...now.flatMap(([id, hash]) => {
        const old = before.get(id)
        return old === undefined ? `${show(id)} is new` : old && old !== hash ? `${show(id)} says something else` : []
      }),
    ]
    if (!words.length && then.some(([id], i) => now[i]![0] !== id)) words.push('the samples are in another order')
    if (words.length)
      throw new InputError(
        `${path}: the saved run had other ${split} samples: ${words.slice(0, 5).join(', ')}${words.length > 5 ? `, and ${words.length - 5} more` : ''}; restore the manifest to resume, or start a new run in another folder.`,
      )
  }
}

const brief = (text: string | undefined): string =>
  text === undefined ? 'not given' : text.length > 60 ? show(text) : text

/** JSON has no infinities and no NaN; a best loss so far often starts as one. */
function pack(value: unknown): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) return { $number: String(value) }
  if (Array.isArray(value)) return value.map(pack)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, pack(inner)]))
}

function unpack(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(unpack)
  if (typeof value !== 'object' || value === null) return value
  const { $number: number } = value as { $number?: unknown }
  if (typeof number === 'string') return Number(number)
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, unpack(inner)]))
}
