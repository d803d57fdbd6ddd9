/** A model that answers questions about videos: opened once, asked often. */
import type { Adapter } from '../adapter/adapter.js'
import { loadAdapter } from '../adapter/save.js'
import type { Clip, Sampling } from '../data/frames.js'
import { InputError, invalid } from '../errors.js'
import { findModel } from '../files/hub.js'
import { keep, scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import type { Tensor } from '../tensor/tensor.js'
import { openCheckpoint, type Checkpoint, type LoadOptions } from './checkpoint.js'
import { encode, imageTextConfig, type Encoded } from './encode.js'
import { Features } from './features.js'
import { generate, type Finish, type GenerateOptions } from './generate.js'
import { checkedVisual } from './visual.js'

/** Options of {@link openModel}. */
export interface OpenOptions extends LoadOptions {
  /** Folder of an adapter that was trained on this checkpoint. Absent: the image model answers. */
  adapter?: string | undefined
  /** Of a model of the hub: a branch, a tag or a commit. Default: main. */
  revision?: string | undefined
  /** Take a model of the hub from the cache alone. Default: whether HF_HUB_OFFLINE is set. */
  offline?: boolean | undefined
}

/** A question about a clip. */
export interface Question extends Clip {
  prompt: string
  /** What is said in the clip; the Q-Former reads it. */
  dialogue?: string | undefined
}

/** Options of {@link Model.ask}. */
export interface AskOptions extends Omit<GenerateOptions, 'eosIds'> {
  /** Frames of the clip. Default: those the adapter was trained with, else 4. */
  frames?: number | undefined
  /** How its frames are chosen. Default: uniform. */
  sampling?: Sampling | undefined
  /** Seconds that reading the clip may take. Default 60. */
  timeout?: number | undefined
  /** Another adapter of this checkpoint than the model's own; null: the image model answers. The caller frees it. */
  adapter?: Adapter | null | undefined
  /** Where features are kept from one question to the next; its frames and sampling rule. Default: nowhere. */
  features?: Features | undefined
}

/** How an answer ended, and the tokens that the language model read and wrote. */
export interface Answered {
  finish: Finish
  /** Visual tokens, and ids of the prompt. */
  visualTokens: number
  promptTokens: number
  /** Ids of the answer, its end token not counted. */
  answerTokens: number
}

/**
 * Opens a checkpoint (InstructBLIP or BLIP-2 in the Hugging Face layout) and, where `options` name one, an adapter; on
 * the CPU in float32 unless they say otherwise. `name` is a folder or, where there is none of that name, a model of
 * the Hugging Face hub, OWNER/NAME, which is loaded into the cache that Python's programs share.
 *
 * @throws InputError, with nothing left open, that lists what is missing, wrong or unexpected; and for an adapter of
 *   another checkpoint
 */
export async function openModel(
  name: string,
  { adapter, revision, offline, ...options }: OpenOptions = {},
): Promise<Model> {
  const { folder } = await findModel(name, { revision, offline })
  const model = new Model(await openCheckpoint(folder, options))
  try {
    if (adapter !== undefined) await model.loadAdapter(adapter)
    return model
  } catch (error) {
    model.dispose()
    throw error
  }
}

/** Frames of a clip where nobody asks for a number: those that an adapter was trained with, else 4. */
export const framesOf = (adapter: Adapter | undefined): number => adapter?.config.frames ?? 4

const disposed = (): InputError => new InputError('model: this one was disposed; open it again with openModel().')

/** An open checkpoint, and the adapter that makes a video model of it. Made by {@link openModel}. */
export class Model {
  #checkpoint: Checkpoint | undefined
  #adapter: Adapter | undefined
  readonly #adapters = new Map<string, Adapter>()
  /** Questions whose visual tokens are being computed with the current adapter. */
  readonly #seeing = new Set<Promise<unknown>>()

  /** The model owns the checkpoint from now on. */
  constructor(checkpoint: Checkpoint) {
    this.#checkpoint = checkpoint
  }

  /** The open checkpoint: image model, tokenizers, preprocessing. Throws once the model was disposed. */
  get checkpoint(): Checkpoint {
    if (!this.#checkpoint) throw disposed()
    return this.#checkpoint
  }
  /** Absent: the image model answers, its visual tokens averaged over frames. */
  get adapter(): Adapter | undefined {
    return this.#adapter
  }

  /** The names of the adapters that are loaded. */
  get adapters(): string[] {
    return [...this.#adapters.keys()]
  }

  /**
   * Loads an adapter beside those that there are, and answers with it from now on. One of the same name is replaced;
   * questions that are being answered continue with it.
   *
   * @param folder an adapter that was trained on this checkpoint
   * @param name by which {@link setAdapter} finds it again
   * @throws InputError where it cannot be used; everything stays as it was
   */
  async loadAdapter(folder: string, name = 'default'): Promise<void> {
    const loaded = await loadAdapter(folder, this.checkpoint)
    if (!this.#checkpoint) {
      loaded.dispose()
      throw disposed()
    }
    const before = this.#adapters.get(name)
    this.#adapters.set(name, loaded)
    this.#adapter = loaded
    await Promise.allSettled(this.#seeing)
    before?.dispose()
  }

  /**
   * Answers further questions with a loaded adapter, or with none: nothing is read or computed for it.
   *
   * @param name the name that it was loaded under; null: the image model answers
   * @throws InputError where none of that name is loaded
   */
  setAdapter(name: string | null): void {
    const adapter = name === null ? undefined : this.#adapters.get(name)
    if (name !== null && !adapter)
      throw invalid('adapter', this.adapters.length ? `one of ${this.adapters.join(', ')}, or null` : 'null', name)
    this.#adapter = adapter
  }

  /**
   * Answers one question about one clip, piece by piece as words are generated (greedily), and returns how the answer
   * ended. Reading the clip and generating stop when the caller leaves its loop, or the signal aborts.
   *
   * @throws InputError for a clip that cannot be read, texts that do not fit, and numbers that are not finite; the
   *   signal's reason once that aborts
   */
  async *ask(question: Question, options: AskOptions = {}): AsyncGenerator<string, Answered> {
    const { checkpoint } = this
    const { model, tokenizer, eosIds } = checkpoint
    const { signal } = options
    const adapter = options.adapter === undefined ? this.#adapter : (options.adapter ?? undefined)
    const features =
      options.features ??
      new Features(checkpoint, {
        frames: options.frames ?? framesOf(adapter),
        sampling: options.sampling ?? { kind: 'uniform' },
        timeout: options.timeout,
      })
    const { frames } = features.options
    const encoded = encode(checkpoint, adapter?.config ?? imageTextConfig(checkpoint, frames), {
      prompt: question.prompt,
      qformerText: question.dialogue,
    })
    const visual = await this.#see(features, question, encoded, adapter, signal)
    const ids = generate(model, visual, encoded.prompt, { ...options, eosIds })
    try {
      const text = tokenizer.stream()
      let first = true
      const shown = (piece: string): string => {
        const out = first ? piece.trimStart() : piece
        if (out) first = false
        return out
      }
      let answerTokens = 0
      let next: IteratorResult<number, Finish>
      for (; !(next = await ids.next()).done; answerTokens++) {
        const piece = shown(text.push(next.value))
        if (piece) yield piece
      }
      const rest = shown(text.end())
      if (rest) yield rest
      const { prompt } = encoded
      return { finish: next.value, visualTokens: visual.dim(1), promptTokens: prompt.length, answerTokens }
    } finally {
      await ids.return('stop')
      visual.dispose()
    }
  }

  async #see(
    features: Features,
    clip: Clip,
    encoded: Encoded,
    adapter: Adapter | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Tensor> {
    const visual = scope(() =>
      noGrad(async () => keep(await checkedVisual(this.checkpoint, features, [clip], [encoded], adapter, signal))),
    )
    this.#seeing.add(visual)
    try {
      return await visual
    } finally {
      this.#seeing.delete(visual)
    }
  }

  /** Frees weights and adapter. Does nothing the second time. */
  dispose(): void {
    for (const adapter of this.#adapters.values()) adapter.dispose()
    this.#adapters.clear()
    this.#checkpoint?.model.dispose()
    this.#adapter = undefined
    this.#checkpoint = undefined
  }
  [Symbol.dispose](): void {
    this.dispose()
  }
}
