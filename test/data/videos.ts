/**
 * Writes small videos whose pixels are known: constant colours or single marks, converted to YUV here (not by swscale,
 * which is what the tests check) and encoded without loss. Used by the tests of lib/data alone.
 */
import { Codec, CodecContext, Dictionary, FFmpegError, FormatContext, Frame, Log, Packet, Rational } from 'node-av/lib'
import * as AV from 'node-av/constants'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export type Colour = readonly [number, number, number]
export type Matrix = 'bt601' | 'bt709'

export interface VideoOptions {
  width?: number
  height?: number
  /** Frames shown a second, where `pts` is not given. */
  fps?: number
  /** Presentation time of each frame in milliseconds; must grow. */
  pts?: number[]
  matrix?: Matrix | 'unspecified'
  fullRange?: boolean
  /** Frames from one keyframe to the next. */
  gop?: number
  bFrames?: number
  codec?:
    | 'libx264'
    | 'libx265'
    | 'ffv1'
    | 'mpeg4'
    | 'mpeg2video'
    | 'wmv2'
    | 'flv'
    | 'libvpx'
    | 'libvpx-vp9'
    | 'mjpeg'
    | 'qtrle'
    | 'png'
  /** Degrees clockwise by which a player turns the picture. */
  rotation?: 90 | 180 | 270
  /** `moov` in front, so that a file cut in the middle can still be opened. */
  faststart?: boolean
  /** Milliseconds added to every time stamp, in containers that keep them (.ts). */
  offset?: number
  /** 4:2:0, the default, or 4:4:4. */
  subsampled?: boolean
  /** Which field is shown first. */
  interlaced?: 'top' | 'bottom'
  /** A display matrix of one's own instead of a rotation: nine numbers, 16.16. */
  display?: number[]
  /** Seconds of silence beside the pictures. */
  sound?: number
  /** Seconds by which the sound begins before the pictures. */
  soundBefore?: number
  /** Packets say when they are decoded, so many pictures late, and not when they are shown. */
  decodingTimes?: number
  /** An alpha channel beside 4:2:0. */
  alpha?: boolean
  /** Options of the container's writer. */
  container?: Record<string, string>
  /** FFmpeg's name of the container, where the file's does not tell. */
  format?: string
}

/** Codecs whose time unit is a frame. */
const FRAME_UNIT = new Set(['mpeg4', 'mpeg2video', 'wmv2', 'flv', 'mjpeg'])
const SOUND: Record<string, string> = {
  webm: 'libopus',
  mpg: 'mp2',
  vob: 'mp2',
  ts: 'mp2',
  wmv: 'wmav2',
  flv: 'libmp3lame',
  mp4: 'aac',
}

const KR = { bt601: [0.299, 0.114], bt709: [0.2126, 0.0722] } as const

/** One RGB colour as 8-bit Y, Cb, Cr, from the definition of the matrices. */
export function toYuv([r, g, b]: Colour, matrix: Matrix = 'bt601', fullRange = false): Colour {
  const [kr, kb] = KR[matrix]
  const y = (kr * r + (1 - kr - kb) * g + kb * b) / 255
  const [cb, cr] = [(b / 255 - y) / (2 * (1 - kb)), (r / 255 - y) / (2 * (1 - kr))]
  return fullRange
    ? [Math.round(255 * y), Math.min(255, Math.round(128 + 255 * cb)), Math.min(255, Math.round(128 + 255 * cr))]
    : [Math.round(16 + 219 * y), Math.round(128 + 224 * cb), Math.round(128 + 224 * cr)]
}

/**
 * What a frame shows: one colour, or a colour for every pixel (x to the right, y down), with alpha where there is a
 * fourth.
 */
export type Picture = Colour | ((x: number, y: number) => Colour | readonly [number, number, number, number])

