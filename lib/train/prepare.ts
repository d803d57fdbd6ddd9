/** What is found out about the data before the first step: texts that do not fit, and clips that cannot be read. */
import { clipKey, DECODERS } from '../data/frames.js'
import type { Sample } from '../data/manifest.js'
import { InputError } from '../errors.js'
import type { Checkpoint } from '../session/checkpoint.js'
import { encode, type TextConfig } from '../session/encode.js'
import type { Features } from '../session/features.js'
import { alone, type Ranks } from '../ranks/ranks.js'

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

/** Bad clips beyond those that may be left out. */
export interface Skipping {
  /** Samples that may be left out. */
  most: number
  /** Samples that are left out already, and not looked at. */
  before: ReadonlySet<Sample>
  /** Hears of each sample that is left out, with the reason. */
  skipped(sample: Sample, reason: string): void
}

/** Listeners of {@link checkClips}. */
export interface ClipEvents {
  /** Before a clip: what is done next. */
  at(what: string): void
  /** After a clip. */
  done(done: number, total: number): void
}

/**
 * Opens every clip that has no features yet, and returns the samples whose clips can be used as far as that tells.
 * Where more cannot than may be left out, bad clips are collected and reported together; many end it. Several ranks
 * open a share of the clips each.
 */
export async function checkClips(
  features: Features,
  { train, validation }: Samples,
  on: ClipEvents,
  { most, before, skipped }: Skipping,
  signal?: AbortSignal,
  ranks: Ranks = alone,
): Promise<Samples> {
  const all = [...train, ...validation].filter((sample) => !before.has(sample))
  const clips = new Map(all.map((s) => [clipKey(s), s]))
  let bad = new Map<string, InputError>()
  const stop = new AbortController()
  const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal
  // Several at a time, but their results are taken in order.
  const todo = [...ranks.share([...clips])]
  const total = todo.length
  const running: { key: string; video: string; result: Promise<unknown> }[] = []
  let done = 0
  try {
    while (bad.size < MANY + most && (todo.length || running.length)) {
      signal?.throwIfAborted()
      while (todo.length && running.length < 2 * DECODERS) {
        const [key, clip] = todo.shift()!
        const result = features.check(clip, either).then(
          () => undefined,
          (error: unknown) => error ?? new Error('unknown'),
        )
        running.push({ key, video: clip.video, result })
      }
      const { key, video, result } = running.shift()!
      on.at(`clip ${done + 1} of ${total}, ${video}`)
      const error = await result
      if (error !== undefined) {
        signal?.throwIfAborted()
        if (!(error instanceof InputError)) throw error
        bad.set(key, error)
      }
      on.done(++done, total)
    }
  } finally {
    stop.abort(new Error('enough clips were checked'))
    for (const { result } of running) await result
  }
  if (ranks.size > 1) {
    const found = await ranks.gather({ done, bad: [...bad].map(([key, e]): [string, string] => [key, e.message]) })
    bad = new Map(found.flatMap((f) => f.bad).map(([key, message]) => [key, new InputError(message)]))
    done = found.reduce((n, f) => n + f.done, 0)
  }
  const lost = all.filter((s) => bad.has(clipKey(s)))
  if (lost.length > most) throw refusal([...bad.values()], done, clips.size, lost.length, most)
  for (const sample of lost) skipped(sample, bad.get(clipKey(sample))!.message)
  const usable = (samples: readonly Sample[]): Sample[] => samples.filter((s) => !bad.has(clipKey(s)))
  const left = { train: usable(train), validation: usable(validation) }
  if (!left.train.length) throw new InputError(`data: no sample is left, since no clip can be used.`)
  if (validation.length && !left.validation.length)
    throw new InputError(`data: no validation sample is left, since no clip can be used.`)
  return left
}

function refusal(bad: readonly InputError[], done: number, clips: number, samples: number, most: number): InputError {
  if (most === 0 && bad.length === 1) return bad[0]!
  const seen = done === clips ? `${done}` : `the first ${done} of ${clips}`
  const shown = bad.slice(0, MANY).map((e) => e.message.replace(/\.$/, ''))
  const more = bad.length > MANY ? `; and ${bad.length - MANY} more` : ''
  const limit = most ? `, so ${samples} samples would be left out, and train.maxSkipped is ${most}` : ''
  return new InputError(`data: ${bad.length} of ${seen} clips cannot be used${limit}: ${shown.join('; ')}${more}.`)
}
