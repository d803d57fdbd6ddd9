/** Times calls of operators on a CUDA device: recorded into a graph, replayed, waited for. */
import { performance } from 'node:perf_hooks'
import { Graph } from '../../lib/tensor/cuda-graph.js'
import type { Device } from '../../lib/tensor/device.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { quick } from './record.js'

/** Microseconds per call, over the samples. */
export interface Times {
  median: number
  p10: number
  p90: number
  samples: number
}

const samples = quick ? 3 : 20
/** The shortest sample, so that the wait at its end is negligible. */
const enough = quick ? 0 : 2

function elapsed(work: () => void): number {
  const start = performance.now()
  work()
  syncBlocking()
  return performance.now() - start
}

/** `work` is `calls` calls. */
export function time(work: () => void, calls: number): Times {
  // Warm-up: until clocks are up and everything is loaded.
  let once = elapsed(work)
  for (let spent = 0; spent < 10 * enough; spent += once) once = elapsed(work)
  const repeat = Math.min(2000, Math.max(1, Math.ceil(enough / once)))
  const us = Array.from(
    { length: samples },
    () =>
      (1000 *
        elapsed(() => {
          for (let i = 0; i < repeat; i++) work()
        })) /
      (repeat * calls),
  ).sort((a, b) => a - b)
  const at = (q: number): number => us[Math.min(us.length - 1, Math.floor(q * us.length))]!
  return { median: at(0.5), p10: at(0.1), p90: at(0.9), samples }
}

/** One graph of all calls, replayed. Nothing may allocate in it but operators for themselves. */
export function timeGraph(device: Device, calls: readonly (() => void)[]): Times {
  calls[0]?.() // failures, and choices and loading at first use, happen before a capture
  syncBlocking()
  const { graph } = Graph.capture(device, () => calls.forEach((call) => call()))
  try {
    return time(() => graph.replay(), calls.length)
  } finally {
    syncBlocking()
    graph.dispose()
  }
}