/** Encodes `pictures` to `path`; the container follows from the name (.mp4, .mkv). */
export async function writeVideo(path: string, pictures: Picture[], options: VideoOptions = {}): Promise<string> {
  const {
    width = 32,
    height = 16,
    fps = 10,
    matrix = 'bt601',
    fullRange = false,
    gop = 12,
    subsampled = true,
  } = options
  Log.setLevel(AV.AV_LOG_QUIET)
  const colours = matrix === 'unspecified' ? 'bt601' : matrix
  const { codec: name = 'libx264', sound = 0, soundBefore = 0 } = options
  const alpha = { qtrle: AV.AV_PIX_FMT_ARGB, png: AV.AV_PIX_FMT_RGBA }[name as string]
  const format =
    alpha ??
    (options.alpha
      ? AV.AV_PIX_FMT_YUVA420P
      : name === 'mjpeg'
        ? AV.AV_PIX_FMT_YUVJ420P
        : subsampled
          ? AV.AV_PIX_FMT_YUV420P
          : AV.AV_PIX_FMT_YUV444P)
  const unit = FRAME_UNIT.has(name) || (path.endsWith('.avi') && !options.pts) ? fps : 1000
  const out = new FormatContext()
  const encoder = new CodecContext()
  const [frame, packet] = [new Frame(), new Packet()]
  try {
    ok(out.allocOutputContext2(null, options.format ?? null, path), 'allocOutputContext2')
    const codec = Codec.findEncoderByName(name as never)
    if (!codec) throw new Error(`no encoder ${name}`)
    encoder.allocContext3(codec)
    Object.assign(encoder, {
      width,
      height,
      pixelFormat: format,
      gopSize: gop,
      maxBFrames: options.bFrames ?? 0,
      threadCount: 1,
    })
    encoder.timeBase = new Rational(1, unit)
    encoder.framerate = new Rational(fps, 1)
    encoder.colorRange = fullRange ? AV.AVCOL_RANGE_JPEG : AV.AVCOL_RANGE_MPEG
    if (matrix !== 'unspecified') encoder.colorSpace = matrix === 'bt601' ? AV.AVCOL_SPC_SMPTE170M : AV.AVCOL_SPC_BT709
    if (out.oformat!.hasFlags(AV.AVFMT_GLOBALHEADER)) encoder.setFlags(AV.AV_CODEC_FLAG_GLOBAL_HEADER)
    encoder.setFlags(AV.AV_CODEC_FLAG_FRAME_DURATION)
    if (options.interlaced) encoder.setFlags(AV.AV_CODEC_FLAG_INTERLACED_DCT)
    if (FRAME_UNIT.has(name)) Object.assign(encoder, { bitRate: 4_000_000n })
    const settings: Record<string, string> =
      encoder.codecId === AV.AV_CODEC_ID_H264
        ? { qp: options.bFrames ? '1' : '0', preset: 'ultrafast', 'x264-params': 'scenecut=0:b-adapt=0' }
        : {}
    ok(await encoder.open2(codec, Dictionary.fromObject(settings)), 'open2')
    const stream = out.newStream(codec)
    stream.timeBase = new Rational(1, unit)
    stream.avgFrameRate = new Rational(fps, 1)
    ok(stream.codecpar.fromContext(encoder), 'fromContext')
    if (options.alpha) stream.metadata = Dictionary.fromObject({ alpha_mode: '1' })
    if (options.rotation)
      stream.codecpar.addCodedSideData(AV.AV_PKT_DATA_DISPLAYMATRIX, displayMatrix(options.rotation))
    if (options.display)
      stream.codecpar.addCodedSideData(
        AV.AV_PKT_DATA_DISPLAYMATRIX,
        Buffer.from(new Int32Array(options.display).buffer),
      )
    const silence = sound
      ? await writeSilence.open(out, SOUND[path.slice(path.lastIndexOf('.') + 1)] ?? 'pcm_s16le')
      : undefined
    ok(await out.openOutput(), 'openOutput')
    ok(
      await out.writeHeader(
        Dictionary.fromObject({ ...(options.faststart && { movflags: '+faststart' }), ...options.container }),
      ),
      'writeHeader',
    )
    await silence?.(sound)
    packet.alloc()
    let first: bigint | undefined
    const drain = async () => {
      for (;;) {
        const code = await encoder.receivePacket(packet)
        if (code === AV.AVERROR_EOF || code === FFmpegError.AVERROR('EAGAIN' as never)) return
        ok(code, 'receivePacket')
        packet.streamIndex = 0
        packet.rescaleTs({ num: 1, den: unit }, stream.timeBase)
        if (options.decodingTimes !== undefined) {
          first ??= packet.dts
          packet.dts -= first
          packet.pts = packet.dts + BigInt(Math.round((options.decodingTimes * stream.timeBase.den) / fps))
        }
        ok(await out.interleavedWriteFrame(packet), 'interleavedWriteFrame')
        packet.unref()
      }
    }
    for (const [i, picture] of pictures.entries()) {
      frame.alloc()
      Object.assign(frame, {
        width,
        height,
        format,
        pts: BigInt(
          Math.round(
            (((options.offset ?? 0) + 1000 * soundBefore + (options.pts?.[i] ?? (1000 * i) / fps)) * unit) / 1000,
          ),
        ),
      })
      frame.colorRange = encoder.colorRange
      frame.colorSpace = encoder.colorSpace
      frame.duration = BigInt(
        Math.round(options.pts ? (options.pts[i + 1] ?? options.pts[i]! + 100) - options.pts[i]! : unit / fps),
      )
      if (options.interlaced)
        frame.setFlags(
          AV.AV_FRAME_FLAG_INTERLACED,
          ...(options.interlaced === 'top' ? [AV.AV_FRAME_FLAG_TOP_FIELD_FIRST] : []),
        )
      ok(frame.getBuffer(), 'getBuffer')
      if (alpha !== undefined) paintAlpha(frame, picture, alpha === AV.AV_PIX_FMT_ARGB ? 1 : 0)
      else paint(frame, picture, subsampled, colours, fullRange, options.alpha)
      ok(await encoder.sendFrame(frame), 'sendFrame')
      frame.free()
      await drain()
    }
    ok(await encoder.sendFrame(null), 'flush')
    await drain()
    ok(await out.writeTrailer(), 'writeTrailer')
  } finally {
    packet.free()
    frame.free()
    encoder.freeContext()
    await out.closeOutput()
    out.freeContext()
  }
  return path
}

