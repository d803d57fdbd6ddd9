/**
 * Image features E_v of clips: decoded, resized and computed by the frozen vision tower once, then cached on disk and
 * in memory.
 */
import { featureKey, FeatureCache, type FeatureData } from '../data/cache.js'
import { checkClip, clipKey, hashVideo, readFrames, type Clip, type Sampling } from '../data/frames.js'
import { forSample } from '../data/manifest.js'
import { preprocess } from '../data/preprocess.js'
import { InputError } from '../errors.js'
import { keep, scope } from '../tensor/scope.js'
import { noGrad } from '../tensor/tape.js'
import { tensor, type Tensor } from '../tensor/tensor.js'
import { ARRAYS, itemSize, type Precision } from '../tensor/dtype.js'
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
  /** Whether the cache takes a video for unchanged only where its content is, which reads all of it, once. */
  verify?: boolean | undefined
  /** Most bytes kept in memory, beside those that are held. Default 1 GiB. */
  memory?: number
  /** Called once, with a sentence, where features cannot be cached on disk. Default: a warning of the process. */
  onNotice?: ((sentence: string) => void) | undefined
}

/** A clip, or the sample that it is one's. */
type Named = Clip & { id?: string }

/**
 * Image features E_v of clips, in the precision of the model, each computed once: kept in memory, and on disk where a
 * folder is given.
 */
export class Features {
  readonly #memory = new Map<string, FeatureData>()
  #bytes = 0
  /** How many hold a clip. */
  readonly #held = new Map<string, number>()
  readonly #disk: FeatureCache | undefined
  /** Videos whose content was read. */
  readonly #verified = new Set<string>()
  /** The last computation of the vision tower. */
  #tower: Promise<unknown> = Promise.resolve()
  #uncached = false
  #blank: Promise<FeatureData> | undefined

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

  /** Bytes of the features of a clip. */
  get clipBytes(): number {
    return sizeOf(this.shape) * itemSize(this.#precision)
  }

  get #precision(): Precision {
    return this.checkpoint.model.precision
  }

