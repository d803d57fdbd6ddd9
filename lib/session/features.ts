/**
 * Image features E_v of clips: decoded, resized and computed by the frozen vision tower once, then cached on disk and
 * in memory.
 */
import { featureKey, FeatureCache } from '../data/cache.js'
import { clipKey, hashVideo, readFrames, type Clip, type Sampling } from '../data/frames.js'
import { forSample } from '../data/manifest.js'
import { preprocess } from '../data/preprocess.js'
import { cast } from '../ops/copy.js'
import { keep, scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import type { Observe } from '../models/finder.js'
import type { Checkpoint } from './checkpoint.js'
import { notFinite } from './finite.js'
import { sizeOf } from '../shape.js'

/** Most bytes of features that are kept in memory, unless options say otherwise. */
export const FEATURE_MEMORY = 2 ** 30

/** Which frames features are of, and where they are kept. */
export interface FeatureOptions {
  /** Frames per clip, T. */
  frames: number
  sampling: Sampling
  /** Seconds that reading a clip may take. Default 60. */
  timeout?: number | undefined
  /** Folder of the cache on disk; none: features live in memory alone. */
  cache?: string | undefined
  /** Most bytes kept in memory. Default 1 GiB. */
  memory?: number
}

/** Image features E_v of clips, float32, each computed once: kept in memory, and on disk where a folder is given. */
export class Features {
  readonly #memory = new Map<string, Float32Array>()
  #bytes = 0
  readonly #disk: FeatureCache | undefined

  constructor(
    readonly checkpoint: Checkpoint,
    readonly options: FeatureOptions,
  ) {
    this.#disk = options.cache === undefined ? undefined : new FeatureCache(options.cache)
  }

  /** [T,K_V,D_v] */
  get shape(): number[] {
    const { tokens, hiddenSize } = this.checkpoint.model.config.vision
    return [this.options.frames, tokens, hiddenSize]
  }

  /**
   * E_v of one clip, row-major of {@link shape}.
   *
   * @param signal ends the reading of the clip; the promise rejects with its reason
   * @throws InputError, with the sample's name where the clip is one's, for a clip that cannot be read, and for
   *   features that are not finite
   */
  of(clip: Clip & { id?: string }, signal?: AbortSignal): Promise<Float32Array> {
    return forSample(clip, () => this.#of(clip, signal))
  }

  async #of(clip: Clip, signal?: AbortSignal): Promise<Float32Array> {
    const { frames, sampling, timeout } = this.options
    const {
      preprocessor,
      visionFingerprint,
      model: { precision },
    } = this.checkpoint
    const here = clipKey(clip)
    const held = this.#memory.get(here)
    if (held) {
      this.#memory.delete(here) // least recently used first
      this.#memory.set(here, held)
      return held
    }
    const key =
      this.#disk &&
      featureKey({
        content: await hashVideo(clip.video, timeout, signal),
        start: clip.start,
        end: clip.end,
        fps: clip.fps,
        sampling,
        frames,
        preprocessor,
        visionFingerprint: `${visionFingerprint} ${precision}`,
      })
    let data = key === undefined ? undefined : (await this.#disk!.get(key))?.data
    if (!data?.every(Number.isFinite)) {
      data = await this.#compute(clip, signal)
      if (key !== undefined) await this.#disk!.put(key, this.shape, data)
    }
    this.#remember(here, data)
    return data
  }

  /** E_v of several clips as a tensor [B,T,K_V,D_v]. */
  async batch(clips: readonly Clip[], signal?: AbortSignal): Promise<Tensor> {
    const size = sizeOf(this.shape)
    const all = new Float32Array(clips.length * size)
    for (const [i, clip] of clips.entries()) all.set(await this.of(clip, signal), i * size)
    return tensor(all, [clips.length, ...this.shape])
  }

  async #compute(clip: Clip, signal?: AbortSignal): Promise<Float32Array> {
    const { preprocessor, model } = this.checkpoint
    const { frames: count, sampling, timeout } = this.options
    const frames = await readFrames(clip, { frames: count, sampling, timeout, resize: preprocessor, signal })
    const [t, s] = [frames.length, model.config.vision.imageSize]
    const pixels = new Float32Array(t * 3 * s * s)
    // A frame that occurs twice is preprocessed once.
    const prepared = new Map<object, Float32Array>()
    for (const [i, frame] of frames.entries()) {
      const ready = prepared.get(frame) ?? (await preprocess(frame, preprocessor))
      prepared.set(frame, ready)
      pixels.set(ready, i * 3 * s * s)
    }
    signal?.throwIfAborted()
    const see = (observe?: Observe): Tensor => model.features(tensor(pixels, [1, t, 3, s, s]), observe)
    // What the layers compute between is freed before anyone waits.
    const seen = scope(() => noGrad(() => keep(cast(see(), 'float32'))))
    const data = (await seen.data().finally(() => seen.dispose())) as Float32Array
    if (!data.every(Number.isFinite))
      throw await notFinite(`${clip.video}: the features of its frames are`, { model, again: see })
    return data
  }

  #remember(key: string, data: Float32Array): void {
    this.#memory.set(key, data)
    this.#bytes += data.byteLength
    for (const [old, { byteLength }] of this.#memory) {
      if (this.#bytes <= (this.options.memory ?? FEATURE_MEMORY) || old === key) break
      this.#memory.delete(old)
      this.#bytes -= byteLength
    }
  }
}
