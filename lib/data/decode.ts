/**
 * A video file as a stream of decoded frames in the order of presentation, with seeking. All of FFmpeg is behind this file
 * and picture.ts; the calls that may take long are asynchronous and leave the event loop free. See cache.ts for what this folder may import.
 */

import type { CodecContext, FormatContext, Frame, Packet, Stream } from 'node-av/lib'
import { invalid } from '../errors.js'
import { AV, lib, loadFfmpeg } from './ffmpeg.js'
import { checkFile, notAVideo, unopened } from './reject.js'

/** A decoded frame, owned by whoever received it. `time` in seconds from time zero; `damaged`: its pixels cannot be trusted. */
export interface Decoded {
  frame: Frame
  time: number
  /** Seconds for which it is shown, as the file says, else by the average rate. */
  length: number
  damaged: boolean
}

export class FrameStream {
  /** Seconds from time zero (where a player starts) to the end of the pictures; undefined where nothing tells. */
  duration: number | undefined
  /** The same, but only where it speaks of the pictures for sure and not of a longer sound track. */
  declaredEnd: number | undefined
  /** Average frame rate, 0 where unknown. */
  fps = 0
  /** No packet has been read since the beginning of the file. */
  fresh = true
  /** Reading began at the beginning of the file, so nothing lies before the first frame given. */
  fromStart = true
  /** Times of packets that could not be decoded since the last jump. */
  lost: number[] = []

  private format!: FormatContext
  private decoder: CodecContext | undefined
  private packet: Packet
  private pending = false // `packet` holds a packet that was read while seeking
  private draining = false
  private needKey = false // packets before a keyframe are of no use
  private lastPacket!: bigint // time stamp of the last packet given to the decoder
  private lastKey!: bigint // and of the last keyframe among them
  private skipping = false // packets up to `lastPacket` were decoded before the seek
  private badSince: number | undefined // the first loss since the last keyframe
  private lastTime = 0
  private tick = 0 // seconds per unit of the stream's time stamps
  private zero = 0 // the container's start, in seconds
  stream!: Stream

  private constructor(readonly path: string) {
    this.packet = new lib.Packet()
    this.packet.alloc()
  }

  /** Opens a file. @throws InputError if it is not a video that can be read */
  static async open(path: string): Promise<FrameStream> {
    await checkFile(path)
    await loadFfmpeg()
    const self = new FrameStream(path)
    try {
      await self.begin()
      if (self.duration === undefined) {
        await self.measure()
        await self.restart()
      }
    } catch (error) {
      await self.close()
      throw error
    }
    return self
  }

  /** The next frame in the order of presentation; undefined at the end. */
  async read(): Promise<Decoded | undefined> {
    const frame = new lib.Frame()
    frame.alloc()
    try {
      for (;;) {
        const code = await this.decoder!.receiveFrame(frame)
        if (code >= 0) {
          if (frame.pts === AV.AV_NOPTS_VALUE) frame.pts = frame.bestEffortTimestamp
          if (frame.pts !== AV.AV_NOPTS_VALUE) return this.judge(frame)
          throw invalid(this.path, 'frames with time stamps', new Error('a frame without one'), 'put the video into an MP4 or Matroska container')
        }
        if (code === AV.AVERROR_EOF) break
        if (code !== AV.AVERROR_EAGAIN) this.lose(this.lastTime)
        if (!(await this.feed())) break
      }
    } catch (error) {
      frame.free()
      throw error
    }
    frame.free()
    return undefined
  }

