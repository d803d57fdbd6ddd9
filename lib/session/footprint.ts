/**
 * The memory that a model takes, part by part, before a weight is read: weights from their shapes and the policy
 * (budget.ts), everything else by a rehearsal, which runs the very code without computing.
 */
import { statSync } from 'node:fs'
import { Adapter, type GivenMasks } from '../adapter/adapter.js'
import type { AdapterConfig } from '../adapter/config.js'
import { countTrained } from '../adapter/parameters.js'
import { readMasks } from '../adapter/read-masks.js'
import { readAdapterInfo } from '../adapter/save.js'
import { contiguous, full, zeros } from '../ops/copy.js'
import { expectedTensors, type Part } from '../checkpoint/names.js'
import {
  assertComplete,
  planCheckpoint,
  type CheckpointPlan,
  type FloatDtype,
  type PlannedTensor,
} from '../checkpoint/plan.js'
import { readModelConfig } from '../checkpoint/config.js'
import { hasWeights } from '../checkpoint/files.js'
import { ImageModel, type ModelConfig, type QFormerText } from '../models/image-model.js'
import { embedTokens, tokenTensor, type DecoderConfig } from '../models/decoder.js'
import { native, type Rehearsed } from '../native.js'
import { concat, expand } from '../ops/views.js'
import { sizeOf } from '../shape.js'
import type { Device } from '../tensor/device.js'
import { isQuantized, itemSize } from '../tensor/dtype.js'
import { rehearse } from '../tensor/rehearsal.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import { sync, threads } from '../tensor/runtime.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { isMatrix, memoryOf, weightsPolicy, type WeightsPolicy, type WeightsQuestion } from './budget.js'
import { Decoder } from './decoding.js'

/** Bytes of one part of a footprint. */
export interface FootprintRow {
  part: string
  bytes: number
}

/** What a computation takes at one time. */
export interface Footprint {
  rows: FootprintRow[]
  total: number
  /** Of it, what the addon allocates for tensors on the CPU: `memory().peak`. */
  allocated: number
  /** Bytes that the device has. */
  memory: number
  policy: WeightsPolicy
}

/** A model before its weights are read. */
export interface Outline {
  config: ModelConfig
  entries: Pick<PlannedTensor, 'name' | 'part' | 'shape' | 'dtype' | 'kind'>[]
  /** Whether its files are large enough to be mapped. */
  mapped: boolean
}

/** Files from this size on are mapped (core/mapping.cc). */
const MAPPED = 64 * 2 ** 20

const STORED: Record<string, FloatDtype> = { float32: 'F32', float16: 'F16', bfloat16: 'BF16' }

/**
 * Reads a checkpoint folder's headers, or of one without weights, or a bare config.json, what that says.
 *
 * @throws InputError for weights that do not fit
 */
export async function outlineOf(target: string): Promise<Outline> {
  const folder = !target.endsWith('.json')
  if (!folder || !hasWeights(target)) return outlineOfConfig(await readModelConfig(target))
  const plan = await planCheckpoint(target)
  assertComplete(plan)
  return outlineOfPlan(plan)
}

const outlineOfPlan = (plan: CheckpointPlan): Outline => ({
  config: plan.config,
  entries: [...plan.entries.values()],
  mapped: plan.files.some(({ path }) => statSync(path).size >= MAPPED),
})

function outlineOfConfig(config: ModelConfig): Outline {
  const dtype = STORED[config.dtype ?? 'float32'] ?? 'F32'
  const entries = expectedTensors(config)
    .filter((t) => !t.optional)
    .map(({ name, part, shape }) => ({ name, part, shape, dtype, kind: 'stored' as const }))
  return { config, entries, mapped: entries.some((t) => sizeOf(t.shape) * 4 >= MAPPED) }
}

/** What else decides a footprint. */
export interface FootprintOptions extends Pick<WeightsQuestion, 'weights' | 'precision'> {
  /** Where it is to run; a CUDA device need not be there. */
  device: Device
  /** Bytes that the device has. Default: what this one has. */
  memory?: number | undefined
}

const TITLES: Record<Part, string> = {
  vision: 'vision',
  qformer: 'Q-Former',
  query: 'query tokens',
  projection: 'projection',
  language: 'language model',
}

/** What a CUDA context and a library's workspace take, as a rule. */
const CONTEXT = 600e6
/** Scratch memory of each thread's products and attention, at most. */
const SCRATCH = 24e6

