/** A model that answers questions about videos: opened once, asked often. */
import type { Adapter } from '../adapter/adapter.js'
import { loadAdapter } from '../adapter/save.js'
import type { Clip, Sampling } from '../data/frames.js'
import type { LoadOptions } from './model.js'
import { keep, scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import { openBundle, type Bundle } from './bundle.js'
import { encode, imageTextConfig } from './encode.js'
import { Features } from './features.js'
import { generate, type GenerateOptions } from './generate.js'
import { checkedVisual } from './visual.js'

export interface VideoModel {
  bundle: Bundle
  /** Absent: the image model answers, its visual tokens averaged over frames. */
  adapter: Adapter | undefined
  dispose(): void
}

/**
 * Opens a checkpoint folder and, if given, an adapter trained on it, on the CPU in float32 unless `options` say
 * otherwise.
 */
export async function openVideoModel(
  model: string,
  adapter?: string,
  options: Pick<LoadOptions, 'device' | 'precision'> = {},
): Promise<VideoModel> {
  const bundle = await openBundle(model, options)
  try {
    const loaded = adapter === undefined ? undefined : await loadAdapter(adapter, bundle)
    return {
      bundle,
      adapter: loaded,
      dispose() {
        loaded?.dispose()
        bundle.model.dispose()
      },
    }
  } catch (error) {
    bundle.model.dispose()
    throw error
  }
}

export interface Question extends Clip {
  prompt: string
  /** What is said in the clip: goes to the Q-Former. */
  dialogue?: string | undefined
}

export interface AskOptions extends Omit<GenerateOptions, 'eosIds'> {
  /** Frames of the clip. Default: those the adapter was trained with, else 4. */
  frames?: number
  sampling?: Sampling
}

/** Answers one question about one clip, piece by piece as words are generated (greedily). */
export async function* ask(
  { bundle, adapter }: VideoModel,
  question: Question,
  options: AskOptions = {},
): AsyncGenerator<string, void> {
  const frames = options.frames ?? adapter?.config.frames ?? 4
  const features = new Features(bundle, { frames, sampling: options.sampling ?? { kind: 'uniform' } })
  const encoded = encode(bundle, adapter?.config ?? imageTextConfig(bundle, frames), {
    prompt: question.prompt,
    qformerText: question.dialogue,
  })
  const visual = await scope(() =>
    noGrad(async () => keep(await checkedVisual(bundle, features, [question], [encoded], adapter))),
  )
  try {
    const text = bundle.tokenizer.stream()
    let first = true
    const shown = (piece: string): string => {
      const out = first ? piece.trimStart() : piece
      if (out) first = false
      return out
    }
    for await (const id of generate(bundle.model, visual, encoded.prompt, { ...options, eosIds: bundle.eosIds })) {
      const piece = shown(text.push(id))
      if (piece) yield piece
    }
    const rest = shown(text.end())
    if (rest) yield rest
  } finally {
    visual.dispose()
  }
}
