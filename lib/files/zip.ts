/**
 * Reads zip archives strictly: every entry lies in the file once, between its local header and the central directory,
 * under a plain relative name. What two readers could understand differently is refused.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { promisify } from 'node:util'
import { crc32, inflateRaw } from 'node:zlib'
import { InputError, show } from '../errors.js'
import { unreadable } from './text.js'

/** A file of an archive. */
export interface ZipEntry {
  /** As it is, or compressed. */
  method: 'stored' | 'deflated'
  /** Bytes of the file, and of what the archive holds of it. */
  size: number
  packed: number
  crc: number
  /** Absolute offset of its bytes in the archive. */
  begin: number
}

/** The checked directory of an archive. */
export interface Zip {
  path: string
  /** Bytes of the archive. */
  size: number
  /** By name, in the order of the directory. */
  entries: Map<string, ZipEntry>
}

/** Most files of an archive. */
const MAX_ENTRIES = 100_000
/** Most bytes of a directory. */
const MAX_DIRECTORY = 1 << 26
/** Bytes that are read at one time where only their checksum is wanted. */
const CHUNK = 1 << 23

const [LOCAL, CENTRAL, END, END64, LOCATOR64] = [0x04034b50, 0x02014b50, 0x06054b50, 0x06064b50, 0x07064b50]
/** Flags that say how hard was compressed, that sizes follow the data, and that names are UTF-8. */
const FLAGS = 0b1000_0000_1110
const SIZES_FOLLOW = 0b1000

/** Whether a file with this beginning is an archive with at least one file. */
export const isZip = (head: Uint8Array): boolean =>
  head.length >= 4 && head[0] === 0x50 && head[1] === 0x4b && head[2] === 3 && head[3] === 4

const refused = (path: string, what: string): InputError =>
  new InputError(`${path}: not a usable zip archive: ${what}; it may be damaged, or made to mislead.`)

/**
 * Reads and checks the directory of an archive; no file of it is read.
 *
 * @throws InputError for entries that overlap, lie outside, have doubtful names, are encrypted, or differ from their
 *   local headers
 */
export async function openZip(path: string): Promise<Zip> {
  return withFile(path, async (file) => {
    const status = await file.stat()
    if (!status.isFile()) throw new InputError(`${path}: expected a zip archive, but it is a folder or a device.`)
    const { size } = status
    const { begin, bytes, count } = await directory(path, file, size)
    const entries = new Map<string, ZipEntry>()
    const extents: [begin: number, end: number, name: string][] = []
    let at = 0
    for (let i = 0; i < count; i++) {
      const { name, next, local, flags, ...entry } = central(path, bytes, at, i)
      at = next
      if (entries.has(name)) throw refused(path, `the name ${show(name)} is there twice`)
      const data = await localHeader(path, file, begin, { name, flags, local, ...entry })
      extents.push([local, data + entry.packed, name])
      entries.set(name, { ...entry, begin: data })
    }
    if (at !== bytes.length) throw refused(path, `${bytes.length - at} bytes of its directory belong to no file`)
    extents.sort(([a], [b]) => a - b)
    for (const [i, [, end, name]] of extents.entries()) {
      const [next, , other] = extents[i + 1] ?? [begin, begin, 'the directory']
      if (end > next) throw refused(path, `${show(name)} overlaps ${other} by ${end - next} bytes`)
    }
    return { path, size, entries }
  })
}

/**
 * The bytes of a file of the archive.
 *
 * @param most bytes that it may have
 * @throws InputError where there is none of that name, it is larger, or its bytes or checksum are not as stated
 */
export async function readZip(zip: Zip, name: string, most: number): Promise<Uint8Array<ArrayBuffer>> {
  const { path } = zip
  const entry = entryOf(zip, name)
  const { size, packed, method, begin, crc } = entry
  if (size > most) throw refused(path, `${show(name)} has ${size} bytes, and at most ${most} are read`)
  if (packed > most) throw refused(path, `${show(name)} takes ${packed} bytes, and at most ${most} are read`)
  const stored = await withFile(path, (file) => readAt(path, file, begin, packed))
  let bytes = stored
  if (method === 'deflated') {
    try {
      // One byte more than is stated, so that a longer one is noticed and a bomb is not unpacked.
      bytes = Uint8Array.from(await promisify(inflateRaw)(stored, { maxOutputLength: size + 1 }))
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      const longer = code === 'ERR_BUFFER_TOO_LARGE'
      throw refused(
        path,
        `${show(name)} ${longer ? `unpacks to more than its ${size} bytes` : `cannot be unpacked (${message})`}`,
      )
    }
  }
  if (bytes.length !== size) throw refused(path, `${show(name)} has ${bytes.length} bytes, and ${size} are stated`)
  if (crc32(bytes) !== crc) throw wrongSum(path, name)
  return bytes
}

