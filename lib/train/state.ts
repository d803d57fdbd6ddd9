/**
 * The state of a run, from which it resumes to the bit. `OUTPUT/last/` holds the adapter, AdamW's moments
 * (`training.safetensors`: `m.NAME`, `v.NAME`, float32), and its steps, the place in the data, the random state and the
 * configuration (`training.json`). The folder is replaced as a whole, so adapter and moments always belong to the same
 * step. `OUTPUT/best/` is an adapter alone.
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
import { checkReplaceable, findFolder, replaceFolder } from '../files/folder.js'
import { readAsFloat32, readHeader, type TensorData } from '../files/safetensors.js'
import type { AdamW } from './optimizer.js'

const [FORMAT, VERSION] = ['mtransllama-training', 1] as const
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
  /** The values that must be the same when the run resumes: the configuration without output paths. Plain JSON. */
  config: object
}

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
  const { adapter, optimizer, config, progress, random } = state
  const about = {
    format: FORMAT,
    version: VERSION,
    steps: optimizer.steps,
    progress: pack(progress),
    random: pack(random),
    configHash: configHash(config),
    config: pack(config),
  }
  const text = `${JSON.stringify(about, null, 2)}\n`
  const [files, moments] = await Promise.all([adapterFiles(adapter, meta), momentData(optimizer)])
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

function momentData({ moments }: AdamW): Promise<TensorData[]> {
  return Promise.all(
    named(moments).map(async ([name, t]) => ({ name, dtype: 'F32' as const, shape: t.shape, data: await t.data() })),
  )
}

const named = (moments: AdamW['moments']): [string, Tensor][] =>
  [...moments].flatMap(([name, { m, v }]): [string, Tensor][] => [
    [`m.${name}`, m],
    [`v.${name}`, v],
  ])

// ---------------------------------------------------------------------------------------------------------------- load

const State = z.strictObject({
  format: z.literal(FORMAT),
  version: z.literal(VERSION),
  steps: z.int().min(0),
  configHash: z.string(),
  config: z.looseObject({}),
  progress: z.looseObject({ epoch: z.int().min(0), position: z.int().min(0) }),
  random: z.looseObject({ seed: z.number() }),
})

/** Throws where saving into `dir` would be refused: the names of a run are taken by something else. */
export async function checkOutput(dir: string): Promise<void> {
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
  { adapter, optimizer, config, base }: Pick<TrainingState, 'adapter' | 'optimizer' | 'config'> & { base: Base },
): Promise<{ progress: Progress; random: RandomState }> {
  const folder = await findFolder(join(dir, 'last'))
  const path = join(folder, STATE)
  const value = await readJsonObject(path, 'there is no training run to go on with; start a new one')
  if (value.format !== FORMAT) throw invalid(`${path}: format`, `"${FORMAT}"`, value.format)
  if (value.version !== VERSION)
    throw invalid(
      `${path}: version`,
      `${VERSION}, the one that this program reads`,
      value.version,
      'resume with the program that wrote it',
    )
  const state = checkWith(State, value, path)
  checkConfig(path, unpack(state.config), state.configHash, config)
  await scope(async () => {
    const moments = await readMoments(join(folder, MOMENTS), optimizer)
    const saved = await loadSaved(join(dir, 'last'), base)
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

/** The saved moments with their destination tensors. */
async function readMoments(path: string, { moments }: AdamW): Promise<Map<Tensor, Tensor>> {
  const header = await readHeader(path)
  const expected = new Map(named(moments))
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

function checkConfig(path: string, saved: unknown, hash: string, config: object): void {
  const [before, now] = [new Map(flat(saved)), new Map(flat(config))]
  const differ = [...new Set([...before.keys(), ...now.keys()])].filter((key) => before.get(key) !== now.get(key))
  const words = differ.map((key) => `${key} was ${brief(before.get(key))} and is now ${brief(now.get(key))}`)
  if (words.length) {
    const more = words.length > 5 ? `, and ${words.length - 5} more` : ''
    throw new InputError(
      `${path}: the saved run had another configuration: ${words.slice(0, 5).join(', ')}${more}; restore it to resume, or start a new run in another folder.`,
    )
  }
  if (hash !== configHash(config))
    throw invalid(
      `${path}: configHash`,
      `${configHash(config)}, that of its configuration`,
      hash,
      'the file was changed by hand',
    )
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
