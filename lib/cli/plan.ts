/**
 * `mtransllama plan CONFIG|MODEL`: the memory that training or asking takes, part by part, on the CPU and on a GPU,
 * before a weight is read; and the nearest setting that fits where it does not.
 */
import { existsSync, statSync } from 'node:fs'
import type { Command } from 'commander'
import { parseAdapterConfig } from '../adapter/config.js'
import { readManifest } from '../data/manifest.js'
import { configured, fromHub, located, type FromHub } from './common.js'
import { InputError, invalid } from '../errors.js'
import { memoryOf, WEIGHTS, type WeightsChoice } from '../session/budget.js'
import { askFootprint, outlineOf, type AskSizes, type Footprint, type Outline } from '../session/footprint.js'
import { evalFootprint, type EvalSizes } from '../eval/footprint.js'
import type { Device } from '../tensor/device.js'
import { devices } from '../tensor/device.js'
import type { Precision } from '../tensor/dtype.js'
import { parseTrainConfig, RECOMPUTE, type Recompute, type TrainConfig } from '../train/config.js'
import { sizesOf, trainFootprint, type TrainSizes } from '../train/footprint.js'
import { textTable } from '../report/table.js'

/** What is to be computed: enough to find its footprint under other settings. */
export interface Asked {
  what: string
  frames: number
  /** Samples at a time, where there may be several; of training, the layers that the backward pass computes again. */
  batch?: number
  recompute?: Recompute
  /** What a user sets these by: of n frames or samples. */
  named: { frames(n: number): string; batch?(n: number): string }
  footprint(options: Settings): Promise<Footprint>
}

/** The settings that change a footprint. */
export interface Settings {
  device: Device
  memory?: number | undefined
  weights?: WeightsChoice | undefined
  precision?: Precision | 'auto' | undefined
  frames?: number | undefined
  batch?: number | undefined
  recompute?: Recompute | undefined
}

/** A question, or a server's. */
export function askingOf(outline: Outline, sizes: AskSizes, what: 'ask' | 'serve' = 'ask'): Asked {
  return {
    what,
    frames: sizes.frames,
    named: { frames: (n) => `an adapter of ${n} frames` },
    footprint: ({ frames = sizes.frames, ...options }) => askFootprint(outline, { ...sizes, frames }, options),
  }
}

/** Predictions for a manifest. */
export function predictingOf(outline: Outline, sizes: EvalSizes): Asked {
  return {
    what: 'eval',
    frames: sizes.frames,
    batch: Math.min(sizes.batch, sizes.samples.length),
    named: { frames: (n) => `--frames ${n}`, batch: (n) => `--batch ${n}` },
    footprint: ({ frames = sizes.frames, batch = sizes.batch, ...options }) =>
      evalFootprint(outline, { ...sizes, frames, batch }, options),
  }
}

/** A training run. */
export function trainingOf(outline: Outline, config: Pick<TrainConfig, 'adapter' | 'train'>, sizes: TrainSizes): Asked {
  const { adapter, train } = config
  return {
    what: 'train',
    frames: adapter.frames,
    batch: train.batch,
    recompute: train.recompute,
    named: { frames: (n) => `frames ${n}`, batch: (n) => `train.batch ${n}` },
    footprint: ({ frames = adapter.frames, batch = train.batch, recompute = train.recompute, ...options }) =>
      trainFootprint(
        outline,
        { adapter: { ...adapter, frames }, train: { ...train, batch, recompute } },
        sizes,
        options,
      ),
  }
}

const UNITS: [number, string][] = [
  [1e9, 'GB'],
  [1e6, 'MB'],
  [1e3, 'kB'],
]
const bytesText = (bytes: number): string => {
  const [unit, name] = UNITS.find(([u]) => bytes >= u) ?? [1, 'B']
  return `${(bytes / unit).toFixed(unit === 1e9 ? 2 : 1)} ${name}`
}

const fits = ({ total, memory }: Footprint): boolean => total <= memory

