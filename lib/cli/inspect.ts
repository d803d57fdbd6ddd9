/**
 * `mtransllama inspect`: the parts of a model and the parameters that would be trained, from config.json and the
 * headers of the weight files. No weight is read.
 */
import { existsSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import type { Command } from 'commander'
import {
  AdapterKeys,
  checkAdapterConfig,
  parseAdapterConfig,
  visualTokens,
  type AdapterConfig,
} from '../adapter/config.js'
import { countGroups, trainedParameters } from '../adapter/parameters.js'
import { findPreprocessor, type PreprocessorSource } from '../data/preprocess.js'
import { fromHub, located, type FromHub } from './common.js'
import { InputError, invalid, nearest } from '../errors.js'
import { readYaml } from '../files/yaml.js'
import { readModelConfig } from '../checkpoint/config.js'
import { hasWeights } from '../checkpoint/files.js'
import type { ModelConfig } from '../models/image-model.js'
import { familyOf } from '../models/language.js'
import { assertComplete, planCheckpoint, type CheckpointPlan } from '../checkpoint/plan.js'
import { countParts, expectedTensors, type Part } from '../checkpoint/names.js'
import { DTYPE_BYTES } from '../files/safetensors.js'
import { sizeOf } from '../shape.js'
import { textTable } from '../report/table.js'

export interface InspectOptions {
  /** A YAML or JSON file with adapter keys; other sections of a training file are ignored. */
  adapter?: string | undefined
  /** Adapter keys given directly. */
  config?: unknown
  /** Without the list of tensors. */
  brief?: boolean | undefined
}

/**
 * The report on a model folder, or on a bare config.json. Throws, after the whole report, where weights or
 * preprocessing do not fit.
 */
export async function inspect(target: string, options: InspectOptions = {}): Promise<string> {
  const { text, check } = await report(target, options)
  try {
    check()
  } catch (error) {
    throw new InputError(`${text}\n${(error as Error).message}`, { cause: error })
  }
  return text
}

/** Adds `inspect <target> [--adapter config.yaml]`. */
export function register(program: Command): void {
  fromHub(program.command('inspect'))
    .description('show the parts, shapes and counts of a model and what would be trained, without reading weights')
    .argument('<target>', 'a model folder, a config.json, or OWNER/NAME of the hub')
    .option('--adapter <file>', 'YAML or JSON file with adapter keys (default: the defaults)')
    .option('--brief', 'leave out the list of tensors')
    .action(async (target: string, options: { adapter?: string; brief?: boolean } & FromHub) => {
      const { text, check } = await report(await located(target, options), options)
      console.log(text)
      check()
    })
}

async function report(target: string, options: InspectOptions): Promise<{ text: string; check(): void }> {
  if (!existsSync(target)) throw new InputError(`${target}: no such folder or file.`)
  const isFolder = statSync(target).isDirectory()
  const plan = isFolder && hasWeights(target) ? await planCheckpoint(target) : undefined
  const config = plan?.config ?? (await readModelConfig(target))
  const { adapter, assumed } = await adapterFor(options, config)
  const pictures = isFolder
    ? await findPreprocessor(target, config.vision.imageSize).catch((error: unknown) =>
        error instanceof InputError ? error : Promise.reject(error),
      )
    : undefined
  const lines = [
    `${target}: ${FAMILIES[config.family]}`,
    '',
    describeParts(config, pictures),
    '',
    ...(options.brief ? [] : [describeShapes(config, plan), '']),
    ...describeCounts(config, plan),
    '',
    ...describeTrained(config, adapter, assumed),
  ]
  return {
    text: lines.join('\n'),
    check() {
      if (plan) assertComplete(plan)
      if (pictures instanceof InputError) throw pictures
    },
  }
}

const FAMILIES = { instructblip: 'InstructBLIP', 'blip-2': 'BLIP-2' }

// --------------------------------------------------------------------------------------------------------------- parts

function describeParts(
  { vision, qformer, language, numQueryTokens, imageTokenId, videoTokenId, family }: ModelConfig,
  pictures: PreprocessorSource | InputError | undefined,
): string {
  const { kind, padId, bosId, eosId } = language
  const decoder = familyOf(language)
  const crossing = Math.ceil(qformer.layers / qformer.crossFrequency)
  return textTable(
    [
      [
        'vision',
        `${vision.layers} layers, width ${vision.hiddenSize}, ${vision.heads} heads of ${vision.hiddenSize / vision.heads}, mlp ${vision.mlpSize}`,
      ],
      [
        '',
        `images ${vision.imageSize} x ${vision.imageSize}, patches of ${vision.patchSize}: ${vision.tokens} tokens, eps ${vision.eps.toExponential()}`,
      ],
      ...describePictures(pictures),
      [
        'Q-Former',
        `${qformer.layers} layers (${crossing} with cross-attention), width ${qformer.hiddenSize}, ${qformer.heads} heads, mlp ${qformer.mlpSize}, eps ${qformer.eps.toExponential()}`,
      ],
      [
        '',
        `${numQueryTokens} queries; ${qformer.hasText ? `text path of ${qformer.vocabSize} ids, at most ${qformer.maxPositions} tokens` : 'no text path, so fusion must be off'}`,
      ],
      [
        'language',
        `${decoder.title}: ${language.layers} layers, width ${language.hiddenSize}, ${decoder.describe(language)}, mlp ${language.mlpSize}, eps ${language.eps.toExponential()}`,
      ],
      [
        '',
        `${language.vocabSize} ids, ${language.maxPositions} positions; output ${language.tied ? 'tied to the embedding' : 'of its own'}`,
      ],
      [
        'ids',
        `pad ${padId ?? 'none'}, bos ${bosId ?? 'none'}, eos ${eosId ?? 'none'}${imageTokenId === undefined ? '' : `, image ${imageTokenId}`}${videoTokenId === undefined ? '' : `, video ${videoTokenId}`}${family === 'blip-2' && kind === 'llama' ? ' (unusual: BLIP-2 with LLaMA)' : ''}`,
      ],
    ],
    none,
  )
}

/** The preprocessing, and the file that it was read from. */
function describePictures(pictures: PreprocessorSource | InputError | undefined): string[][] {
  if (pictures === undefined) return []
  if (pictures instanceof InputError)
    return [['pictures', 'the files that say how they are prepared do not fit; see below']]
  const {
    preprocessor: { size, mean, std, rescale, resample },
    from,
    notes,
  } = pictures
  const short = (x: number) => String(Number(x.toPrecision(6)))
  return [
    [
      'pictures',
      `resized to ${size.width} x ${size.height} (${resample}), times ${rescale === 1 / 255 ? '1/255' : short(rescale)}, minus [${mean.map(short).join(', ')}], over [${std.map(short).join(', ')}]`,
    ],
    ['', from === undefined ? 'assumed' : `as ${basename(from)} says`],
    ...notes.map((note) => ['', `note: ${note}`]),
  ]
}

/** One line for all layers that have the same tensor: their numbers become a range. */
function describeShapes(config: ModelConfig, plan: CheckpointPlan | undefined): string {
  const rows = new Map<string, { pattern: string; shape: string; dtype: string; layers: number[] }>()
  for (const tensor of plan ? plan.entries.values() : expectedTensors(config).filter((t) => !t.optional)) {
    const layer = /\.(\d+)\./.exec(tensor.name)?.[1]
    const pattern = tensor.name.replace(/\.\d+\./, '.*.')
    const shape = `[${tensor.shape.join(', ')}]`
    const dtype = 'dtype' in tensor ? tensor.dtype : ''
    const key = `${pattern} ${shape} ${dtype}`
    const row = rows.get(key) ?? { pattern, shape, dtype, layers: [] }
    if (layer !== undefined) row.layers.push(Number(layer))
    rows.set(key, row)
  }
  return textTable(
    [
      ['tensor', 'shape', ...(plan ? ['dtype'] : [])],
      ...[...rows.values()].map(({ pattern, shape, dtype, layers }) => [
        pattern.replace('*', ranges(layers)),
        shape,
        dtype,
      ]),
    ],
    none,
  )
}

/** Consecutive layers as `{0-38}`, evenly spaced ones as `{0,2..10}`. */
function ranges(layers: number[]): string {
  if (layers.length < 2) return layers.join()
  const [first, second] = layers as [number, number]
  const last = layers.at(-1)!
  const step = second - first
  if (!layers.every((layer, i) => layer === first + i * step)) return `{${layers.join()}}`
  return step === 1
    ? `{${first}-${last}}`
    : layers.length === 2
      ? `{${first},${last}}`
      : `{${first},${second}..${last}}`
}

const TITLES: Record<Part, string> = {
  vision: 'vision',
  qformer: 'Q-Former',
  query: 'query tokens',
  projection: 'projection',
  language: 'language',
}

function describeCounts(config: ModelConfig, plan: CheckpointPlan | undefined): string[] {
  const counts = countParts(plan ? plan.entries.values() : expectedTensors(config))
  const dtypes = (part: Part) => {
    const found = new Map<string, number>()
    for (const tensor of plan?.entries.values() ?? [])
      if (tensor.part === part) found.set(tensor.dtype, (found.get(tensor.dtype) ?? 0) + 1)
    return found.size === 1 ? [...found.keys()] : [[...found].map(([dtype, n]) => `${n} ${dtype}`).join(', ')]
  }
  const total = counts.reduce(
    (sum, c) => ({ tensors: sum.tensors + c.tensors, parameters: sum.parameters + c.parameters }),
    { tensors: 0, parameters: 0 },
  )
  const parts = textTable(
    [
      ['part', 'tensors', 'parameters', ...(plan ? ['dtype'] : [])],
      ...counts.map((c) => [TITLES[c.part], number(c.tensors), number(c.parameters), ...(plan ? dtypes(c.part) : [])]),
      ['total', number(total.tensors), number(total.parameters)],
    ],
    counted,
  )
  if (!plan) {
    const stored = config.dtype === undefined ? '' : `; config.json says ${config.dtype}`
    return [
      parts,
      `${gigabytes(total.parameters * 4)} in 32 bits, ${gigabytes(total.parameters * 2)} in 16 bits (from config.json alone; no weights were looked at${stored})`,
    ]
  }
  const bytes = [...plan.entries.values()].reduce((sum, t) => sum + sizeOf(t.shape) * DTYPE_BYTES[t.dtype], 0)
  const { loaded, ignored, missing, wrong, unexpected } = plan
  return [
    parts,
    `${gigabytes(bytes)} in ${plan.files.length} file${plan.files.length === 1 ? '' : 's'}; tensors: ${loaded.length} used, ${ignored.length} ignored, ${missing.length} missing, ${wrong.length} wrong, ${unexpected.length} unexpected`,
    ...plan.notes.map((note) => `note: ${note}`),
  ]
}

// ------------------------------------------------------------------------------------------------------------- trained

function describeTrained(config: ModelConfig, adapter: AdapterConfig, assumed: string[]): string[] {
  const checked = checkAdapterConfig(adapter, config)
  const groups = countGroups(trainedParameters(config, checked))
  const sum = (key: 'tensors' | 'parameters') => groups.reduce((n, group) => n + group[key], 0)
  const { temporal, dar, lora } = checked
  const frozen = countParts(expectedTensors(config)).reduce((n, c) => n + c.parameters, 0)
  const share = (100 * sum('parameters')) / (frozen + sum('parameters'))
  return [
    textTable(
      [
        ['trained', 'tensors', 'parameters'],
        ...groups.map((g) => [g.group, number(g.tensors), number(g.parameters)]),
        ['total', number(sum('tensors')), number(sum('parameters'))],
      ],
      counted,
    ),
    `${share.toPrecision(2)} % of the whole; temporal attention ${temporal.attention} (${temporal.residual}), routing ${dar.mode}, LoRA rank ${lora.r}, ` +
      `fusion ${checked.fusion ? `on (at most ${checked.text.maxTokens} tokens)` : 'off'}`,
    `${checked.frames} frames become ${visualTokens(checked, config.numQueryTokens)} visual tokens (${checked.aggregate})`,
    ...assumed,
  ]
}

/** The given adapter configuration, else the defaults; fusion is turned off automatically only with the defaults. */
async function adapterFor(
  options: InspectOptions,
  model: ModelConfig,
): Promise<{ adapter: AdapterConfig; assumed: string[] }> {
  if (options.config !== undefined) return { adapter: parseAdapterConfig(options.config), assumed: [] }
  if (options.adapter !== undefined)
    return { adapter: parseAdapterConfig(await adapterKeys(options.adapter), options.adapter), assumed: [] }
  if (model.qformer.hasText) return { adapter: parseAdapterConfig(), assumed: [] }
  return {
    adapter: parseAdapterConfig({ fusion: false }),
    assumed: ['fusion: false was assumed, since this Q-Former has no text path'],
  }
}

/** The adapter's part of a training file. A key that looks like a misspelt adapter key is an error. */
async function adapterKeys(file: string): Promise<Record<string, unknown>> {
  const value = (await readYaml(file)) ?? {}
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid(file, 'an object of configuration keys', value)
  const known = Object.keys(AdapterKeys)
  const mine: Record<string, unknown> = {}
  for (const [key, inner] of Object.entries(value)) {
    const near = nearest(key, known)
    if (known.includes(key)) mine[key] = inner
    else if (near !== undefined) throw new InputError(`${file}: there is no key named ${key}; did you mean ${near}?`)
  }
  return mine
}

// -------------------------------------------------------------------------------------------------------------- layout

/** Which columns are set on the right. */
const counted = (column: number) => column === 1 || column === 2
const none = () => false

const number = (n: number) => n.toLocaleString('en-US')
const gigabytes = (bytes: number) =>
  bytes >= 1e8 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(1)} MB`