  /**
   * Goes to the keyframe before `time`. Where that lies behind what was decoded already (`forward`), the frames go on
   * without a gap and nothing is decoded twice: true. Otherwise they begin anew: false.
   */
  async seek(time: number, forward: boolean): Promise<boolean> {
    const stamp = BigInt(Math.floor((time + this.zero) / this.tick))
    if (this.pending) this.packet.unref()
    this.pending = this.fresh = false
    let code = await this.format.seekFrame(this.stream.index, stamp, AV.AVSEEK_FLAG_BACKWARD)
    while (code >= 0 && (code = await this.format.readFrame(this.packet)) >= 0) {
      if (this.packet.streamIndex === this.stream.index) break
      this.packet.unref()
    }
    if (code < 0) {
      await this.restart()
      return false
    }
    this.pending = true
    const { pts, isKeyframe } = this.packet
    if (forward && !this.draining && isKeyframe && pts !== AV.AV_NOPTS_VALUE && pts <= this.lastKey && this.lastPacket !== AV.AV_NOPTS_VALUE) {
      this.skipping = true
      return true
    }
    this.decoder!.flushBuffers()
    this.forget()
    this.needKey = true
    this.fromStart = false
    return false
  }

  /** Back to the beginning, whether or not the file can seek: it is opened again. */
  async restart(): Promise<void> {
    await this.release()
    await this.begin()
  }

  /** Frees everything native; may be called twice. */
  async close(): Promise<void> {
    await this.release()
    this.packet.free()
  }

  private async release(): Promise<void> {
    if (this.pending) this.packet.unref()
    this.pending = false
    this.decoder?.freeContext()
    this.decoder = undefined
    await this.format?.closeInput()
  }

  private forget(): void {
    this.draining = this.needKey = this.skipping = false
    this.lastPacket = this.lastKey = AV.AV_NOPTS_VALUE
    this.badSince = undefined
    this.lastTime = 0
    this.lost = []
  }

  // ------------------------------------------------------------------------------------------------------------- opening

  private async begin(): Promise<void> {
    const { path } = this
    this.forget()
    this.fresh = this.fromStart = true
    const format = (this.format = new lib.FormatContext())
    const options = lib.Dictionary.fromObject({ protocol_whitelist: 'file' }) // a playlist must not reach for the network
    const code = await format.openInput(`file:${path}`, null, options)
    options.free()
    if (code < 0) throw await unopened(path, lib.FFmpegError.strerror(code))
    const name = format.iformat?.name ?? ''
    if (name === 'tty') throw notAVideo(path, 'a text')
    if (/_pipe$|^image2|^ico$/.test(name)) throw notAVideo(path, 'a still image', 'put it into a folder and name that, with fps')
    const found = await format.findStreamInfo()
    const index = found < 0 ? found : format.findBestStream(AV.AVMEDIA_TYPE_VIDEO)
    const stream = format.streams.find((s) => s.index === index)
    if (!stream || stream.disposition & AV.AV_DISPOSITION_ATTACHED_PIC) {
      const sound = format.streams.some((s) => s.codecpar.codecType === AV.AVMEDIA_TYPE_AUDIO)
      throw notAVideo(path, sound ? 'sound without pictures' : 'a file without a video stream')
    }
    for (const other of format.streams) if (other.index !== index) other.discard = AV.AVDISCARD_ALL
    const codec = lib.Codec.findDecoder(stream.codecpar.codecId)
    if (!codec) throw notAVideo(path, `${lib.avGetCodecName(stream.codecpar.codecId)} video, which this FFmpeg cannot decode`)
    const decoder = (this.decoder = new lib.CodecContext())
    decoder.allocContext3(codec)
    let ok = decoder.parametersToContext(stream.codecpar)
    decoder.pktTimebase = stream.timeBase
    decoder.threadType = AV.FF_THREAD_SLICE // frame threads would report an error late, and at another frame
    decoder.threadCount = 2
    if (ok >= 0) ok = await decoder.open2(codec, null)
    if (ok < 0) throw notAVideo(path, `${codec.name} video that its decoder refuses (${lib.FFmpegError.strerror(ok)})`)
    this.stream = stream
    this.readTimes()
  }