/** Compares the checksums of stored files with their bytes, piece by piece. Throws where one differs. */
export async function checkSums(zip: Zip, names: Iterable<string>): Promise<void> {
  const { path } = zip
  await withFile(path, async (file) => {
    for (const name of names) {
      const { begin, size, method, crc } = entryOf(zip, name)
      if (method !== 'stored') throw refused(path, `${show(name)} is compressed`)
      let sum = 0
      for (let at = 0; at < size; at += CHUNK)
        sum = crc32(await readAt(path, file, begin + at, Math.min(CHUNK, size - at)), sum)
      if (sum !== crc) throw wrongSum(path, name)
    }
  })
}

const wrongSum = (path: string, name: string): InputError =>
  refused(path, `the bytes of ${show(name)} do not have its checksum`)

function entryOf({ path, entries }: Zip, name: string): ZipEntry {
  const entry = entries.get(name)
  if (!entry) throw refused(path, `it holds no ${show(name)}`)
  return entry
}

// ----------------------------------------------------------------------------------------------------------- directory

/** The bytes of the central directory, where they begin, and how many files it lists. */
async function directory(
  path: string,
  file: FileHandle,
  size: number,
): Promise<{ begin: number; bytes: Buffer; count: number }> {
  const tail = await readBuffer(path, file, Math.max(0, size - 22 - 0xffff), Math.min(size, 22 + 0xffff))
  // The end record is the one whose comment ends where the file does.
  let found = -1
  for (let i = tail.length - 22; i >= 0; i--) {
    if (tail.readUInt32LE(i) !== END) continue
    if (i + 22 + tail.readUInt16LE(i + 20) !== tail.length) continue
    if (found >= 0) throw refused(path, 'it has two ends')
    found = i
  }
  if (found < 0) throw refused(path, 'it has no end record; it may be truncated')
  const end = size - tail.length + found
  let stop = end
  let [count, length, begin] = [
    tail.readUInt16LE(found + 10),
    tail.readUInt32LE(found + 12),
    tail.readUInt32LE(found + 16),
  ]
  let disks = [tail.readUInt16LE(found + 4), tail.readUInt16LE(found + 6)]
  let here = tail.readUInt16LE(found + 8)
  const locator = end >= 20 ? await readBuffer(path, file, end - 20, 20) : undefined
  if (locator?.readUInt32LE(0) === LOCATOR64) {
    stop = number(path, locator.readBigUInt64LE(8))
    if (stop + 56 > end - 20) throw refused(path, 'its end record of 64 bits lies elsewhere')
    const record = await readBuffer(path, file, stop, 56)
    if (record.readUInt32LE(0) !== END64 || number(path, record.readBigUInt64LE(4)) + 12 !== end - 20 - stop)
      throw refused(path, 'its end record of 64 bits is not there')
    disks = [record.readUInt32LE(16), record.readUInt32LE(20), locator.readUInt32LE(4)]
    here = number(path, record.readBigUInt64LE(24))
    count = number(path, record.readBigUInt64LE(32))
    length = number(path, record.readBigUInt64LE(40))
    begin = number(path, record.readBigUInt64LE(48))
  } else if (count === 0xffff || length === 0xffffffff || begin === 0xffffffff)
    throw refused(path, 'its end record of 64 bits is missing')
  if (disks.some(Boolean) || here !== count) throw refused(path, 'it is one of several parts')
  if (count > MAX_ENTRIES) throw refused(path, `it lists ${count} files, and at most ${MAX_ENTRIES} are read`)
  if (length > MAX_DIRECTORY)
    throw refused(path, `its directory has ${length} bytes, and at most ${MAX_DIRECTORY} are read`)
  if (begin + length !== stop) throw refused(path, 'its directory does not end where its end record begins')
  return { begin, bytes: await readBuffer(path, file, begin, length), count }
}

/** A line of the directory: an entry whose data has not been found yet. */
interface Listed extends Omit<ZipEntry, 'begin'> {
  name: string
  flags: number
  /** Absolute offset of the local header. */
  local: number
}

