/** The file of a measurement of several ranks. */
import { z } from 'zod'

const times = z.array(z.number().positive()).min(1)

export const Scaling = z.object({
  format: z.literal('mtransllama-scaling'),
  /** 1: each rank added the gradients of all; 2: each a part of them. */
  version: z.union([z.literal(1), z.literal(2)]),
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
  /**
   * Of training steps; `batch` samples by all ranks together; `runs` at the same time, which know nothing of another, and
   * of their steps those alone during which all of them ran.
   */
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
  /** Bytes of gradients per second that a rank makes one buffer, adds as its part, and takes up again. */
  add: number
}

/** Bytes of float32. */
const FLOAT = 4
/** Short all-gathers of a step, of ⌈log₂N⌉ messages: the clips that are left out, and what comes, twice. */
const SHORT = 3
/** Long exchanges, of N − 1 messages: parts of gradients to each rank, and the sums of the parts to all. */
const LONG = 2

/** Seconds that a step of N ranks takes beside its computation. */
export function exchangeSeconds(ranks: number, parameters: number, { rate, latency, add }: Link): number {
  const messages = SHORT * Math.ceil(Math.log2(ranks)) + LONG * (ranks - 1)
  const bytes = FLOAT * parameters
  return ranks === 1 ? 0 : messages * latency + receivedBytes(ranks, parameters) / rate + bytes / add
}

/** Bytes that a rank receives in a step: of N − 1 others their gradients of its part, and the sums of theirs. */
export const receivedBytes = (ranks: number, parameters: number): number =>
  (LONG * FLOAT * parameters * (ranks - 1)) / ranks
