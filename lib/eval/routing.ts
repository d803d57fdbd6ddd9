/** What routers choose and what temporal attention looks at, read out of the model as it computes. */
import type { Adapter } from '../adapter/adapter.js'
import type { Sample } from '../data/manifest.js'
import { attentionWeights } from '../nn/attention.js'
import { contiguous } from '../ops/copy.js'
import { mean } from '../ops/reduce.js'
import { narrow } from '../ops/views.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { encode, qformerRows } from '../session/encode.js'
import type { Features } from '../session/features.js'
import { seenOf } from '../session/visual.js'
import { scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import { PREDICTED } from './evaluate.js'

/** An adapter on its base, and where features come from. */
export interface Watched {
  checkpoint: Checkpoint
  adapter: Adapter
  features: Features
  signal?: AbortSignal | undefined
}

/** The weights that a sample's routers give to their masks, by layer: the mean over frames, or over query tokens. */
export type Alpha = {
  /** A layer without a router has one mask of weight 1. */
  spatial: number[][]
  temporal: number[][]
}

/** Whether any layer has a router. */
export const routed = ({ parameters }: Adapter): boolean => [...parameters.keys()].some((n) => n.includes('.router.'))

/** Runs the Q-Former on samples and shows every layer's outputs; nothing is kept beyond the numbers that are read. */
async function observed(
  { checkpoint, adapter, features, signal }: Watched,
  samples: readonly Sample[],
  look: (name: string, value: Tensor) => void,
): Promise<void> {
  const encoded = samples.map((s) => encode(checkpoint, adapter.config, s, undefined))
  await scope(() =>
    noGrad(async () => {
      const seen = await seenOf(features, samples, adapter, signal)
      scope(() => checkpoint.model.visualTokens(seen, qformerRows(encoded), adapter, { observe: look }))
    }),
  )
}

const numbers = async (t: Tensor): Promise<number[]> => [...((await t.data()) as Float32Array)]
const round = (x: number): number => Number(x.toFixed(4))

/** The routers' weights for each sample. */
export async function routerWeights(watched: Watched, samples: readonly Sample[]): Promise<Alpha[]> {
  const layers = watched.checkpoint.model.config.qformer.layers
  const all: Alpha[] = samples.map(() => ({
    spatial: Array.from({ length: layers }, () => [1]),
    temporal: Array.from({ length: layers }, () => [1]),
  }))
  for (let at = 0; at < samples.length; at += PREDICTED) {
    watched.signal?.throwIfAborted()
    const some = samples.slice(at, at + PREDICTED)
    const reading: Promise<void>[] = []
    await observed(watched, some, (name, value) => {
      const [, layer, kind] = /^layer\.(\d+)\.(spatial|temporal)\.alpha$/.exec(name) ?? []
      if (layer === undefined) return
      const masks = value.dim(-1)
      const take = (found: number[]): void =>
        some.forEach((_, i) => {
          const own = found.slice(i * masks, (i + 1) * masks).map(round)
          all[at + i]![kind as keyof Alpha][Number(layer)] = own
        })
      reading.push(numbers(mean(value, 1)).then(take))
    })
    await Promise.all(reading)
  }
  return all
}

/** The mean of {@link routerWeights} over samples. */
export function meanWeights(all: readonly Alpha[]): Alpha {
  const over = (kind: keyof Alpha): number[][] =>
    all[0]![kind].map((masks, layer) =>
      masks.map((_, j) => round(all.reduce((sum, a) => sum + a[kind][layer]![j]!, 0) / all.length)),
    )
  return { spatial: over('spatial'), temporal: over('temporal') }
}

/**
 * How much temporal attention looks at each frame of a sample's clip, by layer: the mean over heads, query tokens and
 * the frames that look. Each layer sums to 1. Undefined where the adapter has no attention over time.
 */
export async function temporalWeights(watched: Watched, sample: Sample): Promise<number[][] | undefined> {
  const { checkpoint, adapter, features } = watched
  const { model } = checkpoint
  if (adapter.config.temporal.attention !== 'factorized') return undefined
  const text = encode(checkpoint, adapter.config, sample, undefined).qformer?.length ?? 0
  const { frames } = features.options
  const reading: Promise<number[]>[] = []
  await observed(watched, [sample], (name, value) => {
    const layer = /^layer\.(\d+)\.spatial$/.exec(name)?.[1]
    if (layer === undefined) return
    const own = adapter.layers(frames, text)[Number(layer)]!.temporal!
    const queries = contiguous(narrow(value, 2, 0, model.config.numQueryTokens))
    const weights = attentionWeights(own.weights ?? model.qformer.layers[Number(layer)]!.self, queries, {
      over: 1,
      lora: own.lora,
      routing: own.routing,
    })
    reading.push(numbers(mean(mean(weights, 1), 1)))
  })
  return (await Promise.all(reading)).map((layer) => layer.map(round))
}
