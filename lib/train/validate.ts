/**
 * What can be said of a run before it: the configuration against the model, texts and their truncation, labels as the
 * model reads them, and samples that two splits share. No weight is read and no clip is decoded.
 */
import { checkAdapterConfig, visualTokens } from '../adapter/config.js'
import { readMasks } from '../adapter/read-masks.js'
import { assertComplete, planCheckpoint } from '../checkpoint/plan.js'
import { clipKey } from '../data/frames.js'
import { readManifest, sampleName, type Sample } from '../data/manifest.js'
import { findPreprocessor } from '../data/preprocess.js'
import { InputError, show } from '../errors.js'
import { openTexts } from '../session/checkpoint.js'
import { encode, type TextConfig, type TextSide } from '../session/encode.js'
import { MAX_ANSWER, promptCut, promptRoom, routeText } from '../text/prompts.js'
import { checkOutput, hasState } from './state.js'
import type { TrainConfig } from './config.js'

/** A text of a sample that is cut, and what is lost. */
export interface Cut {
  sample: string
  /** `Q-Former`, `prompt` or `answer`. */
  text: string
  tokens: number
  limit: number
  /** The part that no tower reads. */
  lost: string
}

/** What was found of one split. */
export interface SplitReport {
  name: string
  samples: number
  clips: number
  tasks: string[]
  /** Most tokens of a text, by tower; `qformer` is 0 where it reads none. */
  longest: { qformer: number; prompt: number; answer: number }
  cuts: Cut[]
}

/** What was found of a run. It would start where there are no problems. */
export interface ValidateReport {
  splits: SplitReport[]
  /** Optimiser steps of an epoch. */
  steps: number
  /** Sentences: what stops the run. */
  problems: string[]
  /** Sentences: what is probably not meant. */
  warnings: string[]
}

/** The open text side of a model folder, without weights, and the adapter's text settings. */
export async function openTextSide(config: TrainConfig): Promise<{ texts: TextSide; text: TextConfig }> {
  const { config: model } = await planCheckpoint(config.model)
  const texts = { model: { config: model }, ...(await openTexts(config.model, model)) }
  return { texts, text: checkAdapterConfig(config.adapter, model) }
}

/** Checks a run. Throws an InputError where model or configuration cannot be read at all. */
export async function validate(config: TrainConfig): Promise<ValidateReport> {
  const report: ValidateReport = { splits: [], steps: 0, problems: [], warnings: [] }
  const check = async (act: () => unknown): Promise<void> => {
    try {
      await act()
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      report.problems.push(error.message)
    }
  }
  const plan = await planCheckpoint(config.model)
  await check(() => assertComplete(plan))
  await check(() => findPreprocessor(config.model, plan.config.vision.imageSize))
  await check(() => readMasks(config.adapter, '.', { queries: plan.config.numQueryTokens }))
  await check(() => checkOutput(config.output))
  if (await hasState(config.output)) report.warnings.push(`${config.output} holds a run already; train needs --resume.`)
  const { texts, text } = await openTextSide(config)
  const splits = new Map<string, Sample[]>()
  for (const [name, path] of [
    ['training', config.data.train],
    ['validation', config.data.val],
  ] as const)
    if (path !== undefined) await check(async () => splits.set(name, await readManifest(path)))
  for (const [name, samples] of splits) report.splits.push(splitReport(name, samples, texts, text, report))
  const [train, validation] = [splits.get('training') ?? [], splits.get('validation') ?? []]
  report.warnings.push(...shared(train, validation))
  const { batch, accumulation, metric, evalEvery, saveEvery, warmup, epochs } = config.train
  report.steps = Math.ceil(Math.ceil(train.length / batch) / accumulation)
  const task = /^accuracy:(.+)$/.exec(metric ?? '')?.[1]
  if (task !== undefined && splits.has('validation') && !validation.some((s) => s.task === task))
    report.problems.push(
      `train.metric: no validation sample has the task ${show(task)}; the tasks are ${tasksOf(validation).join(', ') || 'none'}.`,
    )
  const steps = report.steps * epochs
  for (const [key, value] of Object.entries({ evalEvery, saveEvery, warmup }))
    if (train.length && value > steps) report.warnings.push(`train.${key} is ${value}, but the run has ${steps} steps.`)
  return report
}