/**
 * The first change of settings that makes it fit, as options and keys; undefined where none does. What changes no bit
 * comes first, then what changes few.
 */
async function nearest(asked: Asked, settings: Settings): Promise<string | undefined> {
  const forms = WEIGHTS.slice(WEIGHTS.indexOf('bfloat16'))
  const halves = (n: number): number[] => (n > 1 ? [Math.ceil(n / 2), ...halves(Math.ceil(n / 2))] : [])
  const said = ({ weights, precision, batch, frames, recompute }: Partial<Settings>): string =>
    [
      recompute && `train.recompute ${recompute}`,
      precision && `--precision ${precision}`,
      weights && `--weights ${weights}`,
      batch && asked.named.batch?.(batch),
      frames && asked.named.frames(frames),
    ]
      .filter(Boolean)
      .join(', ')
  /** Of training, more recomputation than there is. */
  const again = asked.recompute ? RECOMPUTE.slice(RECOMPUTE.indexOf(asked.recompute) + 1) : []
  const most = again.length ? { recompute: again.at(-1) } : {}
  const changes: Partial<Settings>[] = [
    ...again.map((recompute) => ({ recompute })),
    ...(settings.precision === 'bfloat16' ? [] : [{ precision: 'bfloat16' as const }]),
    ...halves(asked.batch ?? 1).map((batch) => ({ batch })),
    ...forms.map((weights) => ({ weights })),
    ...halves(asked.frames).map((frames) => ({ frames })),
    ...forms.map((weights) => ({
      weights,
      precision: 'bfloat16' as const,
      ...most,
      ...(asked.batch && asked.batch > 1 && { batch: 1 }),
      ...(asked.frames > 1 && { frames: 1 }),
    })),
  ]
  for (const change of changes) if (fits(await asked.footprint({ ...settings, ...change }))) return said(change)
  return undefined
}

/** One table of footprints side by side, by their titles. */
function footprintTable(found: readonly (readonly [string, Footprint])[]): string {
  const parts = [...new Set(found.flatMap(([, f]) => f.rows.map((r) => r.part)))]
  const cell = (f: Footprint, part: string): string => {
    const row = f.rows.find((r) => r.part === part)
    return row ? bytesText(row.bytes) : ''
  }
  return textTable([
    ['', ...found.map(([title]) => title)],
    ...parts.map((part) => [part, ...found.map(([, f]) => cell(f, part))]),
    ['total', ...found.map(([, f]) => bytesText(f.total))],
    ['there is', ...found.map(([, f]) => bytesText(f.memory))],
  ])
}

/** What does not fit, in a sentence. */
async function refusal(asked: Asked, settings: Settings, found: Footprint): Promise<string> {
  const other = await nearest(asked, settings)
  return `${asked.what} takes ${bytesText(found.total)} and ${settings.device} has ${bytesText(found.memory)}; ${
    other === undefined ? 'no setting of this model fits' : `the nearest setting that fits: ${other}`
  }`
}

/**
 * Refuses what does not fit, with the table, before weights are read; warns where it fits the machine and not what is
 * free at the moment.
 */
export async function checkFits(asked: Asked, settings: Settings): Promise<void> {
  const found = await asked.footprint(settings)
  if (!fits(found))
    throw new InputError(
      `${footprintTable([[`${asked.what} on ${settings.device}`, found]])}\nmemory: ${await refusal(asked, settings, found)}.`,
    )
  const { available } = memoryOf(settings.device)
  const more = found.total - (settings.device === 'cpu' ? process.memoryUsage.rss() : 0)
  if (more > available)
    console.error(
      `mtransllama: note: ${asked.what} takes ${bytesText(more)} and ${bytesText(available)} of ${bytesText(found.memory)} are free; end other programs`,
    )
}

/** Bytes of `12G`, `12 GB` or a plain number. */
function bytesOf(text: string): number {
  const [, number, unit = ''] = /^\s*([\d.]+)\s*([kmgt]?)(?:i?b)?\s*$/i.exec(text) ?? []
  const bytes = Number(number) * 1024 ** ['', 'k', 'm', 'g', 't'].indexOf(unit.toLowerCase())
  if (!(bytes > 0)) throw invalid('--memory', 'bytes, as 12G', text)
  return bytes
}

