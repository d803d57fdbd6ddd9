/**
 * One run of an experiment: trained, its test predicted, and its result written; each part is resumed where it was
 * stopped, and a run with a result is not repeated.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { Adapter } from '../adapter/adapter.js'
import { checkAdapterConfig, type AdapterConfig } from '../adapter/config.js'
import { countTrained, trainedParameters } from '../adapter/parameters.js'
import { loadAdapter } from '../adapter/save.js'
import { readManifest, type Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import { predictSamples } from '../eval/evaluate.js'
import { PredictionFile, runName } from '../eval/predictions.js'
import { writeFileAtomic } from '../files/atomic.js'
import { readJsonObject } from '../files/json.js'
import { readRun } from '../report/run.js'
import { Features, type FeatureOptions } from '../session/features.js'
import type { Model } from '../session/model.js'
import { deviceMemory, memory, resetPeak } from '../tensor/runtime.js'
import type { TrainConfig } from '../train/config.js'
import { train, type StepEvent } from '../train/loop.js'
import { hasState } from '../train/state.js'

/** A set of questions that a run answers. */
export interface Questions {
  samples: readonly Sample[]
  features: FeatureOptions
}

/** What a run does. */
export interface Plan {
  /** Its folder's name. */
  name: string
  variant: string
  seed?: number
  fold?: number
  /** How it is trained; absent: nothing is. */
  config?: TrainConfig
  /** Which adapter of the training answers: the best of its validations, or the last. */
  adapter?: 'best' | 'last'
  /** Without training: an adapter as it starts; absent: the image model itself answers. */
  start?: AdapterConfig
  /** By name. */
  questions: Readonly<Record<string, Questions>>
}

/** What a run found. */
export interface RunResult {
  name: string
  variant: string
  seed?: number
  fold?: number
  /** Trained parameters. */
  trained: number
  /** Seconds of all steps; and of the answers, where one process gave them all. */
  seconds: { training: number; answering: number | null }
  steps: number
  /** Most bytes of native memory at one time while it was trained, model and features included. */
  peak: number
  /** Files of predictions in the run's folder, by set of questions. */
  predictions: Record<string, string>
  /** Accuracy on the validation samples, by optimiser step. */
  validations: { step: number; accuracy: number; tasks: Record<string, number> }[]
}

/** What hears of a run. */
export interface RunEvents {
  onStep?: ((event: StepEvent) => void) | undefined
  /** Questions that are answered, of all of the run. */
  onAnswer?: ((done: number, total: number) => void) | undefined
  onNotice?: ((sentence: string) => void) | undefined
  signal?: AbortSignal | undefined
  graphs?: boolean | undefined
}

const [FORMAT, VERSION] = ['mtransllama-result', 1] as const
const RESULT = 'result.json'

/** A name of everything that a run's result depends on, but for where files lie. */
function keyOf(model: Model, { config, adapter, start, questions }: Plan, training: readonly Sample[]): string {
  const said = ({ video, ...rest }: Sample): unknown => rest
  const asked = Object.entries(questions).map(([name, { samples, features }]) => {
    const { frames, sampling } = features
    return [name, samples.map(said), frames, sampling]
  })
  const { train: settings, adapter: trained, data } = config ?? {}
  return createHash('sha256')
    .update(JSON.stringify([model.checkpoint.fingerprint, settings, trained, data?.sampling, adapter, start, asked]))
    .update(JSON.stringify(training.map(said)))
    .digest('hex')
    .slice(0, 16)
}

/** Whether a run has a result. */
export const isFinished = (folder: string): boolean => existsSync(join(folder, RESULT))

