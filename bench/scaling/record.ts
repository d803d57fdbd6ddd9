/** The file of a measurement of several ranks. */
import { z } from 'zod'

const times = z.array(z.number().positive()).min(1)

export const Scaling = z.object({
  format: z.literal('mtransllama-scaling'),
  version: z.literal(1),
  date: z.string(),
  commit: z.string().nullable(),
  changed: z.boolean().nullable(),
  machine: z.object({ cpu: z.string(), cores: z.number(), memory: z.number(), system: z.string() }).loose(),
  /** The system's load average at the beginning: others that compute make everything slower. */
  load: z.number(),
  /** Of the exchange of `bytes` from each of the ranks to each; how long, as the slowest rank sees it. */
  exchanges: z.array(z.object({ mpi: z.string(), ranks: z.number(), bytes: z.number(), seconds: times })),
  /** Of the sum of gradients with so many parameters, the exchange included. */
  sums: z.array(z.object({ mpi: z.string(), ranks: z.number(), parameters: z.number(), seconds: times })),
  /** Of training steps; `batch` samples by all ranks together; `runs` at the same time, which know nothing of another. */
  steps: z.array(
    z.object({ ranks: z.number(), runs: z.number(), batch: z.number(), parameters: z.number(), seconds: times }),
  ),
})
export type Scaling = z.output<typeof Scaling>

/** Rates that a step by several ranks depends on. */
export interface Link {
  /** Bytes per second that a rank receives at, and seconds that a message takes however short it is. */
  rate: number
  latency: number
  /** Bytes per second at which a rank reads and adds what it was sent. */
  add: number
}

/** Bytes of float32. */
const FLOAT = 4
/** All-gathers of a step: clips that are left out and the gradients, each begun with what comes. */
const MESSAGES = 4

/** Seconds that a step of N ranks takes beside its computation: N − 1 gradients received, N added. */
export function exchangeSeconds(ranks: number, parameters: number, { rate, latency, add }: Link): number {
  if (ranks === 1) return 0
  const bytes = FLOAT * parameters
  return MESSAGES * Math.ceil(Math.log2(ranks)) * latency + ((ranks - 1) * bytes) / rate + (ranks * bytes) / add
}
