/** Where the full model fails: its answers to test questions as a page, and accuracy by what samples have in common. */
import { existsSync } from 'node:fs'
import { join, parse } from 'node:path'
import { loadAdapter, readAdapterInfo } from '../adapter/save.js'
import { accuracyScore } from '../eval/metrics/classes.js'
import type { Answered } from '../eval/metrics/metric.js'
import { recordEvaluation } from '../eval/record.js'
import { writeFileAtomic } from '../files/atomic.js'
import { writeReport } from '../report/page.js'
import { EVALUATION, PAGE } from '../report/records.js'
import { Features } from '../session/features.js'
import type { Model } from '../session/model.js'
import type { Plan, RunEvents } from './runs.js'

/**
 * Writes `report.html` of a finished run, of up to 200 of its test questions: confusions by task, the best and the
 * worst clips with their frames, the weights of routers by sample, and whether the video is looked at. What is there
 * already is not made again.
 *
 * @returns the path of the page
 */
export async function analyse(
  folder: string,
  model: Model,
  { config, adapter = 'best', questions }: Plan,
  { signal, graphs }: RunEvents,
): Promise<string> {
  const page = join(folder, PAGE)
  if (existsSync(page) && existsSync(join(folder, EVALUATION))) return page
  const at = join(config!.output, adapter)
  const { checkpoint } = model
  const { samples, features } = questions['test']!
  const { info } = await readAdapterInfo(at)
  const loaded = await loadAdapter(at, checkpoint)
  try {
    const evaluation = await recordEvaluation({
      ...{ checkpoint, samples, signal, graphs },
      adapter: loaded,
      features: new Features(checkpoint, features),
      split: 'test',
      name: adapter,
      step: typeof info?.['step'] === 'number' ? info['step'] : undefined,
    })
    await writeFileAtomic(join(folder, EVALUATION), JSON.stringify(evaluation))
  } finally {
    loaded.dispose()
  }
  return (await writeReport(folder)).path
}

/** A part of the test and how much of it is right. */
export interface PartAccuracy {
  part: string
  answers: number
  /** In percent. */
  accuracy: number
}

/** Accuracy by group, the weakest first; none where the group is the video. */
export function byGroup(answers: readonly Answered[]): PartAccuracy[] {
  const groups = [...new Set(answers.flatMap((a) => a.group ?? []))]
  if (answers.every(({ group, video }) => group === undefined || group === parse(video).name)) return []
  return groups
    .map((part) => {
      const own = answers.filter((a) => a.group === part)
      return { part, answers: own.length, accuracy: 100 * accuracyScore(own).value }
    })
    .sort((a, b) => a.accuracy - b.accuracy || (a.part < b.part ? -1 : 1))
}
