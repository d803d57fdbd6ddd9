/** What a run leaves in its folder for its report: names and forms of files, which training and evaluation write. */
import { join } from 'node:path'
import { z } from 'zod'
import { readJsonObject } from '../files/json.js'
import { checkWith } from '../files/schema.js'

/** What the run is: configuration, versions, fingerprints. */
export const ABOUT = 'run.json'
/** The log, a line a step or a validation. */
export const LOG = 'metrics.jsonl'
/** What routers give to their masks, a line a validation. */
export const ROUTERS = 'routers.jsonl'
/** What the best adapter and the untrained model answer. */
export const EVALUATION = 'evaluation.json'
/** The page. */
export const PAGE = 'report.html'

const AboutSchema = z.looseObject({
  format: z.literal('mtransllama-run'),
  version: z.literal(1),
  /** When it was started, and resumed. */
  started: z.string(),
  resumed: z.array(z.string()),
  /** As its YAML file would say it, with all defaults and absolute paths. */
  config: z.record(z.string(), z.unknown()),
  versions: z.record(z.string(), z.string()),
  computing: z.record(z.string(), z.union([z.string(), z.number()])),
  model: z.record(z.string(), z.string()),
  samples: z.record(z.string(), z.number()),
  /** Trained numbers by group. */
  trained: z.record(z.string(), z.number()),
})
export type About = z.output<typeof AboutSchema>

/** What `run.json` of a folder says. @throws InputError where it is missing or damaged */
export async function readAbout(folder: string): Promise<About> {
  const path = join(folder, ABOUT)
  return checkWith(AboutSchema, await readJsonObject(path), path)
}

const alpha = z.array(z.array(z.number().nullable()))
const answered = z.looseObject({
  prediction: z.string(),
  correct: z.boolean(),
  /** Mean loss per token of the expected answer. */
  loss: z.number().nullable(),
  /** That of each choice. */
  losses: z.record(z.string(), z.number().nullable()).optional(),
})

/** A line of `routers.jsonl`: the mean over samples of the weights of masks, by layer. */
const RoutersSchema = z.looseObject({
  step: z.number(),
  epoch: z.number(),
  samples: z.number(),
  spatial: alpha,
  temporal: alpha,
})
export type Routers = z.output<typeof RoutersSchema>

/** Lines of `routers.jsonl`; those of another form are left out. */
export const routersIn = (lines: readonly object[]): Routers[] =>
  lines.flatMap((line) => RoutersSchema.safeParse(line).data ?? [])

const interval = z.object({ low: z.number(), high: z.number() })
/** The same questions with other pictures; shares from 0 to 1. */
const probe = z.object({
  /** Of what the values are. */
  metric: z.string(),
  samples: z.number(),
  rows: z.array(
    z.object({
      /** What is shown. */
      view: z.string(),
      value: z.number(),
      /** Answers that differ from those with the frames as they are. */
      changed: z.number(),
      /** Against the frames as they are. */
      loss: z.object({ difference: z.number(), interval: interval.optional(), p: z.number() }).optional(),
    }),
  ),
  /** Sentences; the first is a warning where `video` is false. */
  findings: z.array(z.string()),
  /** Whether the video makes the answers better. */
  video: z.boolean(),
})

const EvaluationSchema = z.looseObject({
  format: z.literal('mtransllama-evaluation'),
  version: z.literal(1),
  made: z.string(),
  /** Name of the adapter's folder, and the step that it was saved at. */
  adapter: z.string(),
  step: z.number().optional(),
  /** `validation` or `training`: which samples, of how many. */
  split: z.string(),
  total: z.number(),
  samples: z.array(
    z.looseObject({
      id: z.string(),
      task: z.string().optional(),
      prompt: z.string(),
      /** What the Q-Former reads beside the frames. */
      text: z.string().optional(),
      answer: z.string(),
      trained: answered,
      untrained: answered.optional(),
      /** Weights of the masks by layer; a layer without a router has one mask. */
      alpha: z.looseObject({ spatial: alpha, temporal: alpha }).optional(),
    }),
  ),
  /** Samples that could not be answered, and why. */
  lost: z.array(z.looseObject({ id: z.string(), error: z.string() })),
  probe: probe.optional(),
  /** Indices into `samples`, the first the best or the worst. */
  best: z.array(z.number()),
  worst: z.array(z.number()),
  /** Frames of these by their index: seconds, a picture as a data: URL; and by layer the attention to each frame. */
  clips: z.record(
    z.string(),
    z.looseObject({
      frames: z.array(z.looseObject({ time: z.number(), image: z.string().startsWith('data:image/') })),
      weights: z.array(z.array(z.number().nullable())).optional(),
    }),
  ),
})
export type Evaluation = z.output<typeof EvaluationSchema>
export type Recorded = Evaluation['samples'][number]

/** What `evaluation.json` of a folder says. @throws InputError where it is missing or damaged */
export async function readEvaluation(folder: string): Promise<Evaluation> {
  const path = join(folder, EVALUATION)
  return checkWith(EvaluationSchema, await readJsonObject(path), path)
}