function central(path: string, bytes: Buffer, at: number, i: number): Listed & { next: number } {
  if (at + 46 > bytes.length || bytes.readUInt32LE(at) !== CENTRAL)
    throw refused(path, `line ${i + 1} of its directory is not there`)
  const [flags, how, crc] = [bytes.readUInt16LE(at + 8), bytes.readUInt16LE(at + 10), bytes.readUInt32LE(at + 16)]
  let [packed, size, local] = [bytes.readUInt32LE(at + 20), bytes.readUInt32LE(at + 24), bytes.readUInt32LE(at + 42)]
  const [n, extra, comment] = [28, 30, 32].map((k) => bytes.readUInt16LE(at + k)) as [number, number, number]
  const next = at + 46 + n + extra + comment
  if (next > bytes.length) throw refused(path, `line ${i + 1} of its directory is not whole`)
  const name = nameOf(path, bytes.subarray(at + 46, at + 46 + n))
  const wide = [size, packed, local].includes(0xffffffff)
    ? wideFields(path, name, bytes.subarray(at + 46 + n, at + 46 + n + extra))
    : []
  const take = (narrow: number): number => {
    if (narrow !== 0xffffffff) return narrow
    const value = wide.shift()
    if (value === undefined) throw refused(path, `${show(name)} lacks its sizes of 64 bits`)
    return value
  }
  ;[size, packed, local] = [take(size), take(packed), take(local)]
  if (bytes.readUInt16LE(at + 34) !== 0) throw refused(path, `${show(name)} is in another part of the archive`)
  if (flags & ~FLAGS) throw refused(path, `${show(name)} is encrypted or has unknown flags (0x${flags.toString(16)})`)
  if (how !== 0 && how !== 8)
    throw refused(path, `${show(name)} is compressed by method ${how}, expected 0 (stored) or 8 (deflated)`)
  if (how === 0 && size !== packed) throw refused(path, `${show(name)} is stored as it is, and has two sizes`)
  return { name, flags, method: how === 0 ? 'stored' : 'deflated', size, packed, crc, local, next }
}

/** Checks the local header of an entry against the directory; where its data begins. */
async function localHeader(path: string, file: FileHandle, stop: number, listed: Listed): Promise<number> {
  const { name, flags, local, method, size, packed, crc } = listed
  const bad = (what: string): InputError => refused(path, `the local header of ${show(name)} ${what}`)
  if (local + 30 > stop) throw bad('lies outside of the files')
  const head = await readBuffer(path, file, local, 30)
  if (head.readUInt32LE(0) !== LOCAL) throw bad('is not there')
  const [n, extra] = [head.readUInt16LE(26), head.readUInt16LE(28)]
  const begin = local + 30 + n + extra
  if (begin + packed > stop) throw bad('leads outside of the files')
  const rest = await readBuffer(path, file, local + 30, n + extra)
  if (nameOf(path, rest.subarray(0, n)) !== name)
    throw bad(`has the name ${show(rest.subarray(0, n).toString('utf8'))}`)
  if (head.readUInt16LE(6) !== flags || head.readUInt16LE(8) !== (method === 'stored' ? 0 : 8))
    throw bad('has other flags or another method')
  const [sum, narrow, full] = [head.readUInt32LE(14), head.readUInt32LE(18), head.readUInt32LE(22)]
  if (flags & SIZES_FOLLOW && sum === 0 && narrow === 0 && full === 0) return begin
  const wide = full === 0xffffffff || narrow === 0xffffffff ? wideFields(path, name, rest.subarray(n)) : []
  const sizes = [full, narrow].map((value) => (value === 0xffffffff ? wide.shift() : value))
  // Where sizes follow the data, some writers leave those of 64 bits open.
  const follow = flags & SIZES_FOLLOW && sum === 0
  if (!follow && (sum !== crc || sizes[0] !== size || sizes[1] !== packed)) throw bad('has another size or checksum')
  return begin
}

/** The numbers of the extra field for sizes and offsets of 64 bits. */
function wideFields(path: string, name: string, extra: Buffer): number[] {
  for (let at = 0; at + 4 <= extra.length; ) {
    const [id, length] = [extra.readUInt16LE(at), extra.readUInt16LE(at + 2)]
    if (at + 4 + length > extra.length) break
    if (id === 1)
      return Array.from({ length: Math.floor(length / 8) }, (_, k) =>
        number(path, extra.readBigUInt64LE(at + 4 + 8 * k)),
      )
    at += 4 + length
  }
  throw refused(path, `${show(name)} lacks its sizes of 64 bits`)
}

/** A plain relative name: neither absolute, nor with `..`, nor with separators of another system. */
function nameOf(path: string, bytes: Uint8Array): string {
  let name: string
  try {
    name = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw refused(path, 'a name is not UTF-8')
  }
  const parts = name.split('/')
  // biome-ignore lint/suspicious/noControlCharactersInRegex: names with them are what is refused
  if (/[\0-\x1f\\:]/.test(name) || parts.some((part) => part === '' || part === '.' || part === '..'))
    throw refused(path, `the name ${show(name)} is not a plain relative path`)
  return name
}

// --------------------------------------------------------------------------------------------------------------- bytes

const number = (path: string, value: bigint): number => {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw refused(path, `it states ${value} bytes`)
  return Number(value)
}

async function withFile<T>(path: string, body: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    throw unreadable(path, error)
  }
  try {
    return await body(file)
  } finally {
    await file.close()
  }
}

async function readAt(path: string, file: FileHandle, from: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; ) {
    const { bytesRead } = await file.read(bytes, at, Math.min(1 << 30, length - at), from + at)
    if (bytesRead === 0) throw refused(path, `it ends at byte ${from + at}`)
    at += bytesRead
  }
  return bytes
}

const readBuffer = async (path: string, file: FileHandle, from: number, length: number): Promise<Buffer> =>
  Buffer.from((await readAt(path, file, from, length)).buffer)
