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
  codec?: 'libx264' | 'ffv1' | 'mpeg4'
  /** Degrees clockwise by which a player turns the picture. */
  rotation?: 90 | 180 | 270
  /** `moov` in front, so that a file cut in the middle can still be opened. */
  faststart?: boolean
  /** Milliseconds added to every time stamp, in containers that keep them (.ts). */
  offset?: number
  /** 4:2:0, the default, or 4:4:4. */
  subsampled?: boolean
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

/** What a frame shows: one colour, or a colour for every pixel (x to the right, y down). */
export type Picture = Colour | ((x: number, y: number) => Colour)

/** Encodes `pictures` to `path`; the container follows from the name (.mp4, .mkv). */
export async function writeVideo(path: string, pictures: Picture[], options: VideoOptions = {}): Promise<string> {
  const { width = 32, height = 16, fps = 10, matrix = 'bt601', fullRange = false, gop = 12, subsampled = true } = options
  Log.setLevel(AV.AV_LOG_QUIET)
  const colours = matrix === 'unspecified' ? 'bt601' : matrix
  const format = subsampled ? AV.AV_PIX_FMT_YUV420P : AV.AV_PIX_FMT_YUV444P
  const out = new FormatContext()
  const encoder = new CodecContext()
  const [frame, packet] = [new Frame(), new Packet()]
  try {
    ok(out.allocOutputContext2(null, null, path), 'allocOutputContext2')
    const codec = Codec.findEncoderByName((options.codec ?? 'libx264') as never)
    if (!codec) throw new Error(`no encoder ${options.codec}`)
    encoder.allocContext3(codec)
    Object.assign(encoder, { width, height, pixelFormat: format, gopSize: gop, maxBFrames: options.bFrames ?? 0, threadCount: 1 })
    encoder.timeBase = new Rational(1, 1000)
    encoder.colorRange = fullRange ? AV.AVCOL_RANGE_JPEG : AV.AVCOL_RANGE_MPEG
    if (matrix !== 'unspecified') encoder.colorSpace = matrix === 'bt601' ? AV.AVCOL_SPC_SMPTE170M : AV.AVCOL_SPC_BT709
    if (out.oformat!.hasFlags(AV.AVFMT_GLOBALHEADER)) encoder.setFlags(AV.AV_CODEC_FLAG_GLOBAL_HEADER)
    encoder.setFlags(AV.AV_CODEC_FLAG_FRAME_DURATION)
    const settings: Record<string, string> = encoder.codecId === AV.AV_CODEC_ID_H264 ? { qp: options.bFrames ? '1' : '0', preset: 'ultrafast', 'x264-params': 'scenecut=0:b-adapt=0' } : {}
    ok(await encoder.open2(codec, Dictionary.fromObject(settings)), 'open2')
    const stream = out.newStream(codec)
    stream.timeBase = new Rational(1, 1000)
    ok(stream.codecpar.fromContext(encoder), 'fromContext')
    if (options.rotation) stream.codecpar.addCodedSideData(AV.AV_PKT_DATA_DISPLAYMATRIX, displayMatrix(options.rotation))
    ok(await out.openOutput(), 'openOutput')
    ok(await out.writeHeader(options.faststart ? Dictionary.fromObject({ movflags: '+faststart' }) : null), 'writeHeader')
    packet.alloc()
    const drain = async () => {
      for (;;) {
        const code = await encoder.receivePacket(packet)
        if (code === AV.AVERROR_EOF || code === FFmpegError.AVERROR('EAGAIN' as never)) return
        ok(code, 'receivePacket')
        packet.streamIndex = 0
        packet.rescaleTs({ num: 1, den: 1000 }, stream.timeBase)
        ok(await out.interleavedWriteFrame(packet), 'interleavedWriteFrame')
        packet.unref()
      }
    }
    for (const [i, picture] of pictures.entries()) {
      frame.alloc()
      Object.assign(frame, { width, height, format, pts: BigInt((options.offset ?? 0) + Math.round(options.pts?.[i] ?? (1000 * i) / fps)) })
      frame.colorRange = encoder.colorRange
      frame.colorSpace = encoder.colorSpace
      frame.duration = BigInt(Math.round(options.pts ? (options.pts[i + 1] ?? options.pts[i]! + 100) - options.pts[i]! : 1000 / fps))
      ok(frame.getBuffer(), 'getBuffer')
      paint(frame, picture, subsampled, colours, fullRange)
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

/** Writes a file with sound and no picture. */
export function writeAudio(path: string, seconds = 1): string {
  const rate = 8000
  const data = Buffer.alloc(44 + rate * seconds * 2)
  data.write('RIFF', 0)
  data.writeUInt32LE(data.length - 8, 4)
  data.write('WAVEfmt ', 8)
  for (const [at, value] of [[16, 16], [24, rate], [28, rate * 2]] as const) data.writeUInt32LE(value, at)
  for (const [at, value] of [[20, 1], [22, 1], [32, 2], [34, 16]] as const) data.writeUInt16LE(value, at)
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
 * Fills the frame's own memory, since `fromBuffer` would point it at a Buffer that may be collected while the encoder still
 * reads. Chroma is taken at the left upper pixel of each 2×2 block.
 */
function paint(frame: Frame, picture: Picture, subsampled: boolean, matrix: Matrix, fullRange: boolean): void {
  const step = subsampled ? 2 : 1
  for (const [channel, by] of [[0, 1], [1, step], [2, step]] as const) {
    const [plane, stride] = [frame.data![channel]!, frame.linesize[channel]!]
    for (let y = 0; y < frame.height; y += by) {
      for (let x = 0; x < frame.width; x += by) {
        plane[(y / by) * stride + x / by] = toYuv(typeof picture === 'function' ? picture(x, y) : picture, matrix, fullRange)[channel]
      }
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
