/** The schema of a full-size result, bench/results/full-size/<machine>-<date>.json. */
import { z } from 'zod'
import { Result } from '../record.js'

const positive = z.number().positive()
const seconds = z.number().min(0)

/** What both runs say of their process. */
const shared = {
  commit: Result.shape.commit.optional().describe('that it was measured at'),
  precision: z.enum(['float32', 'bfloat16']),
  form: z.string().describe('in which form frozen matrices are held'),
  notes: z.array(z.string()),
  loadSeconds: seconds,
  loadBytes: positive.describe('of the files'),
  peakBytes: positive.describe('the most that was resident, mapped pages included: VmHWM'),
  plannedBytes: positive.describe('what plan says of it, before anything is loaded'),
  load: z.number().optional().describe("the system's load average at the end: above the threads, others ran too"),
  rates: z
    .strictObject({ product: positive, read: positive })
    .describe('multiply-adds of the precision, in operations, and a plain read, in bytes, each per second'),
}

export const AskRun = z.strictObject({
  ...shared,
  featureSeconds: seconds.describe('decoding, resizing and the image tower, 4 frames'),
  firstTokenSeconds: seconds.describe('Q-Former and prompt'),
  tokenSeconds: z.array(seconds).describe('of each further token'),
  tokenReads: z
    .array(positive)
    .optional()
    .describe('a plain read before each of these tokens, in bytes per second; without it, the best of the run'),
  tokens: z.int(),
  promptTokens: z.int().describe('with the visual ones'),
  weightBytes: positive.describe('that a token reads'),
  totalSeconds: seconds,
})

export const TrainRun = z.strictObject({
  ...shared,
  featureSeconds: z.array(seconds).describe('of each clip'),
  stepSeconds: z.array(seconds),
  losses: z.array(z.number()),
  tensors: z.int().describe('that are trained'),
  reached: z.int().describe('of them, with a finite gradient other than 0 within these steps'),
  batch: z.int(),
  frames: z.int(),
  sequence: z.int().describe('tokens of a row of the language model'),
  stepFlops: positive,
})

export const FullSize = z.strictObject({
  schema: z.literal(1),
  machine: Result.shape.machine,
  versions: Result.shape.versions,
  commit: Result.shape.commit,
  changed: Result.shape.changed,
  date: z.string(),
  threads: z.int(),
  runs: z.array(
    z.strictObject({
      stored: z.enum(['float32', 'bfloat16']),
      weights: z.string(),
      fileBytes: positive,
      isa: z.string().optional().describe('instructions of the processor that were used'),
      ask: AskRun.optional(),
      train: TrainRun.optional(),
    }),
  ),
})

export type AskRun = z.output<typeof AskRun>
export type TrainRun = z.output<typeof TrainRun>
export type FullSize = z.output<typeof FullSize>