/** Adds a stream of sound; the function given writes so many seconds of silence, once the header is written. */
const writeSilence = {
  async open(out: FormatContext, name: string): Promise<(seconds: number) => Promise<void>> {
    const rate = name === 'libopus' ? 48000 : 44100
    const encoder = new CodecContext()
    const codec = Codec.findEncoderByName(name as never)!
    encoder.allocContext3(codec)
    const sampleFormat =
      {
        libopus: AV.AV_SAMPLE_FMT_S16,
        mp2: AV.AV_SAMPLE_FMT_S16,
        pcm_s16le: AV.AV_SAMPLE_FMT_S16,
        libmp3lame: AV.AV_SAMPLE_FMT_S16P,
      }[name] ?? AV.AV_SAMPLE_FMT_FLTP
    const channelLayout = { nbChannels: 1, order: 1, mask: 4n }
    Object.assign(encoder, { sampleRate: rate, sampleFormat, channelLayout, bitRate: 64000n })
    encoder.timeBase = new Rational(1, rate)
    if (out.oformat!.hasFlags(AV.AVFMT_GLOBALHEADER)) encoder.setFlags(AV.AV_CODEC_FLAG_GLOBAL_HEADER)
    ok(await encoder.open2(codec, null), 'open2 of the sound')
    const stream = out.newStream(codec)
    stream.timeBase = new Rational(1, rate)
    ok(stream.codecpar.fromContext(encoder), 'fromContext')
    return async (seconds) => {
      const [frame, packet] = [new Frame(), new Packet()]
      packet.alloc()
      const size = encoder.frameSize || 1024
      for (let at = 0; at <= seconds * rate; at += size) {
        const last = at + size > seconds * rate
        frame.alloc()
        Object.assign(frame, {
          nbSamples: size,
          format: sampleFormat,
          sampleRate: rate,
          channelLayout,
          pts: BigInt(at),
        })
        ok(frame.getBuffer(), 'getBuffer of the sound')
        for (const plane of frame.data!) plane.fill(0)
        ok(await encoder.sendFrame(frame), 'sendFrame')
        frame.free()
        if (last) ok(await encoder.sendFrame(null), 'flush')
        while ((await encoder.receivePacket(packet)) >= 0) {
          packet.streamIndex = stream.index
          packet.rescaleTs({ num: 1, den: rate }, stream.timeBase)
          ok(await out.interleavedWriteFrame(packet), 'interleavedWriteFrame')
          packet.unref()
        }
      }
      packet.free()
      encoder.freeContext()
    }
  },
}