/**
 * The footprint of a computation on a model.
 *
 * @param run rehearsed: gets the model without memory, frees what it made, and returns the parts that are to be listed
 *   apart from activations
 */
export async function footprint(
  { config, entries, mapped }: Outline,
  { device, memory = memoryOf(device).limit, weights, precision }: FootprintOptions,
  run: (model: ImageModel) => Promise<FootprintRow[]>,
): Promise<Footprint> {
  const policy = weightsPolicy({ entries, device, weights, precision, memory })
  const held = new Map<Part, number>()
  const bytesOf = (t: Outline['entries'][number]): number => policy.bytesOf(t)
  for (const t of entries) held.set(t.part, (held.get(t.part) ?? 0) + bytesOf(t))
  const model = new ImageModel(
    config,
    new Map(entries.map((t) => [t.name, empty(t.shape, policy.dtypeOf(t), 'cpu')])),
    policy.precision,
  )
  const staysInFile = (t: Outline['entries'][number]): boolean => device === 'cpu' && mapped && policy.isMapped(t)
  const inMemory = entries.filter((t) => !staysInFile(t))
  const packs = packedBytes(entries, policy, device)
  let parts: FootprintRow[] = []
  let taken: Rehearsed
  let weightsTaken: Rehearsed
  try {
    // The blocks of an allocator are somewhat larger than what was asked for.
    weightsTaken = await rehearse(() =>
      scope(async () => {
        for (const bytes of [...inMemory.map(bytesOf), ...packs.map((p) => p.bytes)]) full([bytes], 0, 'uint8', 'cpu')
        await sync()
      }),
    )
    taken = await rehearse(async () => (parts = await run(model)), device)
  } finally {
    model.dispose()
  }
  const listed = parts.reduce((n, p) => n + p.bytes, 0)
  // Packs of mapped weights take the place of their pages.
  const packed = packs.reduce((n, { of, bytes }) => n + (staysInFile(of) ? 0 : bytes), 0)
  const rows: FootprintRow[] = [
    ...[...held].map(([part, bytes]) => ({ part: `weights: ${TITLES[part]}`, bytes })),
    ...(packed ? [{ part: 'packed weights', bytes: packed }] : []),
    ...parts,
    { part: 'activations', bytes: Math.max(0, taken.resident - listed) },
    device === 'cpu'
      ? { part: 'process', bytes: process.memoryUsage.rss() + Math.min(threads() * SCRATCH, taken.peak) }
      : { part: 'device context', bytes: CONTEXT },
  ]
  return {
    rows,
    total: rows.reduce((n, r) => n + r.bytes, 0),
    allocated: weightsTaken.peak + taken.peak,
    memory,
    policy,
  }
}

/** The packs that the CPU's kernels make of matrices: of all but token tables. */
function packedBytes(
  entries: Outline['entries'],
  policy: WeightsPolicy,
  device: Device,
): { of: Outline['entries'][number]; bytes: number }[] {
  if (device !== 'cpu' || policy.asItIs) return []
  const panel = { avx512: 32, avx2: 16, neon: 8, portable: 8 }[native().devices().cpu.isa]
  return entries
    .filter(
      (t) => (isMatrix(t) && !/embed_tokens|word_embeddings/.test(t.name)) || /patch_embedding\.weight$/.test(t.name),
    )
    .filter((t) => !isQuantized(policy.dtypeOf(t)))
    .map((t) => {
      const [out] = t.shape as [number]
      const into = sizeOf(t.shape) / out
      const width = itemSize(policy.dtypeOf(t))
      const bytes = Math.ceil(out / panel) * panel * (width === 4 ? into : 2 * Math.ceil(into / 2)) * width
      return { of: t, bytes }
    })
}

// ------------------------------------------------------------------------------------------------------- computations

/** E_v of one clip of T frames, as session/features computes it. */
export function rehearseFeatures(model: ImageModel, frames: number): void {
  const { channels, imageSize } = model.config.vision
  scope(() => noGrad(() => void model.features(zeros([1, frames, channels, imageSize, imageSize]))))
}

/** Ids and mask of texts for the Q-Former, as a rehearsal gives them; undefined without tokens. */
export function rehearsedText(model: ImageModel, rows: number, tokens: number): QFormerText | undefined {
  if (!tokens || !model.config.qformer.hasText) return undefined
  const n = rows * tokens
  return {
    ids: tokenTensor(new Int32Array(n), rows, model.device),
    mask: tokenTensor(new Uint8Array(n).fill(1), rows, model.device),
  }
}

