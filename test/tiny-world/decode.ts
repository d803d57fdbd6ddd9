/** Reads a small video back through FFmpeg alone, so that the writer is not tested by this project's own reader. */

import * as AV from 'node-av/constants'
import * as av from 'node-av/lib'

export interface Video {
  frames: Uint8Array[] // RGB
  fps: number
  seconds: number
  codec: string
}

export function decode(path: string): Video {
  av.Log.setLevel(AV.AV_LOG_QUIET)
  const check = (code: number): void => av.FFmpegError.throwIfError(code, path)
  const file = new av.FormatContext()
  const decoder = new av.CodecContext()
  const packet = new av.Packet()
  const frame = new av.Frame()
  const scaler = new av.SoftwareScaleContext()
  const frames: Uint8Array[] = []
  const drain = (): void => {
    for (;;) {
      const code = decoder.receiveFrameSync(frame)
      if (code === AV.AVERROR_EAGAIN || code === AV.AVERROR_EOF) return
      check(code)
      const rgb = new av.Frame()
      rgb.alloc()
      Object.assign(rgb, { width: frame.width, height: frame.height, format: AV.AV_PIX_FMT_RGB24 })
      check(rgb.getBuffer())
      check(scaler.scaleFrameSync(rgb, frame))
      frames.push(new Uint8Array(rgb.toBuffer()))
      rgb.free()
    }
  }
  try {
    packet.alloc()
    frame.alloc()
    scaler.allocContext()
    check(file.openInputSync(path))
    check(file.findStreamInfoSync())
    const stream = file.streams[0]!
    const codec = av.Codec.findDecoder(stream.codecpar.codecId)!
    decoder.allocContext3(codec)
    check(decoder.parametersToContext(stream.codecpar))
    check(decoder.open2Sync(codec))
    while (file.readFrameSync(packet) >= 0) {
      check(decoder.sendPacketSync(packet))
      packet.unref()
      drain()
    }
    check(decoder.sendPacketSync(null))
    drain()
    const { timeBase, avgFrameRate, duration } = stream
    const seconds = (Number(duration) * timeBase.num) / timeBase.den
    return { frames, fps: avgFrameRate.num / avgFrameRate.den, seconds, codec: codec.name! }
  } finally {
    file.closeInputSync()
    decoder.freeContext()
    scaler.freeContext()
    packet.free()
    frame.free()
  }
}

/** Peak signal-to-noise ratio of two frames, dB. */
export function psnr(a: Uint8Array, b: Uint8Array): number {
  const error = a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0) / a.length
  return 10 * Math.log10((255 * 255) / error)
}
