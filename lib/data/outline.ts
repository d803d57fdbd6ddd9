/**
 * Detects truncated files from the sizes of the outermost elements, in MP4, Matroska (WebM), ASF (WMV) and FLV; other
 * containers do not record them.
 */

import { open, type FileHandle } from 'node:fs/promises'

/** Random access to a file's bytes, read a window at a time; zeros after its end. */
class Window {
  private at = 0
  private bytes = Buffer.alloc(0)

  constructor(
    private readonly file: FileHandle,
    readonly size: number,
  ) {}

  async read(at: number, length: number): Promise<Buffer> {
    if (at < this.at || at + length > this.at + this.bytes.length) {
      const buffer = Buffer.alloc(1 << 16)
      await this.file.read(buffer, 0, buffer.length, at)
      this.at = at
      this.bytes = buffer
    }
    return this.bytes.subarray(at - this.at, at - this.at + length)
  }
}

/** What the outermost elements of a file say. */
export interface Outline {
  /** The file ends inside an element. */
  cut: boolean
  /** An MP4 in fragments, whose table of samples is not that of the whole. */
  fragmented: boolean
}

/** @param size bytes of the file */
export async function outline(path: string, size: number): Promise<Outline> {
  const file = await open(path)
  try {
    const window = new Window(file, size)
    const head = await window.read(0, 16)
    const text = head.toString('latin1')
    if (/^....(ftyp|styp|moov|moof|mdat|wide|free|skip)/s.test(text)) return await mp4(window)
    const cut =
      head.readUInt32BE(0) === 0x1a45dfa3
        ? matroska
        : head.toString('hex') === '3026b2758e66cf11a6d900aa0062ce6c'
          ? asf
          : text.startsWith('FLV')
            ? flv
            : undefined
    return { cut: (await cut?.(window)) ?? false, fragmented: false }
  } finally {
    await file.close()
  }
}

/** Boxes: length (32 bits, or 1 and then 64 behind the name), name. A length of 0 reaches to the end. */
async function mp4(window: Window): Promise<Outline> {
  let at = 0
  let fragmented = false
  while (at < window.size) {
    const box = await window.read(at, 16)
    const name = box.toString('latin1', 4, 8)
    if (!/^[\x20-\x7e\xa9]{4}$/.test(name)) break // not a box: appended data
    fragmented ||= name === 'moof'
    let length = box.readUInt32BE(0)
    if (length === 1) length = Number(box.readBigUInt64BE(8))
    if (length < 8) break
    at += length
  }
  return { cut: at > window.size, fragmented }
}

const [SEGMENT, CLUSTER] = [0x18538067, 0x1f43b675]

/**
 * Elements: name and length, both of as many bytes as the first one says by its leading zeros. A live recording does
 * not know the length of its segment, nor that of its clusters: then their parts are walked through.
 */
async function matroska(window: Window): Promise<boolean> {
  for (let at = 0; at < window.size; ) {
    const bytes = await window.read(at, 12)
    const idLength = Math.clz32(bytes[0]!) - 23
    if (idLength > 4) return false
    const id = bytes.readUIntBE(0, idLength)
    const lengthLength = Math.clz32(bytes[idLength]!) - 23
    if (lengthLength > 8) return at + idLength >= window.size
    let length = bytes[idLength]! & (0xff >> lengthLength)
    let unknown = length === 0xff >> lengthLength
    for (let i = 1; i < lengthLength; i++) {
      length = length * 256 + bytes[idLength + i]!
      unknown &&= bytes[idLength + i] === 0xff
    }
    at += idLength + lengthLength
    if (at > window.size) return true
    if (unknown && id !== SEGMENT && id !== CLUSTER) return false
    if (unknown) continue
    if (at + length > window.size) return true
    at += length
  }
  return false
}

/** Objects: a name of 16 bytes, a length of 64 bits; 0 while it is recorded. */
async function asf(window: Window): Promise<boolean> {
  for (let at = 0; at + 24 <= window.size; ) {
    const length = Number((await window.read(at, 24)).readBigUInt64LE(16))
    if (length < 24) return false
    at += length
    if (at > window.size) return true
  }
  return false
}

/**
 * Tags: kind (8 bits), length of the data (24), seven bytes, data; behind each its whole length, by which the last one
 * is found.
 */
async function flv(window: Window): Promise<boolean> {
  const last = (await window.read(window.size - 4, 4)).readUInt32BE(0)
  let at = window.size - 4 - last
  if (last >= 11 && at >= 13) {
    const tag = await window.read(at, 4)
    if ([8, 9, 18].includes(tag[0]! & 0x1f) && tag.readUIntBE(1, 3) === last - 11) return false
  }
  for (at = 13; at + 4 <= window.size; at += 4) {
    at += 11 + (await window.read(at, 4)).readUIntBE(1, 3)
    if (at === window.size) return false // without the last length
  }
  return at !== window.size
}
