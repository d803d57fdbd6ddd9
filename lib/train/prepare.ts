/** What is found out about the data before the first step: texts that do not fit, and clips that cannot be read. */
import { clipKey } from '../data/frames.js'
import type { Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { encode, type TextConfig } from '../session/encode.js'
import type { Features } from '../session/features.js'
import { NotFiniteError } from '../session/finite.js'

/** After this many bad clips the run ends. */
const MANY = 10

/** The samples of a run. */
export interface Samples {
  train: readonly Sample[]
  validation: readonly Sample[]
}

/** Encodes every text of training and validation. @throws InputError naming the sample whose text does not fit */
export function checkTexts(checkpoint: Checkpoint, config: TextConfig, { train, validation }: Samples): void {
  for (const sample of train) encode(checkpoint, config, sample)
  for (const sample of validation)
    for (const answer of sample.choices ?? [undefined]) encode(checkpoint, config, sample, answer)
}

/** Listeners of {@link computeFeatures}. */
export interface FeatureEvents {
  /** Before a clip: what is done next. */
  at(what: string): void
  /** After a clip. */
  done(done: number, total: number): void
}

/** Computes the features of every clip. Bad clips are collected and reported together; too many end it. */
export async function computeFeatures(
  features: Features,
  { train, validation }: Samples,
  on: FeatureEvents,
  signal?: AbortSignal,
): Promise<void> {
  const clips = new Map([...train, ...validation].map((s) => [clipKey(s), s]))
  const bad: InputError[] = []
  let done = 0
  for (const clip of clips.values()) {
    if (bad.length === MANY) break
    signal?.throwIfAborted()
    on.at(`clip ${done + 1} of ${clips.size}, ${clip.video}`)
    try {
      await features.of(clip)
    } catch (error) {
      if (!(error instanceof InputError) || error instanceof NotFiniteError) throw error
      bad.push(error)
    }
    on.done(++done, clips.size)
  }
  if (bad.length === 1) throw bad[0]!
  const seen = done === clips.size ? `${done}` : `the first ${done} of ${clips.size}`
  if (bad.length)
    throw new InputError(
      `data: ${bad.length} of ${seen} clips cannot be used: ${bad.map((e) => e.message.replace(/\.$/, '')).join('; ')}.`,
    )
}
