/**
 * The batch of one pre-training step: pictures, the content of each of their patches, and questions about one or
 * several of them as ids. Every step draws new scenes.
 */

import { qformerRows, textRows } from '../../lib/session/encode.js'
import type { QFormerText, TextRows } from '../../lib/models/image-model.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { severalQuestion, stillQuestion, type Question } from './questions.js'
import { stills, type Still } from './render.js'
import { tinyConfig } from './sizes.js'
import { MEAN, STD } from './tokenizer-files.js'
import { LLM_SPECIAL, QFORMER_SPECIAL, WORDS } from './vocabulary.js'
import { COLORS, Random, SHAPES, SIZE } from './world.js'
import { IGNORE } from '../../lib/ops/cross-entropy.js'

/** Of one kind: every question of a batch is about the same number of pictures. */
export interface Batch {
  stills: Still[]
  /** Per question, which of the stills it is about, in order. */
  shown: number[][]
  questions: Question[]
}

export interface BatchSize {
  images: number
  /** Questions: asked of each image where they are about one, else in all. */
  each: number
  several: number
}

/** Questions about one still each. `things`: how many objects are in each still, 1–4 if 0. */
export function singles(seed: number, split: string, { images, each }: BatchSize, things = 0): Batch {
  const all = stills(seed, images, { split, things, questions: each })
  return {
    stills: all,
    shown: all.flatMap((still, i) => still.questions.map(() => [i])),
    questions: all.flatMap((still) => still.questions),
  }
}

/**
 * How often the stills of a group are all the same one, and the question is about it: a film in which nothing happens.
 */
const SAME = 0.2

/** Questions about groups of `frames` different stills, as they come; a few about one still shown `frames` times. */
export function groups(
  seed: number,
  split: string,
  { images, several }: BatchSize,
  frames: number,
  same = SAME,
): Batch {
  const all = stills(seed, images, { split, questions: 0 })
  const random = new Random(seed, 'groups', split)
  const indices = all.map((_, i) => i)
  const shown: number[][] = []
  const questions: Question[] = []
  for (let i = 0; i < several; i++) {
    const one = random.chance(same)
    const group = one ? Array<number>(frames).fill(random.int(images)) : random.shuffled(indices).slice(0, frames)
    shown.push(group)
    questions.push(
      one
        ? stillQuestion(all[group[0]!]!.scene, random)
        : severalQuestion(
            group.map((k) => all[k]!.scene),
            random,
          ),
    )
  }
  return { stills: all, shown, questions }
}

// --- pictures -------------------------------------------------------------------------------------------------------

/** The stills as the preprocessor gives them, [B,3,48,48]. */
export function pixels(list: readonly Still[]): Tensor {
  const n = SIZE * SIZE
  const out = new Float32Array(list.length * 3 * n)
  for (const [b, { rgb }] of list.entries()) {
    for (let c = 0; c < 3; c++) {
      const [shift, factor] = [MEAN[c]! / STD[c]!, 1 / (255 * STD[c]!)]
      for (let i = 0; i < n; i++) out[(b * 3 + c) * n + i] = rgb[3 * i + c]! * factor - shift
    }
  }
  return tensor(out, [list.length, 3, SIZE, SIZE])
}

/** What is in every patch of the stills. */
export interface Patches {
  color: Tensor // [patches] int32, the last one: nothing
  shape: Tensor // [patches] int32, −100 where there is nothing
  centre: Tensor // [patches,2] in −1 … 1 over the frame
  there: Tensor // [patches,2], 1 where there is something
  objects: number // patches with something
}

const NEAR = 6 // pixels from the middle of a patch to the object that it is asked for

export function patches(list: readonly Still[]): Patches {
  const { patchSize } = tinyConfig().vision
  const side = SIZE / patchSize
  const n = list.length * side * side
  const color = new Int32Array(n).fill(COLORS.length)
  const shape = new Int32Array(n).fill(IGNORE)
  const centre = new Float32Array(2 * n)
  const there = new Float32Array(2 * n)
  let objects = 0
  let at = 0
  for (const { scene } of list) {
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++, at++) {
        const [px, py] = [(column + 0.5) * patchSize, (row + 0.5) * patchSize]
        const far = ({ x, y }: { x: number; y: number }): number => Math.hypot(x - px, y - py)
        const thing = scene.things.reduce((a, b) => (far(b) < far(a) ? b : a))
        if (far(thing) > NEAR) continue
        color[at] = COLORS.indexOf(thing.color)
        shape[at] = SHAPES.indexOf(thing.shape)
        centre.set([(2 * thing.x) / SIZE - 1, (2 * thing.y) / SIZE - 1], 2 * at)
        there.set([1, 1], 2 * at)
        objects++
      }
    }
  }
  return {
    color: tensor(color),
    shape: tensor(shape),
    centre: tensor(centre, [n, 2]),
    there: tensor(there, [n, 2]),
    objects,
  }
}

// --- words ----------------------------------------------------------------------------------------------------------

// the same in both vocabularies
const id = new Map<string, number>(WORDS.map((word, i) => [word, LLM_SPECIAL.length + i]))
const [PAD, BOS, EOS] = LLM_SPECIAL.map((_, i) => i) as [number, number, number]
const [CLS, SEP] = [QFORMER_SPECIAL.indexOf('[CLS]'), QFORMER_SPECIAL.indexOf('[SEP]')]

export interface Words {
  qformer: QFormerText
  text: TextRows
  /** First word of every answer, [questions] int32. */
  first: Tensor
}

/**
 * The questions as the tokenizers would have them: a word is a token. With a start id, for an encoder and a decoder:
 * without BOS, each prompt with an EOS.
 */
export function words(questions: readonly Question[], startId?: number): Words {
  const ids = (list: readonly string[]): number[] => list.map((word) => id.get(word)!)
  const encoded = questions.map(({ prompt, answer }) => ({
    qformer: [CLS, ...ids(prompt), SEP],
    prompt: startId === undefined ? [BOS, ...ids(prompt)] : [...ids(prompt), EOS],
    answer: [...ids(answer), EOS],
  }))
  return {
    qformer: qformerRows(encoded)!,
    text: textRows(encoded, { padId: PAD, startId }),
    first: tensor(Int32Array.from(encoded, (e) => e.answer[0]!)),
  }
}