/** Writes a file with sound and no picture. */
export function writeAudio(path: string, seconds = 1): string {
  const rate = 8000
  const data = Buffer.alloc(44 + rate * seconds * 2)
  data.write('RIFF', 0)
  data.writeUInt32LE(data.length - 8, 4)
  data.write('WAVEfmt ', 8)
  for (const [at, value] of [
    [16, 16],
    [24, rate],
    [28, rate * 2],
  ] as const)
    data.writeUInt32LE(value, at)
  for (const [at, value] of [
    [20, 1],
    [22, 1],
    [32, 2],
    [34, 16],
  ] as const)
    data.writeUInt16LE(value, at)
  data.write('data', 36)
  data.writeUInt32LE(rate * seconds * 2, 40)
  for (let i = 0; i < rate * seconds; i++) data.writeInt16LE(Math.round(8000 * Math.sin(i / 5)), 44 + 2 * i)
  writeFileSync(path, data)
  return path
}

/** A fresh folder, and what removes it. */
export function temporaryFolder(): { path: string; at: (name: string) => string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'mt-data-'))
  return { path, at: (name) => join(path, name), remove: () => rmSync(path, { recursive: true, force: true }) }
}

/**
 * Fills the frame's own memory, since `fromBuffer` would point it at a Buffer that may be collected while the encoder
 * still reads. Chroma is taken at the left upper pixel of each 2×2 block.
 */
function paint(
  frame: Frame,
  picture: Picture,
  subsampled: boolean,
  matrix: Matrix,
  fullRange: boolean,
  alpha = false,
): void {
  const step = subsampled ? 2 : 1
  for (const [channel, by] of [
    [0, 1],
    [1, step],
    [2, step],
  ] as const) {
    const [plane, stride] = [frame.data![channel]!, frame.linesize[channel]!]
    for (let y = 0; y < frame.height; y += by) {
      for (let x = 0; x < frame.width; x += by) {
        plane[(y / by) * stride + x / by] = toYuv(
          (typeof picture === 'function' ? picture(x, y) : picture) as Colour,
          matrix,
          fullRange,
        )[channel]
      }
    }
  }
  if (!alpha) return
  const [plane, stride] = [frame.data![3]!, frame.linesize[3]!]
  for (let y = 0; y < frame.height; y++)
    for (let x = 0; x < frame.width; x++)
      plane[y * stride + x] = (typeof picture === 'function' ? picture(x, y) : picture)[3] ?? 255
}

/** Packed red, green, blue, and alpha before (`first` = 1) or after them. */
function paintAlpha(frame: Frame, picture: Picture, first: 0 | 1): void {
  const [plane, stride] = [frame.data![0]!, frame.linesize[0]!]
  for (let y = 0; y < frame.height; y++) {
    for (let x = 0; x < frame.width; x++) {
      const [r, g, b, a = 255] = typeof picture === 'function' ? picture(x, y) : picture
      plane.set(first ? [a, r, g, b] : [r, g, b, a], y * stride + 4 * x)
    }
  }
}

/** FFmpeg's 3×3 display matrix (16.16, last column 2.30), which turns the picture clockwise by `degrees`. */
function displayMatrix(degrees: number): Buffer {
  const [c, s] = [Math.round(Math.cos((degrees * Math.PI) / 180)), Math.round(Math.sin((degrees * Math.PI) / 180))]
  return Buffer.from(new Int32Array([c << 16, s << 16, 0, -s << 16, c << 16, 0, 0, 0, 1 << 30]).buffer)
}

function ok(code: number, what: string): void {
  if (code < 0) throw new Error(`${what}: ${FFmpegError.strerror(code)}`)
}

/**
 * A picture that carries its number: in its top half eight vertical bars, white where bit k of `n` is set, from the
 * left.
 */
export function bars(n: number, width = 64): Picture {
  return (x, y) => (y < width / 4 && (n >> Math.floor((8 * x) / width)) & 1 ? [255, 255, 255] : [0, 0, 0])
}

/** The number that a picture carries. */
export function barNumber({ data, width, height }: { data: Uint8Array; width: number; height: number }): number {
  let n = 0
  for (let k = 0; k < 8; k++) {
    const at = 3 * (Math.floor(height / 4) * width + Math.floor(((k + 0.5) * width) / 8))
    if (data[at]! > 127) n |= 1 << k
  }
  return n
}