/** Questions and runs where no data says more. */
export const TYPICAL = { qformerTokens: 32, promptTokens: 32, answerTokens: 8 }

interface Options extends FromHub {
  device: string
  memory?: string
  weights: string
  precision: string
}

export function register(program: Command): void {
  fromHub(program.command('plan'))
    .description('show the memory that training and asking take, before anything is loaded, and what fits')
    .argument(
      '<target>',
      'the configuration of a training run, a model folder, a config.json, or OWNER/NAME of the hub',
    )
    .option('--device <device>', 'cpu, cuda (which need not be there), or all', 'all')
    .option('--memory <bytes>', 'memory of the device, as 12G; default: what this machine has, 24G for an absent GPU')
    .option('--weights <form>', `how frozen matrices are held: ${WEIGHTS.join(', ')}`, 'auto')
    .option('--precision <dtype>', 'auto, float32 or bfloat16', 'auto')
    .action(async (target: string, o: Options) => {
      if (!['all', 'cpu', 'cuda'].includes(o.device)) throw invalid('--device', 'cpu, cuda or all', o.device)
      if (!(WEIGHTS as readonly string[]).includes(o.weights)) throw invalid('--weights', WEIGHTS.join(', '), o.weights)
      const memory = o.memory === undefined ? undefined : bytesOf(o.memory)
      const shown = { weights: o.weights as WeightsChoice, precision: o.precision as Precision }
      const places: Settings[] = []
      if (o.device !== 'cuda') places.push({ ...shown, device: 'cpu', memory })
      if (o.device !== 'cpu')
        places.push({
          ...shown,
          device: 'cuda:0',
          memory: memory ?? devices().cuda.devices[0]?.memory ?? 24 * 2 ** 30,
        })
      const unfit: string[] = []
      for (const asked of await askedOf(target, o)) {
        const found: [string, Footprint][] = []
        for (const settings of places) {
          const f = await asked.footprint(settings)
          found.push([`${asked.what} on ${settings.device === 'cpu' ? 'cpu' : 'gpu'}, ${f.policy.precision}`, f])
          if (!fits(f)) unfit.push(await refusal(asked, settings, f))
        }
        console.log(`${footprintTable(found)}\n`)
        for (const note of new Set(found.flatMap(([, f]) => f.policy.notes))) console.log(`note: ${note}`)
      }
      for (const sentence of unfit) console.log(sentence)
      if (!unfit.length) console.log('all of it fits')
    })
}

/** What a target asks about: a run's steps, or of a model a question and a step with the defaults. */
async function askedOf(name: string, from: FromHub): Promise<Asked[]> {
  const isRun = existsSync(name) && statSync(name).isFile() && !name.endsWith('config.json')
  if (isRun) return [await runOf(await configured(name, from))]
  const target = await located(name, from)
  if (!existsSync(target)) throw new InputError(`${target}: no such folder or file.`)
  const outline = await outlineOf(target)
  const { hasText } = outline.config.qformer
  const adapter = parseAdapterConfig(hasText ? {} : { fusion: false })
  const { train } = parseTrainConfig({ model: '.', output: '.', data: { train: '.' }, fusion: hasText })
  return [
    askingOf(outline, { frames: adapter.frames, ...TYPICAL, answerTokens: 64 }),
    trainingOf(
      outline,
      { adapter, train },
      { ...TYPICAL, textTokens: TYPICAL.promptTokens + TYPICAL.answerTokens, clips: 100 },
    ),
  ]
}

/** A configured run over its data. */
export async function runOf(config: TrainConfig): Promise<Asked> {
  const samples = await readManifest(config.data.train)
  const validation = config.data.val === undefined ? undefined : await readManifest(config.data.val)
  const outline = await outlineOf(config.model)
  return trainingOf(outline, config, await sizesOf(config.model, outline, config, samples, validation))
}
