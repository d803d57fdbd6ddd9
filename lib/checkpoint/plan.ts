/**
 * Compares the tensors of a checkpoint folder with those that the model needs, before any weight is read: every tensor
 * of the files is used, ignored by name, or an error, and every tensor of the model is found or named as missing.
 */
import { createHash } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import { InputError, show } from '../errors.js'
import { HEAD } from '../models/decoder.js'
import type { ModelConfig } from '../models/image-model.js'
import { familyOf } from '../models/language.js'
import { readModelConfig } from './config.js'
import { openFiles } from './files.js'
import { expectedTensors, resolveName, textName, type ExpectedTensor } from './names.js'
import { readEntry, type SafetensorsEntry, type SafetensorsHeader } from '../files/safetensors.js'

/** Where bytes lie: absolute offsets in a file. */
export interface Piece extends SafetensorsEntry {
  header: SafetensorsHeader
  /** The name in the file. */
  stored: string
}

export type FloatDtype = 'F32' | 'F16' | 'BF16'

/**
 * One of the model's tensors: stored as it is, stored in another order of its elements, or a fused bias put together
 * from two stored thirds with zeros between.
 */
export type PlannedTensor = Pick<ExpectedTensor, 'name' | 'part' | 'pack'> & { dtype: FloatDtype; shape: number[] } & (
    | { kind: 'stored' | 'strided'; piece: Piece }
    | { kind: 'thirds'; q: Piece; v: Piece }
  )

/** The tensors of a checkpoint compared with those of the model. Only config.json and headers are read. */
export interface CheckpointPlan {
  /** The checkpoint's folder. */
  folder: string
  /** With the vocabularies' sizes as the files have them. */
  config: ModelConfig
  /** The headers of its weight files. */
  files: SafetensorsHeader[]
  /** By the model's own names, in the order of the data flow. */
  entries: Map<string, PlannedTensor>
  /** Names in the files that are used. */
  loaded: string[]
  /** Names in the files that are known and not needed. */
  ignored: string[]
  /** Names of the model that are in no file. */
  missing: string[]
  /** Names in the files that are unknown. */
  unexpected: string[]
  /** Tensors whose shape or dtype does not fit. */
  wrong: { name: string; expected: string; actual: string }[]
  /** Harmless differences between config.json and the tensors. */
  notes: string[]
}

const FLOATS: readonly string[] = ['F32', 'F16', 'BF16']

/** Reads config.json and the headers of the weight files of a Hugging Face folder. */
export async function planCheckpoint(folder: string): Promise<CheckpointPlan> {
  const config = await readModelConfig(folder)
  return planTensors(folder, config, [{ at: folder }, ...textSource(config)])
}

/** Where the Q-Former's text path comes from, if not from the checkpoint. */
export const textSource = ({ textFrom }: ModelConfig): Source[] =>
  textFrom === undefined ? [] : [{ at: textFrom, fills: true, rename: textName }]

/** Where tensors come from: a folder, or a file of torch. */
export interface Source {
  at: string
  /**
   * The name in the model of a name in its files, where these hold a part of one; undefined: it is not looked at.
   * Default: the same.
   */
  rename?: (stored: string) => string | undefined
  /** Only what earlier sources lack is taken, and all else of it ignored. Default: false. */
  fills?: boolean
}

/** The same for a configuration and sources of their own. `folder` is what messages speak of. */
export async function planTensors(
  folder: string,
  config: ModelConfig,
  sources: readonly Source[],
): Promise<CheckpointPlan> {
  const expected = new Map(expectedTensors(config).map((tensor) => [tensor.name, tensor]))
  const plan: CheckpointPlan = {
    folder,
    config,
    files: [],
    entries: new Map(),
    loaded: [],
    ignored: [],
    missing: [],
    unexpected: [],
    wrong: [],
    notes: [],
  }
  const found = new Map<string, Found>()
  for (const source of sources) {
    const { at, rename = (stored) => stored, fills = false } = source
    const before = new Set(found.keys())
    const isNeeded = (stored: string): boolean => {
      const renamed = rename(stored)
      const name = renamed === undefined ? undefined : neededName(renamed, expected)
      return name !== undefined && !before.has(name)
    }
    const files = await openFiles(at, isNeeded)
    plan.files.push(...files)
    gather(plan, expected, found, { files, rename, before: fills ? before : undefined })
  }
  resolveTied(plan, found)
  for (const tensor of expected.values()) planTensor(plan, tensor, found.get(tensor.name))
  resolveVocabulary(plan)
  plan.loaded = [...plan.entries.keys()]
  return plan
}

