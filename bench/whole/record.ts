/** The schema of a whole model beside its peer, bench/results/peers/<machine>-<date>.json. */
import { z } from 'zod'
import { Result } from '../record.js'

const positive = z.number().positive()
const seconds = z.number().min(0)

/** What a process is asked, ours (child.ts) or the peer's (../peers/instructblip.py). */
export const Request = z.strictObject({
  task: z.enum(['ask', 'train']),
  folder: z.string().describe('the checkpoint'),
  dtype: z.enum(['float32', 'bfloat16']),
  threads: z.int().min(1),
  clock: z.enum(['wall', 'cpu']).describe('what times are of: the wall, or CPU time of the process'),
  pixels: z.string().describe('a file of float32 [B,T,3,imageSize,imageSize]'),
  imageSize: z.int(),
  frames: z.int(),
  text: z.array(z.array(z.int())).describe('ids for the Q-Former, of each clip'),
  prompt: z.array(z.array(z.int())),
  answer: z.array(z.array(z.int())),
  tokens: z.int().describe('that are generated'),
  steps: z.int(),
  lr: positive,
  lora: z.strictObject({ r: z.int(), alpha: positive }),
  videoToken: z.int().describe('which the peer puts where a visual token goes'),
  compile: z.boolean(),
  adapter: z.record(z.string(), z.unknown()).describe('configuration of ours'),
})

const measured = {
  loadSeconds: seconds.describe('opening the checkpoint'),
  featureSeconds: seconds.describe('the image tower, for all clips'),
  peakBytes: positive.describe('the most that was resident in the process, mapped pages included: VmHWM'),
  versions: z.record(z.string(), z.string()),
}
export const Asked = z.strictObject({
  ...measured,
  firstTokenSeconds: seconds.describe('Q-Former and prompt'),
  tokenSeconds: z.array(seconds).describe('of each further token'),
  answer: z.array(z.int()),
})
export const Trained = z.strictObject({
  ...measured,
  stepSeconds: z.array(seconds),
  losses: z.array(z.number()),
  trained: z.int().describe('parameters'),
})

/** What stays the same for all. */
export const CONTENDERS = ['mtransllama', 'concat', 'same', 'transformers', 'compiled'] as const
export type ContenderName = (typeof CONTENDERS)[number]

const Sample = z.strictObject({
  contender: z.enum(CONTENDERS),
  round: z.int(),
  ask: Asked.omit({ versions: true }).optional(),
  train: Trained.omit({ versions: true }).optional(),
})

export const Peers = z.strictObject({
  schema: z.literal(1),
  runs: z.array(
    z.strictObject({
      dtype: Request.shape.dtype,
      machine: Result.shape.machine,
      versions: Result.shape.versions,
      commit: Result.shape.commit,
      changed: Result.shape.changed,
      date: z.string(),
      threads: z.int(),
      clock: Request.shape.clock,
      load: z.strictObject({ before: z.number(), after: z.number() }).describe("the system's load average"),
      sizes: z
        .strictObject({
          batch: z.int(),
          frames: z.int(),
          text: z.int(),
          prompt: z.int(),
          answer: z.int(),
          parameters: z.int(),
          fileBytes: positive,
          model: z.string(),
        })
        .describe('of the model and of a step'),
      samples: z.array(Sample),
      missing: z.array(z.strictObject({ name: z.string(), reason: z.string() })),
    }),
  ),
})

export type Request = z.output<typeof Request>
export type Asked = z.output<typeof Asked>
export type Trained = z.output<typeof Trained>
export type Peers = z.output<typeof Peers>
export type PeersRun = Peers['runs'][number]