/** An adapter before its tensors are read: its configuration, and the masks that this names as files. */
export interface AdapterOutline {
  config: AdapterConfig
  masks?: GivenMasks | undefined
}

/** Reads the outline of an adapter's folder. @throws InputError where it holds none */
export async function adapterOutline(folder: string): Promise<AdapterOutline> {
  const { config } = await readAdapterInfo(folder)
  return { config, masks: await readMasks(config, folder, { accepted: true }) }
}

/** Adapters of a rehearsal, and their row in a footprint. */
export function openAdapters(
  model: ImageModel,
  outlines: readonly AdapterOutline[],
): { adapters: Adapter[]; row: FootprintRow[]; dispose(): void } {
  const adapters = outlines.map(
    ({ config, masks = {} }) => new Adapter(model.config, config, { device: model.device, masks }),
  )
  const bytes = adapters.reduce((n, a) => n + 4 * countTrained(a.trained()), 0)
  return {
    adapters,
    row: adapters.length ? [{ part: adapters.length > 1 ? 'adapters' : 'adapter', bytes }] : [],
    dispose: () => adapters.forEach((a) => a.dispose()),
  }
}

/** An answer of one sample as generate() computes it, in a rehearsal. Returns the bytes of its KV cache. */
export async function rehearseAnswer(
  model: ImageModel,
  visual: Tensor,
  promptTokens: number,
  answerTokens: number,
  beams = 1,
): Promise<number> {
  const { maxPositions, hiddenSize } = model.config.language
  const V = visual.dim(1)
  const n = Math.min(promptTokens, maxPositions - V) // longer ones are cut
  const { startId }: DecoderConfig = model.config.language
  const taken = startId === undefined ? V + n : 1
  const limit = Math.min(maxPositions, taken + answerTokens)
  const copies = startId === undefined ? beams : 1
  const decoder = new Decoder(model, { rows: beams, limit })
  await scope(() =>
    noGrad(() => {
      const words = embedTokens(model.language, tokenTensor(new Int32Array(n), 1, model.device), model.precision)
      const x = expand(concat([visual, words], 1), [copies, V + n, hiddenSize])
      return decoder.begin(contiguous(x), new Uint8Array(copies * (V + n)).fill(1))
    }),
  )
  if (taken < limit) await decoder.next()
  const bytes = decoder.cacheBytes
  decoder.dispose()
  return bytes
}

/** Sizes of a question: frames, tokens for the Q-Former, tokens of the prompt, most tokens of the answer. */
export interface AskSizes {
  frames: number
  qformerTokens: number
  promptTokens: number
  answerTokens: number
  /** Answers that are followed side by side. Default: 1. */
  beams?: number | undefined
  /** Adapters that are loaded; the question is asked with each. Default: the image model answers. */
  adapters?: readonly AdapterOutline[] | undefined
  /** Bytes of features that are kept from one question to the next. Default: none. */
  kept?: number | undefined
}

/** One question, as Model.ask computes it. */
export async function askFootprint(outline: Outline, sizes: AskSizes, options: FootprintOptions): Promise<Footprint> {
  const { frames, qformerTokens, promptTokens, answerTokens, beams, adapters: given = [], kept = 0 } = sizes
  const { vision } = outline.config
  const found = await footprint(outline, options, async (model) => {
    rehearseFeatures(model, frames)
    const { adapters, row, dispose } = openAdapters(model, given)
    let kv = 0
    for (const adapter of adapters.length ? adapters : [undefined]) {
      const T = Math.min(frames, adapter?.positions.frame.dim(0) ?? frames)
      const visual = scope(() =>
        noGrad(() =>
          model.visualTokens(
            zeros([1, T, vision.tokens, vision.hiddenSize], model.precision),
            rehearsedText(model, 1, qformerTokens),
            adapter,
          ),
        ),
      )
      kv = Math.max(kv, await rehearseAnswer(model, visual, promptTokens, answerTokens, beams))
      visual.dispose()
    }
    dispose()
    return [{ part: 'KV cache', bytes: kv }, ...row]
  })
  if (!kept) return found
  return { ...found, rows: [...found.rows, { part: 'feature cache', bytes: kept }], total: found.total + kept }
}
