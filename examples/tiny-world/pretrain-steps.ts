/** The losses of pre-training, and what of it counts: exact answers. */

import type { Parameter } from '../../lib/train/optimizer.js'
import { logits, type DecoderConfig } from '../../lib/models/decoder.js'
import { answerRows, answerTokens, type ImageModel, type VideoAdapter } from '../../lib/models/image-model.js'
import { vitForward } from '../../lib/models/vit.js'
import { project } from '../../lib/nn/layers.js'
import { crossEntropy } from '../../lib/ops/cross-entropy.js'
import { add, multiply, scale } from '../../lib/ops/elementwise.js'
import { embedding } from '../../lib/ops/embedding.js'
import { zeros } from '../../lib/ops/copy.js'
import { mean, sumDim } from '../../lib/ops/reduce.js'
import { narrow, reshape } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { patches, pixels, words, type Batch, type Words } from './pretrain-batch.js'
import type { Heads } from './pretrain-model.js'
import type { Still } from './render.js'

/** E_v of the stills, [B,K_V,D_v]. */
export const features = (model: ImageModel, list: readonly Still[]): Tensor => vitForward(model.vision, pixels(list))

/** Colour and shape (cross-entropy) and centre (4 × squared error) of the object in each patch. */
export function patchLoss(heads: Heads, seen: Tensor, list: readonly Still[]): Tensor {
  const [b, tokens, d] = seen.shape as [number, number, number]
  const wanted = patches(list)
  const rows = reshape(narrow(seen, 1, 1, tokens - 1), [b * (tokens - 1), d])
  const color = crossEntropy(project(heads.color, rows), wanted.color, 1 / rows.dim(0))
  const shape = crossEntropy(project(heads.shape, rows), wanted.shape, 1 / Math.max(1, wanted.objects))
  const off = multiply(add(project(heads.centre, rows), wanted.centre, -1), wanted.there)
  const centre = sumDim(reshape(multiply(off, off), [off.size]), 0)
  return add(add(color, shape), scale(centre, 4 / Math.max(1, 2 * wanted.objects)))
}

/**
 * The image model that keeps the visual tokens of all pictures, in order, as a video model without temporal attention
 * does: no positions, no adapters.
 */
function concatenated(model: ImageModel, frames: number): VideoAdapter {
  const { numQueryTokens, qformer } = model.config
  return {
    fusion: true,
    aggregate: 'concat',
    joint: false,
    positions: { frame: zeros([frames, qformer.hiddenSize]), query: zeros([numQueryTokens, qformer.hiddenSize]) },
    layers: () => [],
  }
}

/** Visual tokens of every question of a batch, [questions,T·L,D]; each picture goes through the Q-Former by itself. */
function visual(model: ImageModel, seen: Tensor, { shown }: Batch, { qformer }: Words): Tensor {
  const [b, tokens, d] = seen.shape as [number, number, number]
  const frames = shown[0]!.length
  const gathered = embedding(
    tensor(Int32Array.from(shown.flat()), [shown.length, frames]),
    reshape(seen, [b, tokens * d]),
  )
  const perFrame = reshape(gathered, [shown.length, frames, tokens, d])
  return model.visualTokens(perFrame, qformer, frames > 1 ? concatenated(model, frames) : undefined)
}

export interface Losses {
  total: Tensor
  answer: Tensor
}

/** Answers, 0.3 × patches, and 0.5 × the answer's first word from the mean visual token where there is one picture. */
export function losses(model: ImageModel, heads: Heads, batch: Batch): Losses {
  const asked = words(batch.questions, startOf(model))
  const seen = features(model, batch.stills)
  const tokens = visual(model, seen, batch, asked)
  const answer = model.loss(model.hidden(tokens, asked.text), asked.text, 1 / answerTokens(asked.text))
  let total = add(answer, patchLoss(heads, seen, batch.stills), 0.3)
  if (batch.shown[0]!.length === 1) {
    const guess = project(heads.word, mean(tokens, 1))
    total = add(total, crossEntropy(guess, asked.first, 1 / asked.first.size), 0.5)
  }
  return { total, answer }
}

const startOf = ({ config }: ImageModel): number | undefined => (config.language as DecoderConfig).startId

/** For the optimiser; weight decay on matrices alone. */
export function parameters(tensors: Iterable<Tensor>): Parameter[] {
  return Array.from(tensors, (tensor) => {
    const name = tensor.label!
    return { name, tensor, group: 'all', decay: tensor.rank >= 2 && !/embed|query_tokens|shared/.test(name) }
  })
}

/** Warm-up, constant to 60 % of the steps, then linear to 2 %. */
export function rate(step: number, steps: number, warmup: number): number {
  const done = step / steps
  return Math.min((step + 1) / (warmup + 1), done < 0.6 ? 1 : 1 - (0.98 * (done - 0.6)) / 0.4)
}

/**
 * Which questions of a batch are answered word for word: at every place the likeliest of all words is the right one.
 */
export async function answered(model: ImageModel, batch: Batch): Promise<boolean[]> {
  return scope(() =>
    noGrad(async () => {
      const asked = words(batch.questions, startOf(model))
      const { text } = asked
      const hidden = model.hidden(visual(model, features(model, batch.stills), batch, asked), text)
      const [rows, n, d] = hidden.shape as [number, number, number]
      const { indices, targets, counts } = answerRows(text, n - text.ids.length / rows)
      const scores = logits(model.language, embedding(tensor(Int32Array.from(indices)), reshape(hidden, [rows * n, d])))
      const data = (await scores.data()) as Float32Array
      const isLikeliest = targets.map((label, k) => {
        const word = data.subarray(k * scores.dim(1), (k + 1) * scores.dim(1))
        return word.every((score) => score <= word[label]!)
      })
      let next = 0
      return counts.map((count) => isLikeliest.slice(next, (next += count)).every(Boolean))
    }),
  )
}
