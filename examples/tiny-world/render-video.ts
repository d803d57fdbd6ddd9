/**
 * Frames to a video file: H.264 in mp4, by FFmpeg's C interface (node-av's low-level API).
 *
 * 4:4:4, since at 48 × 48 halved chroma would smear the objects' colours (measured, 40 clips: worst frame 28 dB, below
 * the 34 dB that the world's own noise allows, against 44 dB so). Plays in FFmpeg, VLC, mpv, Chrome and Firefox.
 */

import type { Frame } from 'node-av/lib'
import { invalid } from '../../lib/errors.js'
import { FPS, SIZE } from './world.js'

/**
 * Part of a set's recipe: other settings, other files. One thread, no frame type decisions and no macroblock tree, for
 * the same bytes each time: x264's AVX-512 code for the tree takes 8 macroblocks of a row at a time, whatever lies past
 * its end, and rows of 48 pixels have 3, so that the tree would depend on what another encoder left in memory.
 */
export const ENCODER = { codec: 'libx264', preset: 'veryfast', crf: '4', mbtree: '0', pixels: 'yuv444p' } as const

/** FFmpeg, loaded when the first video is written and not before: pictures do without it. */
let ffmpeg: Promise<{ av: typeof import('node-av/lib'); AV: typeof import('node-av/constants') }> | undefined
const loaded = (): NonNullable<typeof ffmpeg> =>
  (ffmpeg ??= Promise.all([import('node-av/lib'), import('node-av/constants')]).then(([av, AV]) => ({ av, AV })))

/** Encodes frames (48 × 48 × 3 bytes, RGB) at 8 frames a second. Several calls may be in flight. */
export async function writeVideo(path: string, frames: readonly Uint8Array[]): Promise<void> {
  const { av, AV } = await loaded()
  av.Log.setLevel(AV.AV_LOG_QUIET) // what goes wrong arrives as an error
  const codec = av.Codec.findEncoderByName(AV.FF_ENCODER_LIBX264)
  if (!codec)
    throw invalid(
      'FFmpeg',
      'the encoder libx264',
      null,
      'install the node-av package that carries binaries for this platform',
    )
  const encoder = new av.CodecContext()
  const file = new av.FormatContext()
  const packet = new av.Packet()
  const options = av.Dictionary.fromObject({ preset: ENCODER.preset, crf: ENCODER.crf, mbtree: ENCODER.mbtree })
  let open = false
  const check = (code: number, doing: string): void => {
    if (code < 0) throw invalid(path, `a file that can be written (${doing})`, new Error(av.FFmpegError.strerror(code)))
  }
  try {
    encoder.allocContext3(codec)
    encoder.width = encoder.height = SIZE
    encoder.pixelFormat = AV.AV_PIX_FMT_YUV444P
    encoder.colorSpace = AV.AVCOL_SPC_SMPTE170M
    encoder.colorRange = AV.AVCOL_RANGE_MPEG
    encoder.timeBase = new av.Rational(1, FPS)
    encoder.framerate = new av.Rational(FPS, 1)
    encoder.gopSize = frames.length
    encoder.maxBFrames = 0
    encoder.threadCount = 1
    encoder.setFlags(AV.AV_CODEC_FLAG_GLOBAL_HEADER) // mp4 keeps the parameter sets in its header
    check(await encoder.open2(codec, options), 'opening the encoder')

    check(file.allocOutputContext2(null, 'mp4', path), 'choosing mp4')
    const stream = file.newStream()
    check(stream.codecpar.fromContext(encoder), 'describing the stream')
    stream.timeBase = encoder.timeBase
    check(await file.openOutput(), 'opening the file')
    open = true
    check(await file.writeHeader(), 'writing the header')

    packet.alloc()
    for (let i = 0; i <= frames.length; i++) {
      if (i < frames.length) {
        using frame = await picture(frames[i]!, i)
        check(await encoder.sendFrame(frame), 'encoding a frame')
      } else check(await encoder.sendFrame(null), 'ending the stream')
      for (;;) {
        const code = await encoder.receivePacket(packet)
        if (code === AV.AVERROR_EAGAIN || code === AV.AVERROR_EOF) break
        check(code, 'encoding a frame')
        packet.streamIndex = stream.index
        packet.duration = 1n
        packet.rescaleTs(encoder.timeBase, stream.timeBase)
        check(await file.interleavedWriteFrame(packet), 'writing a frame')
      }
    }
    check(await file.writeTrailer(), 'writing the index')
  } finally {
    if (open) await file.closeOutput()
    file.freeContext()
    encoder.freeContext()
    options.free()
    packet.free()
  }
}

/**
 * A frame for the encoder: BT.601, limited range, as players take for granted at this size. Written into memory of the
 * frame's own: `fromVideoBuffer` would point it at a Buffer that may be collected while the encoder still reads.
 */
async function picture(rgb: Uint8Array, pts: number): Promise<Frame> {
  const { av, AV } = await loaded()
  const frame = new av.Frame()
  frame.alloc()
  frame.width = frame.height = SIZE
  frame.format = AV.AV_PIX_FMT_YUV444P
  frame.timeBase = new av.Rational(1, FPS)
  frame.pts = BigInt(pts)
  av.FFmpegError.throwIfError(frame.getBuffer(), 'a frame')
  const [luma, cb, cr] = frame.data as [Buffer, Buffer, Buffer]
  const stride = frame.linesize[0]! // 48 or more, the same in all planes
  for (let y = 0, i = 0; y < SIZE; y++) {
    for (let at = y * stride; at < y * stride + SIZE; at++, i += 3) {
      const r = rgb[i]! / 255
      const g = rgb[i + 1]! / 255
      const b = rgb[i + 2]! / 255
      luma[at] = Math.round(16 + 65.481 * r + 128.553 * g + 24.966 * b)
      cb[at] = Math.round(128 - 37.797 * r - 74.203 * g + 112 * b)
      cr[at] = Math.round(128 + 112 * r - 93.786 * g - 18.214 * b)
    }
  }
  return frame
}