/** Throws one error that names what is missing, wrong or unexpected, at most ten of each. */
export function assertComplete(plan: CheckpointPlan): void {
  const list = (names: string[]) =>
    `${names.slice(0, 10).join(', ')}${names.length > 10 ? ` and ${names.length - 10} more` : ''}`
  const faults: string[] = []
  if (plan.missing.length) faults.push(`${plan.missing.length} missing (${list(plan.missing)})`)
  if (plan.wrong.length) {
    faults.push(
      `${plan.wrong.length} wrong (${list(plan.wrong.map((w) => `${w.name}: expected ${w.expected}, but got ${w.actual}`))})`,
    )
  }
  if (plan.unexpected.length) faults.push(`${plan.unexpected.length} unexpected (${list(plan.unexpected)})`)
  if (!faults.length) return
  const { textFrom } = plan.config
  const isOfText = [...plan.missing, ...plan.wrong.map((w) => w.name)].some((name) => textName(name) !== undefined)
  const advice =
    textFrom !== undefined && isOfText
      ? `take the text path of a Q-Former of the same sizes, in place of that of ${textFrom} (qformer_text_from)`
      : 'take both from the same model'
  throw new InputError(
    `${plan.folder}: the weights do not fit config.json; of the tensors, ${faults.join('; ')}; ${advice}.`,
  )
}

/** The bytes of one planned tensor. */
export async function readPlanned(tensor: PlannedTensor): Promise<Uint8Array<ArrayBuffer>> {
  if (tensor.kind !== 'thirds') return readEntry(tensor.piece.header, tensor.piece.stored)
  const [q, v] = await Promise.all([
    readEntry(tensor.q.header, tensor.q.stored),
    readEntry(tensor.v.header, tensor.v.stored),
  ])
  const bytes = new Uint8Array(3 * q.byteLength)
  bytes.set(q, 0)
  bytes.set(v, 2 * q.byteLength)
  return bytes
}

/**
 * The name of the model's tensor that a file must hold; undefined for what may be absent: buffers of old files, other
 * heads and tied matrices.
 */
function neededName(stored: string, expected: Map<string, ExpectedTensor>): string | undefined {
  const what = resolveName(stored, expected)
  if (what.kind === 'ignored') return undefined
  return 'name' in what ? (expected.get(what.name)!.optional ? undefined : what.name) : stored
}

// ------------------------------------------------------------------------------------------------------------ matching

type Found = Piece | { q?: Piece; v?: Piece }

function gather(
  plan: CheckpointPlan,
  expected: Map<string, ExpectedTensor>,
  found: Map<string, Found>,
  {
    files,
    rename,
    before,
  }: { files: SafetensorsHeader[]; rename: (stored: string) => string | undefined; before: Set<string> | undefined },
): void {
  for (const header of files) {
    for (const [stored, entry] of header.entries) {
      const name = rename(stored)
      if (name === undefined) continue
      const what = resolveName(name, expected)
      const isIgnored = what.kind === 'ignored' || (before && (!('name' in what) || before.has(what.name)))
      if (isIgnored) plan.ignored.push(stored)
      else if (!('name' in what)) plan.unexpected.push(stored)
      else {
        const piece: Piece = { header, stored, ...entry }
        const known = found.get(what.name)
        if (what.kind === 'third' && (known === undefined || !('header' in known)) && known?.[what.third] === undefined)
          found.set(what.name, { ...known, [what.third]: piece })
        else if (known !== undefined)
          throw new InputError(
            `${plan.folder}: the tensor ${what.name} is there twice, once under the name ${show(stored)}.`,
          )
        else found.set(what.name, piece)
      }
    }
  }
}

/** Of a tied pair the files may hold either or both; the model uses the embedding. */
function resolveTied(plan: CheckpointPlan, found: Map<string, Found>): void {
  const head = found.get(HEAD)
  if (!plan.config.language.tied || head === undefined) return
  const { embedding } = familyOf(plan.config.language)
  found.delete(HEAD)
  if (found.has(embedding)) plan.ignored.push((head as Piece).stored)
  else found.set(embedding, head)
}

function planTensor(plan: CheckpointPlan, tensor: ExpectedTensor, found: Found | undefined): void {
  const { name, part, pack, shape } = tensor
  const known = { name, part, ...(pack !== undefined && { pack }) }
  if (found === undefined) {
    if (!tensor.optional) plan.missing.push(name)
  } else if ('header' in found) {
    const rows = tensor.rows && found.shape.length === 2 ? [found.shape[0]!, ...shape.slice(1)] : shape
    if (!fits(found, rows))
      plan.wrong.push({
        name,
        expected: `a float of shape [${tensor.rows ? ['rows', ...shape.slice(1)] : shape}]`,
        actual: describe(found),
      })
    else
      plan.entries.set(name, {
        kind: found.strides ? 'strided' : 'stored',
        ...known,
        dtype: found.dtype as FloatDtype,
        shape: rows,
        piece: found,
      })
  } else if (!found.q || !found.v) {
    plan.missing.push(`${name} (of its thirds there is ${found.q ? 'q_bias' : 'v_bias'} alone)`)
  } else {
    const { q, v } = found
    const third = [shape[0]! / 3]
    const bad = [q, v].filter((piece) => !fits(piece, third) || piece.dtype !== q.dtype)
    for (const piece of bad)
      plan.wrong.push({ name: piece.stored, expected: `a float of shape [${third}]`, actual: describe(piece) })
    if (bad.length === 0)
      plan.entries.set(name, { kind: 'thirds', ...known, dtype: q.dtype as FloatDtype, shape, q, v })
  }
}

