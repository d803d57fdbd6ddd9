/** What each tower reads of the samples of a step: frames by time, texts decoded from their ids, and the labels. */
import { visualTokens } from '../adapter/config.js'
import { readFrames } from '../data/frames.js'
import { readManifest, type Sample } from '../data/manifest.js'
import { invalid } from '../errors.js'
import { encode, textRows, type TextConfig, type TextSide } from '../session/encode.js'
import type { Tokenizer } from '../text/tokenizer.js'
import { batchesOf } from './batches.js'
import type { TrainConfig } from './config.js'

/** A sample as the model reads it. */
export interface ShownSample {
  id: string
  video: string
  /** Seconds of the frames in the video. */
  times: number[]
  /** Tokens of the Q-Former; undefined where it reads no text. */
  qformer: string[] | undefined
  visual: number
  /** Tokens of the language model behind the visual ones, without padding, and which of them the loss counts. */
  tokens: string[]
  labels: boolean[]
  /** Padding of the sample's row. */
  padding: number
}

/** The micro-batches of a step. @param step counted from 1 within the epoch, as `epoch` is */
export async function showBatch(
  config: TrainConfig,
  { texts, text }: { texts: TextSide; text: TextConfig },
  { epoch, step }: { epoch: number; step: number },
): Promise<ShownSample[][]> {
  const steps = batchesOf(await readManifest(config.data.train), config.train, epoch, texts, text)
  const batches = steps[step - 1]
  if (!batches) throw invalid('--step', `a step from 1 to ${steps.length}`, step)
  const shown: ShownSample[][] = []
  for (const samples of batches) shown.push(await showMicroBatch(config, texts, text, samples))
  return shown
}

async function showMicroBatch(
  { adapter, data }: TrainConfig,
  texts: TextSide,
  text: TextConfig,
  samples: readonly Sample[],
): Promise<ShownSample[]> {
  const encoded = samples.map((s) => encode(texts, text, s))
  const rows = textRows(encoded, texts.special)
  const width = (rows.ids.length + (rows.decoder?.length ?? 0)) / rows.rows
  return Promise.all(
    samples.map(async (sample, i) => {
      const frames = await readFrames(sample, {
        frames: adapter.frames,
        sampling: data.sampling,
        timeout: data.timeout,
      })
      const { qformer, prompt, answer } = encoded[i]!
      const read = [...prompt, ...answer]
      return {
        id: sample.id,
        video: sample.video,
        times: frames.map((f) => f.time),
        qformer: qformer && tokens(texts.qformerTokenizer!, qformer),
        visual: visualTokens(text, texts.model.config.numQueryTokens),
        tokens: tokens(texts.tokenizer, read),
        labels: read.map((_, k) => k >= prompt.length),
        padding: width - read.length,
      }
    }),
  )
}

const tokens = (tokenizer: Tokenizer, ids: readonly number[]): string[] =>
  ids.map((id) => tokenizer.token(id) ?? `<${id}>`)
