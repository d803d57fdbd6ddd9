/**
 * A video file as a stream of decoded frames in the order of presentation, with seeking. Only this file, open.ts and
 * picture.ts call FFmpeg. Calls that may take long are asynchronous and leave the event loop free.
 */

import type { CodecContext, FormatContext, Frame, Packet, Stream } from 'node-av/lib'
import { stat } from 'node:fs/promises'
import { AV, lib, loadFfmpeg } from './ffmpeg.js'
import { LEAP, Measure, MOST_DELAY, TREMOR, UNKNOWN_LENGTH, type Counter, type Measured } from './measure.js'
import { decoderOf, openPictures, restarts } from './open.js'
import { checkFile, notAVideo } from './reject.js'

/**
 * A decoded frame, owned by whoever received it. `time` in seconds from time zero; `damaged`: its pixels cannot be
 * trusted.
 */
export interface Decoded {
  frame: Frame
  time: number
  /** Seconds for which it is shown, as the file says, else by the average rate. */
  length: number
  damaged: boolean
}

/** Containers whose stated duration comes from the file; for others, FFmpeg estimates it. */
const STATES_DURATION = /^(mov|matroska|avi|asf|flv)\b/
/** Containers with an index: their last packets are found by a seek. */
const INDEXED = /^(mov|matroska|avi)\b/
/** Codecs whose delay between packet and picture changes from picture to picture. */
const VARYING_DELAY = new Set(['h264', 'hevc', 'vvc'])
/** A declared end within this many seconds after the last picture is that picture's end, rounded. */
const ROUNDING = 0.1

const measured = new Map<string, { stamp: string; result: Measured }>()

export class FrameStream {
  /** Seconds from time zero (where a player starts) to the end of the pictures; undefined where nothing tells. */
  duration: number | undefined
  /** The same as the container states it for the pictures, which may be more than it holds. */
  declaredEnd: number | undefined
  /** Whether the file ends inside an element that it began. */
  cut = false
  /** Average frame rate, 0 where unknown. */
  fps = 0
  /** Whether reading began at the beginning of the file, so that no frame precedes the first one. */
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
  private last: { time: number; end: number } | undefined // the last frame since the last jump
  private tick = 0 // seconds per unit of the stream's time stamps
  private zero = 0 // the container's start, in seconds
  private shift = 0 // seconds by which the clock fell back, summed up
  private joined = false // the clock falls back somewhere: times say nothing about places in the file
  private restarts = false // this kind of container may begin its clock anew
  private untimed = false // this kind of container has no times: FFmpeg makes them up
  private fragmented = false
  private counted: Counter | undefined // packets carry decoding times alone, or none
  private delay = 0 // packets that the decoder keeps before it gives a frame; NaN where that varies
  // where pictures are counted, the times of the packets that it keeps: the first one's is when the next frame is shown
  private sent: bigint[] = []
  stream!: Stream

  private constructor(readonly path: string) {
    this.packet = new lib.Packet()
    this.packet.alloc()
  }

