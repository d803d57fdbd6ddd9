/**
 * The schema of a benchmark result, bench/results/<machine>-<date>.json. `npm run schemas` writes it to
 * bench/schema.json.
 */
import { z } from 'zod'

const positive = z.number().positive()

/** Microseconds per call, or a rate per second, over all samples. */
export const Spread = z.strictObject({ median: positive, p10: positive, p90: positive, samples: z.int().min(1) })

/** A peer on the same numbers, timed in turn with ours in the same rounds. */
const Other = z.strictObject({
  name: z.string(),
  kind: z.enum(['peer', 'own']).describe('another library, or another way through this one'),
  us: Spread.optional(),
  ratio: positive.optional().describe('its time over ours: the median of the rounds. Only where results are equal'),
  difference: z
    .number()
    .min(0)
    .nullable()
    .optional()
    .describe('largest ‖its output − ours‖ / ‖ours‖; null where that is no number'),
  limit: positive.optional().describe('what the difference may be'),
  peakBytes: z.number().optional().describe('beyond what its process had before'),
  unavailable: z.string().optional().describe('why there is no time'),
})

export const Row = z.strictObject({
  id: z.string(),
  suite: z.string(),
  sizes: z.record(z.string(), z.number()),
  dtype: z
    .enum(['float32', 'bfloat16', 'mixed'])
    .describe('mixed: activations in float32 on matrices in bfloat16, as a 16-bit checkpoint is used by default'),
  pass: z.enum(['forward', 'forward+backward', 'backward', 'other']),
  threads: z.int().min(1),
  cpu: z.string().describe('the instruction set, MT_CPU'),
  us: Spread,
  flops: z.number().min(0),
  bytes: z.number().min(0).describe('that must come from memory at least'),
  bound: z.enum(['compute', 'memory', 'none']),
  floorUs: positive.optional().describe('flops or bytes at the ceiling that was measured in the same rounds'),
  share: positive.optional().describe('floorUs over the time: the median of the rounds'),
  peakBytes: z.number().min(0).optional().describe('allocated beyond inputs and weights'),
  peers: z.array(Other),
})

export const Goal = z.strictObject({
  goal: z.string(),
  target: positive,
  unit: z.enum(['×', '%']),
  measured: positive.optional().describe('absent: it was not measured, or a peer is missing'),
  reached: z.boolean().optional(),
  from: z.string().describe('the rows it comes from'),
  cpu: z.string(),
})

export const Result = z.strictObject({
  schema: z.literal(1),
  machine: z.strictObject({
    cpu: z.string(),
    cores: z.int().min(1),
    memory: positive,
    system: z.string(),
    isa: z.string(),
    hugePages: z.string().nullable(),
  }),
  device: z.string(),
  versions: z.record(z.string(), z.string()),
  peers: z.array(z.strictObject({ name: z.string(), version: z.string(), details: z.record(z.string(), z.string()) })),
  missing: z.array(z.strictObject({ name: z.string(), reason: z.string() })),
  commit: z.string().nullable(),
  changed: z.boolean().nullable().describe('whether the sources differed from the commit'),
  date: z.string(),
  seconds: z.number(),
  clock: z.enum(['wall', 'cpu']).describe('what times are of: the wall, or CPU time of the process'),
  selection: z.enum(['quick', 'some', 'all', 'goals']),
  suites: z.array(z.string()),
  ceilings: z.array(
    z.strictObject({
      name: z.enum(['float32', 'bfloat16', 'read', 'readSmallPages', 'copy']),
      threads: z.int().min(1),
      cpu: z.string(),
      rate: Spread,
    }),
  ),
  rows: z.array(Row),
  goals: z.array(Goal),
  failures: z.array(z.strictObject({ suite: z.string(), reason: z.string() })),
  load: z.strictObject({ before: z.number(), after: z.number() }).describe("the system's load average: what else ran"),
})

export type Spread = z.output<typeof Spread>
export type Row = z.output<typeof Row>
export type Other = z.output<typeof Other>
export type Goal = z.output<typeof Goal>
export type Result = z.output<typeof Result>
export type CeilingName = Result['ceilings'][number]['name']

export const benchJsonSchema = (): object => z.toJSONSchema(Result)
