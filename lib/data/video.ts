/**
 * One video file, read at chosen times: the frame at time t is the one shown then, the last whose time stamp is not
 * after t. Time stamps count, never frame numbers, so variable frame rates work; time zero is where a player starts.
 */

import { invalid } from '../errors.js'
import { FrameStream, type Decoded } from './decode.js'
import { Painter, type Rgb } from './picture.js'

/**
 * One picture of a video: RGB, 8 bits, row by row, `data.length` = 3·width·height; `time` in seconds from its start.
 */
export interface RgbFrame extends Rgb {
  time: number
}

/** Up to this far ahead (seconds) decoding continues; beyond, a later keyframe is sought. */
const NEAR = 0.5
/** Two times nearer than this (seconds) are one: float seconds against rational time stamps. */
const SLACK = 1e-6

/** Opens a video file; the caller closes it. @throws InputError if it is missing, empty or not a readable video */
export async function openVideo(path: string): Promise<Video> {
  const video = new Video(await FrameStream.open(path))
  try {
    await video.begin()
    return video
  } catch (error) {
    await video.close()
    throw error
  }
}

export class Video {
  private readonly painter = new Painter()
  private current: Decoded | undefined // the frame at the last time asked for
  private ahead: Decoded | undefined // the one after it
  private ended = false // nothing comes after `current`
  private shown: RgbFrame | undefined // `current` as RGB

  constructor(private readonly stream: FrameStream) {}

  /** Seconds from time zero, where a player starts, to the first frame: sound may begin earlier. */
  start = 0

  /** Decodes the first frame. @throws InputError if there is none */
  async begin(): Promise<void> {
    await this.lookAhead()
    if (!this.ahead) throw this.empty()
    this.start = this.ahead.time
  }

  /** Whether the file is cut off and does not say how long it was. */
  get endless(): boolean {
    return this.stream.cut && this.stream.declaredEnd === undefined
  }

  /** Seconds from time zero to the end of the last frame. */
  get duration(): number {
    return this.stream.duration!
  }

  /** Average frames per second, 0 where the file does not tell. */
  get fps(): number {
    return this.stream.fps
  }

  /**
   * The frame shown at `time` (seconds); the first one before it begins, the last one after it ends.
   * @throws InputError if that frame is cut off or damaged
   */
  async frameAt(time: number): Promise<RgbFrame> {
    if (!this.covers(time)) await this.goTo(time)
    const { current, stream } = this
    const undone = stream.lost.find((t) => t > current!.time && t <= time + SLACK)
    if (undone !== undefined) throw this.broken(time)
    this.checkEnd(time)
    return this.show()
  }

  /** The frame after the last one returned, or undefined at the end. @throws InputError if it is cut off or damaged */
  async next(): Promise<RgbFrame | undefined> {
    if (!this.current) return this.frameAt(0)
    const before = this.current
    await this.lookAhead()
    if (!this.ahead) {
      if (this.stream.lost.some((t) => t > before.time)) throw this.broken(before.time + before.length)
      this.checkEnd(before.time + before.length + SLACK)
      return undefined
    }
    const { time } = this.step()
    if (this.stream.lost.some((t) => t > before.time && t <= time)) throw this.broken(time)
    return this.show()
  }

  /** Frees everything native; may be called twice. */
  async close(): Promise<void> {
    this.drop()
    this.painter.close()
    await this.stream.close()
  }

  // -------------------------------------------------------------------------------------------------------------
  // moving

  private covers(time: number): boolean {
    if (!this.current || time + SLACK < this.current.time) return false
    return this.ahead ? time + SLACK < this.ahead.time : this.ended
  }

  /**
   * Makes `current` the frame at `time`. Where a keyframe turns out to lie after it, looks further and further back.
   */
  private async goTo(time: number): Promise<void> {
    const { stream } = this
    const first = !this.current && stream.fromStart ? this.ahead : undefined // nothing lies before it
    const forward = first !== undefined || (this.current !== undefined && time + SLACK >= this.current.time)
    const head = this.ahead?.time ?? this.current?.time ?? 0
    let near = forward && time - head <= NEAR
    for (let back = 0; ; back = back ? 4 * back : 1) {
      if (!near) {
        if (time - back <= 0) {
          await stream.restart()
          this.drop()
        } else if (!(await stream.seek(time - back, forward && back === 0))) this.drop()
      }
      near = false
      await this.advance(time)
      if (this.current && (stream.fromStart || time + SLACK >= this.current.time)) return
      if (stream.fromStart) throw this.empty()
    }
  }

  private async advance(time: number): Promise<void> {
    while (!this.ended) {
      await this.lookAhead()
      if (!this.ahead || (this.current && this.ahead.time > time + SLACK)) return
      this.step()
    }
  }

  private async lookAhead(): Promise<void> {
    if (this.ahead || this.ended) return
    this.ahead = await this.stream.read()
    this.ended = !this.ahead
  }

  /** `ahead` becomes `current`. */
  private step(): Decoded {
    this.current?.frame.free()
    this.current = this.ahead!
    this.ahead = this.shown = undefined
    return this.current
  }

  private drop(): void {
    this.current?.frame.free()
    this.ahead?.frame.free()
    this.current = this.ahead = this.shown = undefined
    this.ended = false
  }

  // ------------------------------------------------------------------------------------------------------------
  // showing

  private async show(): Promise<RgbFrame> {
    const { frame, time, damaged } = this.current!
    if (damaged) throw this.broken(time)
    return (this.shown ??= { ...(await this.painter.toRgb(frame, this.stream.stream, this.stream.path)), time })
  }

  private empty() {
    return invalid(this.stream.path, 'a video', new Error('no frame that can be decoded'))
  }

  private broken(time: number) {
    return invalid(
      this.stream.path,
      `a frame at ${seconds(time)}`,
      new Error('data that cannot be decoded there'),
      'the file is damaged or truncated',
    )
  }

  /** After the last frame its picture is held; but not where a file that is cut off declares more frames. */
  private checkEnd(time: number): void {
    const { current, stream } = this
    if (!this.ended || !current || !stream.cut || stream.declaredEnd === undefined) return
    const end = current.time + current.length
    const slack = 0.1 + (stream.fps ? 1 / stream.fps : 0)
    if (time < end || stream.declaredEnd <= end + slack) return
    throw invalid(
      stream.path,
      `a frame at ${seconds(time)}`,
      new Error(`pictures up to ${seconds(end)} alone`),
      `the file says that it lasts ${seconds(stream.declaredEnd)}: it is truncated`,
    )
  }
}

/** A time for an error message. */
export function seconds(time: number): string {
  return `${Number(time.toFixed(3))} s`
}