  /**
   * E_v of one clip, row-major of {@link shape}; of bfloat16, the bits.
   *
   * @param signal ends the reading of the clip; the promise rejects with its reason
   * @throws InputError, with the sample's name where the clip is one's, for a clip that cannot be read, and for
   *   features that are not finite
   */
  of(clip: Named, signal?: AbortSignal): Promise<FeatureData> {
    return forSample(clip, () => this.#of(clip, signal))
  }

  /** {@link of} ahead of its use: the features stay in memory until the function that is returned is called. */
  async hold(clip: Named, signal?: AbortSignal): Promise<() => void> {
    const key = clipKey(clip)
    this.#held.set(key, (this.#held.get(key) ?? 0) + 1)
    let held = true
    const release = (): void => {
      if (!held) return
      held = false
      const others = this.#held.get(key)! - 1
      if (others) this.#held.set(key, others)
      else this.#held.delete(key)
      this.#evict()
    }
    try {
      await this.of(clip, signal)
      return release
    } catch (error) {
      release()
      throw error
    }
  }

  /**
   * Tells cheaply of most clips that cannot be used: where there are no features yet, and no record says so of those on
   * disk, the video is opened, but none of its frames beyond the first is decoded.
   *
   * @throws InputError as {@link of}, unless only the frames themselves are damaged
   */
  check(clip: Named, signal?: AbortSignal): Promise<void> {
    return forSample(clip, async () => {
      if (this.#memory.has(clipKey(clip))) return
      const key = await this.#key(clip, signal, 'recorded')
      if (key !== undefined && (await this.#disk!.has(key))) return
      const { frames, sampling, timeout } = this.options
      await checkClip(clip, { frames, sampling, timeout, signal })
    })
  }

  /** The key of a clip on disk; undefined without a cache, or where only a recorded one is asked for. */
  async #key(clip: Clip, signal?: AbortSignal, how?: 'recorded'): Promise<string | undefined> {
    const { frames, sampling, timeout, cache, verify } = this.options
    if (cache === undefined) return undefined
    const { video, start, end, fps } = clip
    const unverified = how === undefined && verify === true && !this.#verified.has(video)
    const content = await hashVideo(video, timeout, signal, { folder: cache, how: unverified ? 'verify' : how })
    if (content === undefined) return undefined
    if (unverified) this.#verified.add(video)
    const { preprocessor, visionFingerprint } = this.checkpoint
    return featureKey({
      content,
      start,
      end,
      fps,
      sampling,
      frames,
      preprocessor,
      visionFingerprint: `${visionFingerprint} ${this.#precision}`,
    })
  }

  async #of(clip: Clip, signal?: AbortSignal): Promise<FeatureData> {
    const here = clipKey(clip)
    const known = this.#memory.get(here)
    if (known) {
      this.#memory.delete(here) // least recently used first
      this.#memory.set(here, known)
      return known
    }
    const key = await this.#key(clip, signal)
    const cached = key === undefined ? undefined : (await this.#disk!.get(key))?.data
    let data = cached && inPrecision(cached, this.#precision)
    if (!data || !allFinite(data)) {
      data = await this.#compute(clip, signal)
      if (key !== undefined) await this.#store(key, data)
    }
    this.#remember(here, data)
    return data
  }

  /** Puts features on disk. A failure is said once: what was computed can be used. */
  async #store(key: string, data: FeatureData): Promise<void> {
    try {
      await this.#disk!.put(key, this.shape, data)
    } catch (error) {
      if (!(error instanceof InputError)) throw error
      const { onNotice = (sentence: string) => process.emitWarning(`mtransllama: ${sentence}`) } = this.options
      if (!this.#uncached)
        onNotice(`${error.message.replace(/\.$/, '')}; features that are not in the cache are computed again.`)
      this.#uncached = true
    }
  }

  /** E_v of black frames, as {@link of} gives that of a clip. */
  blank(): Promise<FeatureData> {
    return (this.#blank ??= this.#computeBlank())
  }

  async #computeBlank(): Promise<FeatureData> {
    const { preprocessor, model } = this.checkpoint
    const { width, height } = preprocessor.size
    const pixels = await preprocess({ width, height, data: new Uint8Array(3 * width * height) }, preprocessor)
    const seen = scope(() => noGrad(() => keep(model.features(tensor(pixels, [1, 1, 3, height, width])))))
    const one = (await seen.data().finally(() => seen.dispose())) as FeatureData
    const all = new ARRAYS[this.#precision](sizeOf(this.shape)) as FeatureData
    for (let t = 0; t < this.options.frames; t++) all.set(one, t * one.length)
    return all
  }

  /** E_v of black frames for so many clips, [B,T,K_V,D_v]. */
  async blankBatch(clips: number): Promise<Tensor> {
    const one = await this.blank()
    const all = new ARRAYS[this.#precision](clips * one.length)
    for (let i = 0; i < clips; i++) all.set(one, i * one.length)
    return tensor(all, [clips, ...this.shape], this.#precision)
  }

  /** E_v of several clips as a tensor [B,T,K_V,D_v]. */
  async batch(clips: readonly Clip[], signal?: AbortSignal): Promise<Tensor> {
    const size = sizeOf(this.shape)
    const all = new ARRAYS[this.#precision](clips.length * size)
    for (const [i, clip] of clips.entries()) all.set(await this.of(clip, signal), i * size)
    return tensor(all, [clips.length, ...this.shape], this.#precision)
  }

  async #compute(clip: Clip, signal?: AbortSignal): Promise<FeatureData> {
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
    const see = (observe?: Observe): Tensor => model.features(tensor(pixels, [1, t, 3, s, s]), observe)
    return this.#alone(async () => {
      signal?.throwIfAborted()
      // What the layers compute between is freed before anyone waits.
      const seen = scope(() => noGrad(() => keep(see())))
      const data = (await seen.data().finally(() => seen.dispose())) as FeatureData
      if (!allFinite(data))
        throw await notFinite(`${clip.video}: the features of its frames are`, { model, again: see })
      return data
    })
  }

  /** One clip at a time passes the vision tower, so that those that are read ahead take the memory of one. */
  #alone<R>(f: () => Promise<R>): Promise<R> {
    const result = this.#tower.then(f)
    this.#tower = result.catch(() => {})
    return result
  }

  #remember(key: string, data: FeatureData): void {
    this.#bytes += data.byteLength - (this.#memory.get(key)?.byteLength ?? 0)
    this.#memory.set(key, data)
    this.#evict(key)
  }

  /** Forgets what was used least recently, while there is too much; but not `latest`, nor what is held. */
  #evict(latest?: string): void {
    for (const [key, { byteLength }] of this.#memory) {
      if (this.#bytes <= (this.options.memory ?? FEATURE_MEMORY)) break
      if (key === latest || this.#held.has(key)) continue
      this.#memory.delete(key)
      this.#bytes -= byteLength
    }
  }
}

/** Neither a NaN nor an infinity: in bfloat16, all bits of the exponent are set in those. */
const allFinite = (data: FeatureData): boolean =>
  data instanceof Float32Array ? data.every(Number.isFinite) : data.every((bits) => (bits & 0x7f80) !== 0x7f80)

/** Cached features in the model's precision. Earlier versions cached those in bfloat16 as float32, which is exact. */
function inPrecision(data: FeatureData, precision: Precision): FeatureData | undefined {
  if (data instanceof ARRAYS[precision]) return data as FeatureData
  if (!(data instanceof Float32Array)) return undefined
  return Uint16Array.from(new Uint32Array(data.buffer, data.byteOffset, data.length), (bits) => bits >>> 16)
}
