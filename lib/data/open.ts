/** Opens a video file with FFmpeg: the stream of its pictures, and their decoder. */
import type { FormatContext, Stream } from 'node-av/lib'
import { AV, lib } from './ffmpeg.js'
import { notAVideo, unopened } from './reject.js'

/** Whether this kind of container may begin its clock anew. */
export const restarts = (format: FormatContext): boolean => Boolean(format.iformat!.flags & AV.AVFMT_TS_DISCONT)

/**
 * Opens the file into `format`, which the caller closes, and returns the stream of pictures; packets of other streams
 * are not read, unless joined files may number their streams differently.
 * @throws InputError if the file is not a video
 */
export async function openPictures(path: string, format: FormatContext): Promise<Stream> {
  // a playlist must not open network addresses
  const options = lib.Dictionary.fromObject({ protocol_whitelist: 'file' })
  const code = await format.openInput(`file:${path}`, null, options)
  options.free()
  if (code < 0) throw await unopened(path, lib.FFmpegError.strerror(code))
  const name = format.iformat?.name ?? ''
  if (name === 'tty') throw notAVideo(path, 'a text')
  if (/_pipe$|^image2|^ico$/.test(name))
    throw notAVideo(path, 'a still image', 'put it into a folder and name that, with fps')
  const found = await format.findStreamInfo()
  const index = found < 0 ? found : format.findBestStream(AV.AVMEDIA_TYPE_VIDEO)
  const stream = format.streams.find((s) => s.index === index)
  if (!stream || stream.disposition & AV.AV_DISPOSITION_ATTACHED_PIC) {
    const sound = format.streams.some((s) => s.codecpar.codecType === AV.AVMEDIA_TYPE_AUDIO)
    throw notAVideo(path, sound ? 'sound without pictures' : 'a file without a video stream')
  }
  for (const other of format.streams) {
    const film = restarts(format) && other.codecpar.codecType === AV.AVMEDIA_TYPE_VIDEO
    if (other.index !== index && !film) other.discard = AV.AVDISCARD_ALL
  }
  return stream
}

/**
 * The decoder of a stream. FFmpeg's own VP8 and VP9 decoders ignore the alpha channel, which WebM stores beside the
 * pictures.
 * @throws InputError if this FFmpeg has none
 */
export function decoderOf(path: string, stream: Stream): NonNullable<ReturnType<typeof lib.Codec.findDecoder>> {
  const { codecId } = stream.codecpar
  const withAlpha =
    codecId === AV.AV_CODEC_ID_VP8
      ? AV.FF_DECODER_LIBVPX_VP8
      : codecId === AV.AV_CODEC_ID_VP9
        ? AV.FF_DECODER_LIBVPX_VP9
        : undefined
  const named = withAlpha && stream.metadata?.get('alpha_mode') === '1' ? lib.Codec.findDecoderByName(withAlpha) : null
  const codec = named ?? lib.Codec.findDecoder(codecId)
  if (!codec) throw notAVideo(path, `${lib.avGetCodecName(codecId)} video, which this FFmpeg cannot decode`)
  return codec
}
