/** Frames as pictures that a page can hold. */
import type { Rgb } from './picture.js'

/**
 * A picture as a data: URL, with at most `most` pixels a side. Small ones are PNG, pixel for pixel, others JPEG.
 */
export async function pictureUrl({ data, width, height }: Rgb, most = Infinity): Promise<string> {
  const { default: sharp } = await import('sharp')
  const side = Math.max(width, height)
  const whole = sharp(data, { raw: { width, height, channels: 3 } })
  const picture = side > most ? whole.resize({ [width >= height ? 'width' : 'height']: most }) : whole
  const [type, bytes] =
    width * height < 128 * 128
      ? ['png', await picture.png().toBuffer()]
      : ['jpeg', await picture.jpeg({ quality: 85 }).toBuffer()]
  return `data:image/${type};base64,${bytes.toString('base64')}`
}
