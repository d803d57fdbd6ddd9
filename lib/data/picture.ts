/** A decoded frame as RGB: colours by the stream's own matrix and range, oriented as a player shows it. */

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
   * Where the stream does not name its matrix, BT.601 is taken, as FFmpeg and the readers built on it do; where it
   * names no range, the limited one. High dynamic range is not tone-mapped. Of two interlaced fields, the one that is
   * shown first makes the picture. Transparency is on black.
   */
  async toRgb(frame: Frame, stream: Stream, path: string): Promise<Rgb> {
    const { width, height } = frame
    const whole = frame.hasFlags(AV.AV_FRAME_FLAG_INTERLACED) ? await firstField(frame) : undefined
    const source = whole ?? frame
    const out = new lib.Frame()
    out.alloc()
    try {
      const [rgb24, rgba] = [AV.AV_PIX_FMT_RGB24, AV.AV_PIX_FMT_RGBA]
      // RGBA is the nearer of the two for a format with an alpha channel alone.
      const format =
        lib.avcodecFindBestPixFmtOfList([rgb24, rgba], frame.format as typeof rgb24) === rgba ? rgba : rgb24
      // The converter refuses a target that differs from its source in anything but format, matrix and range.
      let code = out.copyProps(source)
      Object.assign(out, { width, height, format, colorSpace: AV.AVCOL_SPC_RGB, colorRange: AV.AVCOL_RANGE_JPEG })
      if (code >= 0) code = out.getBuffer()
      if (code >= 0) code = await this.scaler.scaleFrame(out, source)
      if (code < 0)
        throw invalid(path, 'pixels that can be converted to RGB', new Error(lib.FFmpegError.strerror(code)))
      const pixels = new Uint8Array(out.toBuffer())
      const straight = format === rgba && frame.alphaMode !== AV.AVALPHA_MODE_PREMULTIPLIED
      const rgb = format === rgba ? await onBlack(pixels, width, height, straight) : { data: pixels, width, height }
      const matrix =
        frame.getSideData(AV.AV_FRAME_DATA_DISPLAYMATRIX) ??
        stream.codecpar.getCodedSideData(AV.AV_PKT_DATA_DISPLAYMATRIX)
      return turn(rgb, matrix)
    } finally {
      out.free()
      whole?.free()
    }
  }

  close(): void {
    this.scaler.freeContext()
  }
}

/**
 * An interlaced frame is two moments, line by line. This keeps the lines of the first one and interpolates the others
 * along edges (FFmpeg's estdif, which looks at no other frame: the picture does not depend on how the file was read).
 * Undefined where the filter does not accept the pixel format; the fields then stay interlaced.
 */
async function firstField(frame: Frame): Promise<Frame | undefined> {
  const graph = new lib.FilterGraph()
  graph.alloc()
  graph.nbThreads = 1
  const out = new lib.Frame()
  out.alloc()
  try {
    const size = `video_size=${frame.width}x${frame.height}:pix_fmt=${frame.format}:time_base=1/25`
    const colours = `colorspace=${frame.colorSpace}:range=${frame.colorRange}`
    const [source, filter, sink] = [
      graph.createFilter(lib.Filter.getByName('buffer')!, 'in', `${size}:${colours}`),
      graph.createFilter(lib.Filter.getByName('estdif')!, 'field', 'mode=frame:deint=interlaced'),
      graph.createFilter(lib.Filter.getByName('buffersink')!, 'out', null),
    ]
    let code = source && filter && sink ? Math.min(source.link(0, filter, 0), filter.link(0, sink, 0)) : -1
    if (code >= 0) code = await graph.config()
    if (code < 0 || graph.nbFilters !== 3) throw undefined // a fourth one would convert the pixels
    if (code >= 0) code = await source!.buffersrcAddFrame(frame, AV.AV_BUFFERSRC_FLAG_KEEP_REF)
    if (code >= 0) code = await source!.buffersrcAddFrame(null)
    if (code >= 0) code = await sink!.buffersinkGetFrame(out)
    if (code < 0) throw undefined
    return out
  } catch (error) {
    out.free()
    if (error === undefined) return undefined
    throw error
  } finally {
    graph.free()
  }
}

/**
 * Blends pixels with alpha onto black: `data` is RGBA, 8 bits.
 * @param straight false where the colours are multiplied by alpha already
 */
export async function onBlack(data: Uint8Array, width: number, height: number, straight = true): Promise<Rgb> {
  const { default: sharp } = await import('sharp')
  const image = sharp(data, { raw: { width, height, channels: 4 } })
  const flat = straight ? image.flatten({ background: '#000' }) : image.removeAlpha()
  return { data: new Uint8Array(await flat.raw().toBuffer()), width, height }
}

/**
 * Applies a display matrix: nine int32, of which a, b, c, d (16.16) send the point (x, y) to (ax + cy, bx + dy). It is
 * a hint: its nearest quarter turn or mirroring is taken, whatever its scale; a matrix without area says nothing.
 */
function turn(rgb: Rgb, matrix: Buffer | null): Rgb {
  if (!matrix || matrix.length < 36) return rgb
  const [a0, b0, c0, d0] = [0, 4, 12, 16].map((at) => matrix.readInt32LE(at)) as [number, number, number, number]
  if (a0 * d0 === b0 * c0) return rgb
  const upright = Math.abs(a0 * d0) >= Math.abs(b0 * c0)
  const [a, b, c, d] = upright ? [Math.sign(a0), 0, 0, Math.sign(d0)] : [0, Math.sign(b0), Math.sign(c0), 0]
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