function splitReport(
  name: string,
  samples: readonly Sample[],
  texts: TextSide,
  config: TextConfig,
  { problems, warnings }: ValidateReport,
): SplitReport {
  const longest = { qformer: 0, prompt: 0, answer: 0 }
  const cuts: Cut[] = []
  const odd: string[] = []
  for (const sample of samples) {
    try {
      for (const answer of name === 'validation' ? (sample.choices ?? [sample.answer]) : [sample.answer]) {
        const encoded = encode(texts, config, sample, answer)
        const full = wholeTexts(texts, config, sample, answer)
        longest.qformer = Math.max(longest.qformer, full.qformer)
        longest.prompt = Math.max(longest.prompt, full.prompt)
        longest.answer = Math.max(longest.answer, full.answer)
        if (answer !== sample.answer) continue
        cuts.push(...cutsOf(texts, config, sample, full))
        const read = texts.tokenizer.decode(encoded.answer.slice(0, -1)).trim()
        if (full.answer < MAX_ANSWER && read !== answer.trim())
          odd.push(`${sampleName(sample)}: the answer ${show(answer)} is read as ${show(read)}`)
      }
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      problems.push(error.message)
    }
  }
  if (odd.length)
    warnings.push(
      `${odd.length} ${name} answers are not what the tokenizer makes of them: ${odd.slice(0, 3).join('; ')}${odd.length > 3 ? '; …' : ''}.`,
    )
  const open = samples.filter((s) => s.choices === undefined).length
  if (open && open < samples.length)
    warnings.push(`${open} of ${samples.length} ${name} samples have no choices: they are answered by generation.`)
  return {
    name,
    samples: samples.length,
    clips: new Set(samples.map(clipKey)).size,
    tasks: tasksOf(samples),
    longest,
    cuts,
  }
}

const tasksOf = (samples: readonly Sample[]): string[] => [...new Set(samples.flatMap((s) => s.task ?? []))].sort()

/** Tokens of a sample's texts before anything is cut. */
function wholeTexts(
  { tokenizer, qformerTokenizer }: TextSide,
  config: TextConfig,
  sample: Sample,
  answer: string,
): { qformer: number; prompt: number; answer: number } {
  const routed = routeText(sample, config)
  const bare = { addSpecialTokens: false }
  return {
    qformer: routed.qformer === null ? 0 : (qformerTokenizer?.encode(routed.qformer).length ?? 0),
    prompt: tokenizer.encode(routed.prompt, bare).length + 1,
    answer: tokenizer.encode(answer, bare).length + 1,
  }
}

function cutsOf(
  { model, tokenizer, qformerTokenizer }: TextSide,
  config: TextConfig,
  sample: Sample,
  tokens: { qformer: number; prompt: number; answer: number },
): Cut[] {
  const name = sampleName(sample)!
  const routed = routeText(sample, config)
  const { language, numQueryTokens } = model.config
  const bare = { addSpecialTokens: false }
  const answer = Math.min(tokens.answer, MAX_ANSWER)
  const room = promptRoom(language, visualTokens(config, numQueryTokens), answer)
  const cuts: Cut[] = []
  const cut = (text: string, count: number, limit: number, lost: () => string): void => {
    if (count > limit) cuts.push({ sample: name, text, tokens: count, limit, lost: lost() })
  }
  cut('Q-Former', tokens.qformer, config.text.maxTokens, () => {
    const ids = qformerTokenizer!.encode(routed.qformer!, bare)
    return qformerTokenizer!.decode(ids.slice(0, tokens.qformer - config.text.maxTokens))
  })
  cut('prompt', tokens.prompt, room, () => {
    const ids = tokenizer.encode(routed.prompt, bare)
    const kept = room - 1
    return tokenizer.decode(promptCut(model.config) === 'left' ? ids.slice(0, ids.length - kept) : ids.slice(kept))
  })
  cut('answer', tokens.answer, MAX_ANSWER, () =>
    tokenizer.decode(tokenizer.encode(sample.answer, bare).slice(MAX_ANSWER - 1)),
  )
  return cuts
}

/** Sentences about samples that training and validation share. */
function shared(train: readonly Sample[], validation: readonly Sample[]): string[] {
  const list = (samples: readonly Sample[]): string =>
    `${samples
      .slice(0, 5)
      .map((s) => show(s.id))
      .join(', ')}${samples.length > 5 ? ', …' : ''}`
  const count = (n: number): string => `${n} of ${validation.length} validation samples`
  const key = (s: Sample): string => JSON.stringify([clipKey(s), s.qformerText, s.prompt])
  const [keys, clips] = [new Set(train.map(key)), new Set(train.map(clipKey))]
  const same = validation.filter((s) => keys.has(key(s)))
  const sameClip = validation.filter((s) => clips.has(clipKey(s)) && !keys.has(key(s)))
  return [
    ...(same.length ? [`${count(same.length)} ask what is trained on, of the same clip: ${list(same)}.`] : []),
    ...(sameClip.length ? [`${count(sameClip.length)} are of clips that are trained on: ${list(sameClip)}.`] : []),
  ]
}
