/** The schema of what became of each published model, bench/results/models/<machine>-<date>.json. */
import { z } from 'zod'
import { Result } from '../record.js'

const positive = z.number().positive()

export const Tried = z.strictObject({
  model: z.string().describe('its name on the hub'),
  commit: Result.shape.commit,
  asked: z
    .strictObject({
      weights: z.string(),
      loadSeconds: positive,
      tokenSeconds: positive.describe('the median'),
      peakBytes: positive.describe('the most that was resident: VmHWM'),
      load: z.number().optional(),
    })
    .optional()
    .describe('opened from files of the published names, shapes and dtype, all values 0, and asked about four frames'),
  failed: z.string().optional().describe('why it was not'),
})

export const Models = z.strictObject({
  schema: z.literal(1),
  machine: Result.shape.machine,
  date: z.string(),
  models: z.array(Tried),
})

export type Tried = z.output<typeof Tried>
export type Models = z.output<typeof Models>