const fits = (piece: Piece, shape: number[]) => FLOATS.includes(piece.dtype) && piece.shape.join() === shape.join()
const describe = (piece: Piece) => `${piece.dtype} [${piece.shape}]`

/** Row counts are the files'; config.json is often behind by the tokens that were added later. */
function resolveVocabulary(plan: CheckpointPlan): void {
  const { language, qformer } = plan.config
  const words = plan.entries.get('qformer.embeddings.word_embeddings.weight')?.shape[0]
  const embedding = plan.entries.get(familyOf(language).embedding)?.shape[0]
  const head = plan.entries.get(HEAD)
  if (head && embedding !== undefined && head.shape[0] !== embedding) {
    plan.wrong.push({ name: HEAD, expected: `${embedding} rows as in the embedding`, actual: `${head.shape[0]} rows` })
  }
  const note = (key: string, config: number, rows: number) =>
    `${key} is ${config} in config.json, and the file has ${rows} rows; the file is right`
  if (words !== undefined && words !== qformer.vocabSize) {
    plan.notes.push(note('qformer_config.vocab_size', qformer.vocabSize, words))
    qformer.vocabSize = words
  }
  if (embedding !== undefined && embedding !== language.vocabSize) {
    plan.notes.push(note('text_config.vocab_size', language.vocabSize, embedding))
    language.vocabSize = embedding
  }
}

// --------------------------------------------------------------------------------------------------------- fingerprint

/** Bytes of a sample. */
const SAMPLE = 4096

/**
 * Identifies this set of weights: SHA-256 of every tensor's name, dtype, shape and first and last 4 KiB, in the order
 * of names. Splitting the same tensors over other files does not change it; it reads at most 8 KiB a tensor.
 */
export const fingerprint = (plan: CheckpointPlan): Promise<string> =>
  hashTensors(plan, [...plan.entries.values()], bothEnds, '')

/**
 * Identifies what the vision tower computes: its configuration, and of each of its tensors what {@link fingerprint}
 * takes, but 64 samples of 4 KiB at equal distances. Tensors up to 256 KiB are read whole.
 */
export function visionFingerprint(plan: CheckpointPlan): Promise<string> {
  const entries = [...plan.entries.values()].filter(({ part }) => part === 'vision')
  return hashTensors(plan, entries, throughout, JSON.stringify(Object.entries(plan.config.vision).sort()))
}

/** Which bytes of [begin, end) are read: [from, to) each. */
type Sampler = (begin: number, end: number) => [number, number][]

const bothEnds: Sampler = (begin, end) => [
  [begin, Math.min(end, begin + SAMPLE)],
  [Math.max(begin, end - SAMPLE), end],
]

const throughout: Sampler = (begin, end) => {
  if (end - begin <= 64 * SAMPLE) return [[begin, end]]
  return Array.from({ length: 64 }, (_, i) => begin + Math.round(((end - begin - SAMPLE) * i) / 63)).map((from) => [
    from,
    from + SAMPLE,
  ])
}

async function hashTensors(
  plan: CheckpointPlan,
  tensors: readonly PlannedTensor[],
  sampler: Sampler,
  about: string,
): Promise<string> {
  const hash = createHash('sha256').update(about)
  const handles = new Map<string, FileHandle>()
  try {
    for (const header of plan.files) handles.set(header.path, await open(header.path, 'r'))
    for (const tensor of [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      hash.update(`${tensor.name}\0${tensor.dtype}\0${tensor.shape.join()}\0`)
      if (tensor.kind === 'strided') {
        // As its elements lie once they are in order.
        const bytes = await readPlanned(tensor)
        for (const [from, to] of sampler(0, bytes.length)) hash.update(bytes.subarray(from, to))
        continue
      }
      for (const { header, begin, end } of 'piece' in tensor ? [tensor.piece] : [tensor.q, tensor.v]) {
        for (const [from, to] of sampler(begin, end)) hash.update(await sample(handles.get(header.path)!, from, to))
      }
    }
  } finally {
    for (const handle of handles.values()) await handle.close()
  }
  return hash.digest('hex')
}

async function sample(handle: FileHandle, begin: number, end: number): Promise<Uint8Array> {
  const { buffer, bytesRead } = await handle.read(new Uint8Array(end - begin), 0, end - begin, begin)
  return buffer.subarray(0, bytesRead)
}