  /** Opens a file. @throws InputError if it is not a video that can be read */
  static async open(path: string): Promise<FrameStream> {
    const about = await checkFile(path)
    await loadFfmpeg()
    const self = new FrameStream(path)
    try {
      self.cut = about.cut
      self.fragmented = about.fragmented
      await self.begin()
      await self.measureOnce()
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
          const decoded = this.judge(frame)
          if (decoded) return decoded
          frame.unref()
          continue
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
    if (this.joined || this.untimed || (this.counted && Number.isNaN(this.delay))) {
      if (!forward) await this.restart()
      return forward
    }
    const stamp = BigInt(Math.floor((time + this.zero) / this.tick))
    if (this.pending) this.packet.unref()
    this.pending = false
    const found = await this.format.seekFrame(this.stream.index, stamp, AV.AVSEEK_FLAG_BACKWARD)
    if (found < 0 || (await this.nextPacket()) < 0) {
      await this.restart()
      return false
    }
    this.pending = true
    const { isKeyframe } = this.packet
    const at = this.identity(this.packet)
    if (
      forward &&
      !this.draining &&
      isKeyframe &&
      at !== AV.AV_NOPTS_VALUE &&
      at <= this.lastKey &&
      this.lastPacket !== AV.AV_NOPTS_VALUE
    ) {
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
    this.badSince = this.last = undefined
    this.lastTime = this.shift = 0
    this.lost = []
    this.sent = []
  }

  // ----------------------------------------------------------------------------------------------------------- opening

  private async begin(): Promise<void> {
    const { path } = this
    this.forget()
    this.fromStart = true
    const format = (this.format = new lib.FormatContext())
    const stream = await openPictures(path, format)
    this.restarts = restarts(format)
    const codec = decoderOf(path, stream)
    const decoder = (this.decoder = new lib.CodecContext())
    decoder.allocContext3(codec)
    let ok = decoder.parametersToContext(stream.codecpar)
    decoder.pktTimebase = stream.timeBase
    decoder.threadType = AV.FF_THREAD_SLICE // frame threads would report an error late, and at another frame
    decoder.threadCount = 2
    if (ok >= 0) ok = await decoder.open2(codec, null)
    if (ok < 0) throw notAVideo(path, `${codec.name} video that its decoder refuses (${lib.FFmpegError.strerror(ok)})`)
    this.stream = stream
    await this.readTimes()
  }

  /** Time zero, rate and duration as the container states them. */
  private async readTimes(): Promise<void> {
    const { format, stream, packet } = this
    const name = format.iformat!.name ?? ''
    this.tick = stream.timeBase.num / stream.timeBase.den
    this.fps = stream.avgFrameRate.den ? stream.avgFrameRate.num / stream.avgFrameRate.den : 0
    this.untimed = Boolean(format.iformat!.flags & AV.AVFMT_NOTIMESTAMPS)
    const { videoDelay } = stream.codecpar
    if (this.untimed || (name === 'avi' && videoDelay > 0)) this.counted ??= 'dts'
    this.delay = VARYING_DELAY.has(lib.avGetCodecName(stream.codecpar.codecId) ?? '') ? NaN : videoDelay
    const begins = stream.startTime === AV.AV_NOPTS_VALUE ? undefined : Number(stream.startTime) * this.tick
    this.zero = format.startTime === AV.AV_NOPTS_VALUE ? (begins ?? 0) : Number(format.startTime) / 1e6
    if (this.counted) {
      this.pending = (await this.nextPacket()) >= 0
      const at = this.pending ? packet[this.counted] : AV.AV_NOPTS_VALUE
      this.zero = at === AV.AV_NOPTS_VALUE ? (begins ?? 0) : Number(at) * this.tick
    }
    const first = this.counted ? this.zero : begins
    if (!STATES_DURATION.test(name) || this.fragmented) return
    const whole = format.duration > 0n ? Number(format.duration) / 1e6 : undefined
    // Matroska: where the track ends
    const tag = /^(\d+):(\d+):(\d+\.?\d*)$/.exec(stream.metadata?.get('DURATION') ?? '')
    // What stands for each stream in MP4 and AVI, FFmpeg makes of the whole file's duration elsewhere.
    if (/^(mov|avi)\b/.test(name) && stream.duration > 0n)
      this.declaredEnd = (first ?? this.zero) + Number(stream.duration) * this.tick - this.zero
    else if (tag) this.declaredEnd = Number(tag[1]) * 3600 + Number(tag[2]) * 60 + Number(tag[3]) - this.zero
    else if (whole !== undefined && (format.nbStreams === 1 || this.cut)) this.declaredEnd = whole - this.zero
    this.duration = this.declaredEnd
  }

  /** Measures the pictures; a file that many clips are cut from is measured once. */
  private async measureOnce(): Promise<void> {
    const { size, mtimeMs, ino } = await stat(this.path)
    const stamp = `${size} ${mtimeMs} ${ino}`
    let known = measured.get(this.path)
    if (known?.stamp !== stamp) {
      if (await this.stampsDecoding()) {
        this.counted = 'pts'
        await this.restart()
      }
      known = { stamp, result: await this.measure() }
      if (measured.size >= 1000) measured.clear()
      measured.set(this.path, known)
    }
    const { last, end, joined, counted } = known.result
    this.counted = counted
    await this.restart()
    this.joined = joined
    const declared = (this.declaredEnd ?? 0) + this.zero
    // A declared end may cut the last picture short, or hold it.
    const holds = declared > last && !(declared > end && declared <= end + ROUNDING)
    this.duration = (holds ? declared : end) - this.zero
  }

  /** From the last keyframe on where an index finds it; else all packets. */
  private async measure(): Promise<Measured> {
    if (INDEXED.test(this.format.iformat!.name ?? '')) {
      const far = (this.duration ?? Number(this.format.duration) / 1e6) + this.zero
      if (this.pending) this.packet.unref()
      this.pending = false
      const to = BigInt(Math.ceil(far / this.tick))
      if ((await this.format.seekFrame(this.stream.index, to, AV.AVSEEK_FLAG_BACKWARD)) >= 0) {
        const tail = await this.scan(true)
        if (tail) return tail
      }
    }
    await this.restart()
    const all = (await this.scan(false))!
    const films = this.format.streams.filter((s) => s.codecpar.codecType === AV.AVMEDIA_TYPE_VIDEO)
    // A short program stream may hold one stream after the other though both are shown at once.
    if (/^mpegts\b/.test(this.format.iformat!.name ?? '') && films.length > 1) await this.checkOneStream()
    if (this.counted === all.counted) return all
    this.counted = all.counted
    await this.restart()
    return (await this.scan(false))!
  }

  /**
   * Reads packets to the end, without decoding. `tail`: they must begin with a keyframe that has a time stamp, since no
   * packet before that is shown later; undefined where they do not.
   */
  private async scan(tail: boolean): Promise<Measured | undefined> {
    const { packet, tick, fps, counted, restarts, delay } = this
    const measure = new Measure({ counted, restarts, delay })
    let begun = false
    while ((await this.nextPacket()) >= 0) {
      const { pts, dts, isKeyframe } = packet
      const length = packet.duration > 0n ? Number(packet.duration) * tick : fps ? 1 / fps : UNKNOWN_LENGTH
      const omitted = packet.hasFlags(AV.AV_PKT_FLAG_DISCARD) // by an edit list
      packet.unref()
      const [shown, fed] = [pts, dts].map((t) => (t === AV.AV_NOPTS_VALUE ? undefined : Number(t) * tick))
      if (tail && !begun && (!isKeyframe || (counted === 'dts' ? fed : shown) === undefined)) return undefined
      begun = true
      if (!omitted) measure.add({ shown, fed, length, isKeyframe })
    }
    return tail && measure.empty ? undefined : measure.result()
  }

  /**
   * Refuses joined files that number their streams differently: pictures go on in another stream where this one is
   * over, and FFmpeg reads one of them.
   */
  private async checkOneStream(): Promise<void> {
    await this.restart()
    const { packet, format, stream } = this
    const reach = new Map<number, { from: bigint; to: bigint; packets: number }>() // bytes of the file
    while ((await format.readFrame(packet)) >= 0) {
      const { streamIndex, pos } = packet
      packet.unref()
      const known = reach.get(streamIndex)
      reach.set(streamIndex, { from: known?.from ?? pos, to: pos, packets: (known?.packets ?? 0) + 1 })
    }
    const own = reach.get(stream.index)
    const apart = format.streams.find(({ index, codecpar }) => {
      const other = reach.get(index)
      if (!own || !other || codecpar.codecType !== AV.AVMEDIA_TYPE_VIDEO || 10 * other.packets < own.packets)
        return false
      return other.from > own.to || other.to < own.from
    })
    if (apart) {
      const names = [stream, apart].map((s) => lib.avGetCodecName(s.codecpar.codecId)).join(' and ')
      throw notAVideo(
        this.path,
        `files joined end to end with different streams of pictures (${names})`,
        'join them as one stream, or take one of them',
      )
    }
  }

  /**
   * Whether packets are stamped with the time of their decoding alone: the stamps grow from packet to packet, and fall
   * from picture to picture.
   */
  private async stampsDecoding(): Promise<boolean> {
    const { packet, stream } = this
    if (this.counted || this.restarts || stream.codecpar.videoDelay === 0) return false
    let [grow, last] = [true, AV.AV_NOPTS_VALUE]
    for (let i = 0; i < 2 * MOST_DELAY && grow && (await this.nextPacket()) >= 0; i++) {
      grow = packet.pts > last
      last = packet.pts
      packet.unref()
    }
    if (!grow) return false
    await this.restart()
    last = AV.AV_NOPTS_VALUE
    for (let i = 0; i < 2 * MOST_DELAY; i++) {
      const decoded = await this.read()
      if (!decoded) break
      const { pts } = decoded.frame
      decoded.frame.free()
      if (pts !== AV.AV_NOPTS_VALUE && pts < last) return true
      last = pts
    }
    return false
  }

  // ---------------------------------------------------------------------------------------------------------- decoding

  /** Reads the next packet of pictures; FFmpeg's code. */
  private async nextPacket(): Promise<number> {
    const { packet, stream } = this
    if (this.pending) {
      this.pending = false
      return 0
    }
    for (;;) {
      const code = await this.format.readFrame(packet)
      if (code < 0 || packet.streamIndex === stream.index) return code
      packet.unref()
    }
  }

  /** Gives the decoder one more packet, or the end of the file; false when that is done. */
  private async feed(): Promise<boolean> {
    if (this.draining) return false
    const { packet, tick } = this
    for (;;) {
      const code = await this.nextPacket()
      if (code < 0) {
        if (code !== AV.AVERROR_EOF) {
          this.cut = true
          this.lose(this.lastTime)
        }
        this.draining = true
        if (this.sent.length > this.delay) this.sent.shift()
        return (await this.decoder!.sendPacket(null)) >= 0
      }
      try {
        const { pts, isKeyframe } = packet
        const at = this.identity(packet)
        if (this.skipping && !this.passed(at, isKeyframe)) continue
        if (this.needKey && !isKeyframe) continue
        this.needKey = false
        this.lastPacket = at
        if (isKeyframe) this.lastKey = at
        const told = at !== AV.AV_NOPTS_VALUE
        if (told) this.sent.push(at)
        if (this.sent.length > (Number.isNaN(this.delay) ? MOST_DELAY : this.delay) + 1) this.sent.shift()
        const time =
          pts === AV.AV_NOPTS_VALUE || this.counted ? this.lastTime : Number(pts) * tick - this.zero + this.shift
        // In a transport stream the mark only says that the continuity counter jumped; elsewhere the packet is
        // truncated.
        const cut = packet.hasFlags(AV.AV_PKT_FLAG_CORRUPT) && !this.restarts
        if (cut || (await this.decoder!.sendPacket(packet)) < 0) {
          this.lose(time)
          if (told) this.sent.pop() // it gives no frame
        }
        return true
      } finally {
        packet.unref()
      }
    }
  }

  /** The time stamp by which a packet is recognised. */
  private identity(packet: Packet): bigint {
    return packet[this.counted ?? 'pts']
  }

  /**
   * While skipping: is this packet one that the decoder has not had? The last that it had is known by its time stamp.
   */
  private passed(at: bigint, isKeyframe: boolean): boolean {
    if (at === this.lastPacket) this.skipping = false
    else if (isKeyframe && at > this.lastKey) {
      this.skipping = false // it was not found: frames before this keyframe cannot be reached this way
      this.lose(this.lastTime)
      return true
    }
    return false
  }

  private lose(time: number): void {
    this.lost.push(time)
    this.badSince = Math.min(this.badSince ?? time, time)
  }

  /**
   * A loss spoils every later frame up to the next keyframe, since frames are built on one another. Undefined: a frame
   * of which nothing tells the time.
   */
  private judge(frame: Frame): Decoded | undefined {
    const key = frame.hasFlags(AV.AV_FRAME_FLAG_KEY)
    const length = frame.duration > 0n ? Number(frame.duration) * this.tick : this.fps ? 1 / this.fps : UNKNOWN_LENGTH
    const time = this.onward(this.stamp(frame), key)
    if (time === undefined) return undefined
    this.lastTime = time
    this.last = { time, end: time + length }
    if (key && this.badSince !== undefined && this.badSince < time && !this.miscounts()) this.badSince = undefined
    if (frame.decodeErrorFlags || frame.hasFlags(AV.AV_FRAME_FLAG_CORRUPT))
      this.badSince = Math.min(this.badSince ?? time, time)
    return { frame, time, length, damaged: this.badSince !== undefined && this.badSince <= time }
  }

  /** The time that the file gives a frame, in seconds; undefined where it gives none. */
  private stamp(frame: Frame): number | undefined {
    let stamp: bigint | undefined = frame.pts
    if (this.counted) stamp = Number.isNaN(this.delay) || this.draining ? this.sent.shift() : this.sent[0]
    else if (stamp === AV.AV_NOPTS_VALUE && !this.last && this.fromStart) stamp = frame.pktDts
    return stamp === undefined || stamp === AV.AV_NOPTS_VALUE ? undefined : Number(stamp) * this.tick - this.zero
  }

  /**
   * The time of a frame with this stamp. Without a stamp it follows the last one. Where the clock falls back, or leaps,
   * another file begins, and follows the one before.
   */
  private onward(stamp: number | undefined, key: boolean): number | undefined {
    const { last } = this
    if (!last) return stamp ?? (this.fromStart && this.counted ? 0 : undefined)
    if (stamp === undefined) return last.end
    const time = stamp + this.shift
    const back = this.restarts && key ? time <= last.time : time <= last.time - TREMOR
    if (!back && !(this.restarts && time > last.end + LEAP)) return Math.max(time, last.time)
    this.joined = true
    this.shift += last.end - time
    return last.end
  }

  /** After a loss, pictures that are counted are counted wrongly. */
  private miscounts(): boolean {
    return this.counted !== undefined && Number.isNaN(this.delay)
  }
}