/** Does what is not yet done of a run in `folder`. @throws InputError where the folder holds a run of another plan */
export async function finishRun(folder: string, model: Model, plan: Plan, events: RunEvents = {}): Promise<RunResult> {
  const { config } = plan
  const training = config ? await readManifest(config.data.train) : []
  const path = join(folder, RESULT)
  const key = keyOf(model, plan, training)
  const planned = join(folder, 'plan.json')
  if (existsSync(planned) && (await readJsonObject(planned))['key'] !== key)
    throw new InputError(
      `${folder}: holds a run of other settings, samples or another model; choose another --out, or remove the folder.`,
    )
  if (existsSync(path)) {
    const { format, version, ...result } = await readJsonObject(path)
    if (format === FORMAT && version === VERSION) return result as unknown as RunResult
  }
  await mkdir(folder, { recursive: true })
  await writeFileAtomic(planned, `${JSON.stringify({ format: 'mtransllama-plan', version: 1, key })}\n`)
  const trained = config ? await trainRun(config, model, events) : undefined
  const adapter = await adapterOf(model, plan)
  try {
    const begin = performance.now()
    const { files, whole } = await answer(folder, model, adapter, plan, events)
    const { name, variant, seed, fold } = plan
    const result: RunResult = {
      name,
      variant,
      ...(seed !== undefined && { seed }),
      ...(fold !== undefined && { fold }),
      trained: config
        ? countTrained(
            trainedParameters(
              model.checkpoint.model.config,
              checkAdapterConfig(config.adapter, model.checkpoint.model.config),
            ),
          )
        : 0,
      seconds: { training: trained?.seconds ?? 0, answering: whole ? (performance.now() - begin) / 1000 : null },
      steps: trained?.steps ?? 0,
      peak: trained?.peak ?? 0,
      predictions: files,
      validations: trained?.validations ?? [],
    }
    await writeFileAtomic(path, `${JSON.stringify({ format: FORMAT, version: VERSION, ...result }, null, 2)}\n`)
    return result
  } finally {
    adapter?.dispose()
  }
}

async function trainRun(
  config: TrainConfig,
  model: Model,
  { onStep, onNotice, signal, graphs }: RunEvents,
): Promise<Pick<RunResult, 'steps' | 'peak' | 'validations'> & { seconds: number }> {
  const { device } = model.checkpoint.model
  const resume = await hasState(config.output)
  resetPeak(device)
  await train(config, { model, resume, signal, graphs, ...(onStep && { onStep }), ...(onNotice && { onNotice }) })
  const { course } = await readRun(config.output)
  return {
    seconds: course.seconds,
    steps: course.done,
    peak: device === 'cpu' ? memory().peak : deviceMemory(device).peak,
    validations: course.validations.flatMap(({ step, accuracy, tasks = {} }) =>
      accuracy === undefined ? [] : [{ step, accuracy, tasks }],
    ),
  }
}

/** The adapter that answers; undefined where the image model does. */
async function adapterOf(model: Model, { config, adapter, start }: Plan): Promise<Adapter | undefined> {
  const { checkpoint } = model
  if (config) return loadAdapter(join(config.output, adapter ?? 'best'), checkpoint)
  return start && new Adapter(checkpoint.model.config, start, { device: checkpoint.model.device })
}

/** Answers every set of questions; `whole` where no answer was there before. */
async function answer(
  folder: string,
  model: Model,
  adapter: Adapter | undefined,
  { questions }: Plan,
  { onAnswer, signal, graphs }: RunEvents,
): Promise<{ files: Record<string, string>; whole: boolean }> {
  const { checkpoint } = model
  const files: Record<string, string> = {}
  const total = Object.values(questions).reduce((n, { samples }) => n + samples.length, 0)
  let [done, whole] = [0, true]
  for (const [name, { samples, features: how }] of Object.entries(questions)) {
    const features = new Features(checkpoint, how)
    files[name] = `${name}.jsonl`
    const path = join(folder, files[name])
    const file = await PredictionFile.open(path, await runName(checkpoint, adapter, how), samples, { resume: true })
    const { left } = file
    done += samples.length - left.length
    if (left.length < samples.length) whole = false
    for await (const p of predictSamples(checkpoint, features, left, { adapter, signal, graphs })) {
      await file.add(p)
      onAnswer?.(++done, total)
    }
    await file.finish()
  }
  return { files, whole }
}