  /** Time zero, rate and duration as the container states them. */
  private readTimes(): void {
    const { format, stream } = this
    this.tick = stream.timeBase.num / stream.timeBase.den
    this.fps = stream.avgFrameRate.den ? stream.avgFrameRate.num / stream.avgFrameRate.den : 0
    const first = stream.startTime === AV.AV_NOPTS_VALUE ? undefined : Number(stream.startTime) * this.tick
    this.zero = format.startTime === AV.AV_NOPTS_VALUE ? (first ?? 0) : Number(format.startTime) / 1e6
    const whole = format.duration > 0n ? Number(format.duration) / 1e6 : undefined
    const tag = /^(\d+):(\d+):(\d+\.?\d*)$/.exec(stream.metadata?.get('DURATION') ?? '') // Matroska: where the track ends
    if (stream.duration > 0n) this.declaredEnd = (first ?? this.zero) + Number(stream.duration) * this.tick - this.zero
    else if (tag) this.declaredEnd = Number(tag[1]) * 3600 + Number(tag[2]) * 60 + Number(tag[3]) - this.zero
    else if (format.nbStreams === 1) this.declaredEnd = whole ?? this.declaredEnd
    this.duration = this.declaredEnd ?? whole ?? this.duration
  }

  /** Where nothing states a duration: reads the packets, without decoding, up to the end. */
  private async measure(): Promise<void> {
    let end = 0
    while ((await this.format.readFrame(this.packet)) >= 0) {
      const { streamIndex, pts, duration } = this.packet
      if (streamIndex === this.stream.index && pts !== AV.AV_NOPTS_VALUE) end = Math.max(end, Number(pts + duration) * this.tick - this.zero)
      this.packet.unref()
    }
    this.duration = this.declaredEnd = end
  }

  // ------------------------------------------------------------------------------------------------------------ decoding

  /** Gives the decoder one more packet, or the end of the file; false when that is done. */
  private async feed(): Promise<boolean> {
    if (this.draining) return false
    const { packet, tick } = this
    this.fresh = false
    for (;;) {
      const code = this.pending ? 0 : await this.format.readFrame(packet)
      this.pending = false
      if (code < 0) {
        if (code !== AV.AVERROR_EOF) this.lose(this.lastTime)
        this.draining = true
        return (await this.decoder!.sendPacket(null)) >= 0
      }
      try {
        if (packet.streamIndex !== this.stream.index) continue
        const { pts, isKeyframe } = packet
        if (this.skipping && !this.passed(pts, isKeyframe)) continue
        if (this.needKey && !isKeyframe) continue
        this.needKey = false
        this.lastPacket = pts
        if (isKeyframe) this.lastKey = pts
        const time = pts === AV.AV_NOPTS_VALUE ? this.lastTime : Number(pts) * tick - this.zero
        const cut = packet.hasFlags(AV.AV_PKT_FLAG_CORRUPT)
        if (cut || (await this.decoder!.sendPacket(packet)) < 0) this.lose(time)
        return true
      } finally {
        packet.unref()
      }
    }
  }

  /** While skipping: is this packet one that the decoder has not had? The last that it had is known by its time stamp. */
  private passed(pts: bigint, isKeyframe: boolean): boolean {
    if (pts === this.lastPacket) this.skipping = false
    else if (isKeyframe && pts > this.lastKey) {
      this.skipping = false // it did not turn up: what comes before this keyframe cannot be had this way
      this.lose(this.lastTime)
      return true
    }
    return false
  }

  private lose(time: number): void {
    this.lost.push(time)
    this.badSince = Math.min(this.badSince ?? time, time)
  }

  /** A loss spoils every later frame up to the next keyframe, since frames are built on one another. */
  private judge(frame: Frame): Decoded {
    const time = Number(frame.pts) * this.tick - this.zero
    this.lastTime = time
    if (frame.hasFlags(AV.AV_FRAME_FLAG_KEY) && this.badSince !== undefined && this.badSince < time) this.badSince = undefined
    if (frame.decodeErrorFlags || frame.hasFlags(AV.AV_FRAME_FLAG_CORRUPT)) this.badSince = Math.min(this.badSince ?? time, time)
    const length = frame.duration > 0n ? Number(frame.duration) * this.tick : this.fps ? 1 / this.fps : 0
    return { frame, time, length, damaged: this.badSince !== undefined && this.badSince <= time }
  }
}
