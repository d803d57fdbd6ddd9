/**
 * A decoded frame as RGB: colours by the stream's own matrix and range, turned the way a player would show it.
 * See cache.ts for what this folder may import.
 */

import type { Frame, SoftwareScaleContext, Stream } from 'node-av/lib'
import { invalid } from '../errors.js'
import { AV, lib } from './ffmpeg.js'

/** One picture: RGB, 8 bits, row by row, `data.length` = 3·width·height. */
export interface Rgb {
  data: Uint8Array
  width: number
  height: number
}

/** Converts the frames of one video; free it with `close`. */
export class Painter {
  private readonly scaler: SoftwareScaleContext = new lib.SoftwareScaleContext()

  constructor() {
    this.scaler.allocContext()
    // The slow, exact paths: the same bytes on every processor, and full chroma resolution.
    this.scaler.setOption('sws_flags', 'bicubic+accurate_rnd+full_chroma_int+bitexact')
  }

  /**
   * Where the stream does not name its matrix, BT.601 is taken, as FFmpeg and the readers built on it do; where it names no
   * range, the limited one. High dynamic range is not tone-mapped.
   */
  async toRgb(frame: Frame, stream: Stream, path: string): Promise<Rgb> {
    const { width, height } = frame
    const rgb = new lib.Frame()
    rgb.alloc()
    try {
      Object.assign(rgb, { width, height, format: AV.AV_PIX_FMT_RGB24 })
      Object.assign(rgb, { colorSpace: AV.AVCOL_SPC_RGB, colorRange: AV.AVCOL_RANGE_JPEG })
      Object.assign(rgb, { colorPrimaries: frame.colorPrimaries, colorTrc: frame.colorTrc })
      let code = rgb.getBuffer()
      if (code >= 0) code = await this.scaler.scaleFrame(rgb, frame)
      if (code < 0) throw invalid(path, 'pixels that can be converted to RGB', new Error(lib.FFmpegError.strerror(code)))
      const matrix = frame.getSideData(AV.AV_FRAME_DATA_DISPLAYMATRIX) ?? stream.codecpar.getCodedSideData(AV.AV_PKT_DATA_DISPLAYMATRIX)
      return turn({ data: new Uint8Array(rgb.toBuffer()), width, height }, matrix, path)
    } finally {
      rgb.free()
    }
  }

  close(): void {
    this.scaler.freeContext()
  }
}

/**
 * Applies a display matrix: nine int32, of which a, b, c, d (16.16) send the point (x, y) to (ax + cy, bx + dy); quarter
 * turns and mirrorings, since other angles would leave corners empty.
 */
function turn(rgb: Rgb, matrix: Buffer | null, path: string): Rgb {
  if (!matrix || matrix.length < 36) return rgb
  const [a, b, c, d] = [0, 4, 12, 16].map((at) => Math.round(matrix.readInt32LE(at) / 65536)) as [number, number, number, number]
  if (Math.abs(a * d - b * c) !== 1 || a * b !== 0) throw invalid(path, 'a picture turned by 90, 180 or 270 degrees', [a, b, c, d])
  if (a === 1 && d === 1) return rgb
  const { width: w, height: h, data } = rgb
  const [width, height] = b ? [h, w] : [w, h]
  const out = new Uint8Array(data.length)
  const [x0, y0] = [a + c < 0 ? width - 1 : 0, b + d < 0 ? height - 1 : 0] // where the point (0, 0) goes
  for (let y = 0, from = 0; y < h; y++) {
    let to = 3 * ((y0 + d * y) * width + x0 + c * y)
    const step = 3 * (b * width + a)
    for (let x = 0; x < w; x++, from += 3, to += step) {
      out[to] = data[from]!
      out[to + 1] = data[from + 1]!
      out[to + 2] = data[from + 2]!
    }
  }
  return { data: out, width, height }
}
