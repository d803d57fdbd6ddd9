/**
 * Reads and writes safetensors files: u64 header length, JSON header, raw little-endian data. Reading is strict: a file
 * that breaks the format in any way is refused with one sentence that says how. Tensor bytes stay on disk until they
 * are read; native code gets absolute offsets and maps the file itself.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { InputError, invalid, show } from '../errors.js'
import { writeAtomically, type FileSystem } from './atomic.js'
import { pointerIn, POINTER_BYTES, unreadable } from './text.js'
import { parseJson } from './json.js'
import { offsets, roundUp, sizeOf } from '../shape.js'

/** Bytes per element of every dtype that the format knows. */
export const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
} as const
/** An element type, as the format names it. */
export type Dtype = keyof typeof DTYPE_BYTES

/** Where a tensor lies in a file. */
export interface SafetensorsEntry {
  dtype: Dtype
  shape: number[]
  /** Absolute offsets in the file: [begin, end). */
  begin: number
  end: number
  /** Elements from one to the next along each dimension, of a tensor of torch that is not row-major. */
  strides?: readonly number[]
}

/** The checked header of a file. */
export interface SafetensorsHeader {
  path: string
  /** Bytes of the whole file. */
  size: number
  /** In the order of the header. */
  entries: Map<string, SafetensorsEntry>
  metadata: Record<string, string>
  /** Compares checksums that the file has with its bytes; throws where one differs. Absent: it has none. */
  check?: () => Promise<void>
}

/** A tensor to be written: elements in row-major order. */
export interface TensorData {
  name: string
  dtype: Dtype
  shape: readonly number[]
  data: ArrayBufferView
}
/** Or one whose elements a function gives when their turn comes. */
export type TensorSource = Omit<TensorData, 'data'> & {
  data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView>)
}

const MAX_HEADER = 100_000_000
const MAX_READ = 1 << 30

// ---------------------------------------------------------------------------------------------------------------- read

/** Reads and checks the header; no tensor data is read. */
export async function readHeader(path: string): Promise<SafetensorsHeader> {
  const file = await openForReading(path)
  try {
    const { size } = await file.stat()
    const pointer = pointerIn(await readExactly(path, file, 0, Math.min(size, POINTER_BYTES)))
    if (pointer) throw fault(path, `it is ${pointer.what}; ${pointer.remedy}`)
    if (size < 8) throw fault(path, `it has ${size} bytes, but the header length alone takes 8`)
    const start = new DataView((await readExactly(path, file, 0, 8)).buffer)
    const length = Number(start.getBigUint64(0, true))
    if (length > MAX_HEADER)
      throw fault(path, `its header claims ${length} bytes, and the format allows at most ${MAX_HEADER}`)
    if (8 + length > size)
      throw fault(
        path,
        `its header claims ${length} bytes, but the file ends after ${size}; it may be truncated, so fetch it again`,
      )
    const text = decodeText(path, await readExactly(path, file, 8, length))
    const { entries, metadata } = parseHeader(path, text, 8 + length, size)
    return { path, size, entries, metadata }
  } finally {
    await file.close()
  }
}

/** The raw bytes of one tensor in an ArrayBuffer of their own, so that any typed array can be laid over them. */
export async function readEntry(header: SafetensorsHeader, name: string): Promise<Uint8Array<ArrayBuffer>> {
  const entry = entryOf(header, name)
  const file = await openForReading(header.path)
  try {
    const bytes = await readExactly(header.path, file, entry.begin, entry.end - entry.begin)
    return entry.strides ? rowMajor(bytes, entry.shape, entry.strides, DTYPE_BYTES[entry.dtype]) : bytes
  } finally {
    await file.close()
  }
}

/** Puts strided elements of so many bytes in row-major order. */
function rowMajor(
  bytes: Uint8Array,
  shape: readonly number[],
  strides: readonly number[],
  width: number,
): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(sizeOf(shape) * width)
  let at = 0
  for (const from of offsets(shape, strides)) for (let k = 0; k < width; k++) out[at++] = bytes[from * width + k]!
  return out
}

/** One tensor widened (or, for F64, rounded) to float32. */
export async function readAsFloat32(header: SafetensorsHeader, name: string): Promise<Float32Array<ArrayBuffer>> {
  const { dtype } = entryOf(header, name)
  if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16' && dtype !== 'F64') {
    throw invalid(`${header.path}: tensor ${name}`, 'a floating-point dtype (F32, F16, BF16 or F64)', dtype)
  }
  return toFloat32(dtype, await readEntry(header, name))
}

/** Widens raw little-endian bytes to float32. */
export function toFloat32(
  dtype: 'F32' | 'F16' | 'BF16' | 'F64',
  bytes: Uint8Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  const { buffer } = bytes.byteOffset % 8 === 0 ? bytes : bytes.slice()
  const at = bytes.byteOffset % 8 === 0 ? bytes.byteOffset : 0
  const n = bytes.byteLength / DTYPE_BYTES[dtype]
  if (dtype === 'F32') return new Float32Array(buffer, at, n)
  if (dtype === 'F64') return Float32Array.from(new Float64Array(buffer, at, n))
  const half = new Uint16Array(buffer, at, n)
  const bits = new Uint32Array(n)
  if (dtype === 'BF16') for (let i = 0; i < n; i++) bits[i] = half[i]! << 16
  else for (let i = 0; i < n; i++) bits[i] = halfBits(half[i]!)
  return new Float32Array(bits.buffer)
}

/** The float32 bit pattern of a float16 one; exact, subnormals, infinities and NaN included. */
function halfBits(h: number): number {
  const sign = (h & 0x8000) << 16
  let exponent = (h >> 10) & 0x1f
  let fraction = h & 0x3ff
  if (exponent === 0x1f) return sign | 0x7f800000 | (fraction << 13)
  if (exponent === 0) {
    if (fraction === 0) return sign
    exponent = 1
    while ((fraction & 0x400) === 0) {
      fraction <<= 1
      exponent--
    }
    fraction &= 0x3ff
  }
  return sign | ((exponent + 112) << 23) | (fraction << 13)
}

function entryOf(header: SafetensorsHeader, name: string): SafetensorsEntry {
  const entry = header.entries.get(name)
  if (!entry)
    throw new InputError(
      `${header.path}: there is no tensor named ${show(name)} in this file (it holds ${header.entries.size}).`,
    )
  return entry
}

async function openForReading(path: string): Promise<FileHandle> {
  try {
    const file = await open(path, 'r')
    if ((await file.stat()).isFile()) return file
    await file.close()
    throw new InputError(`${path}: expected a safetensors file, but it is a folder or a device.`)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code !== undefined) throw unreadable(path, error)
    throw error
  }
}

async function readExactly(
  path: string,
  file: FileHandle,
  from: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length)
  let at = 0
  while (at < length) {
    const { bytesRead } = await file.read(bytes, at, Math.min(MAX_READ, length - at), from + at)
    if (bytesRead === 0)
      throw fault(
        path,
        `it ended at byte ${from + at} while bytes up to ${from + length} were being read; it has been cut since it was opened`,
      )
    at += bytesRead
  }
  return bytes
}

function fault(path: string, what: string): InputError {
  return new InputError(`${path}: not a usable safetensors file: ${what}.`)
}

// -------------------------------------------------------------------------------------------------------------- header

function decodeText(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw fault(path, 'its header is not UTF-8 text')
  }
}

function parseHeader(
  path: string,
  text: string,
  dataBegin: number,
  size: number,
): Pick<SafetensorsHeader, 'entries' | 'metadata'> {
  const json = parseJson(
    text,
    () => fault(path, `its header is not JSON (it begins with ${show(text.slice(0, 24))})`),
    (key) => fault(path, `the key ${show(key)} occurs twice in its header`),
  )
  if (!isRecord(json)) throw fault(path, `its header is not a JSON object (it begins with ${show(text.slice(0, 24))})`)

  const metadata: Record<string, string> = {}
  const entries = new Map<string, SafetensorsEntry>()
  for (const [name, value] of Object.entries(json)) {
    if (name === '__metadata__') Object.assign(metadata, parseMetadata(path, value))
    else entries.set(name, parseEntry(path, name, value, dataBegin, size))
  }
  checkLayout(path, entries, dataBegin, size)
  return { entries, metadata }
}

function parseMetadata(path: string, value: unknown): Record<string, string> {
  if (!isRecord(value) || Object.values(value).some((v) => typeof v !== 'string')) {
    throw fault(path, `__metadata__ must map names to strings, and it is ${show(value)}`)
  }
  return value as Record<string, string>
}

function parseEntry(path: string, name: string, value: unknown, dataBegin: number, size: number): SafetensorsEntry {
  const bad = (what: string) => fault(path, `tensor ${show(name)} ${what}`)
  if (!isRecord(value)) throw bad(`is described by ${show(value)} instead of an object`)
  const { dtype, shape, data_offsets: offsets } = value
  if (typeof dtype !== 'string' || !Object.hasOwn(DTYPE_BYTES, dtype)) {
    throw bad(`has the dtype ${show(dtype)}, expected one of ${Object.keys(DTYPE_BYTES).join(', ')}`)
  }
  if (!Array.isArray(shape) || !shape.every(isCount))
    throw bad(`has the shape ${show(shape)}, expected a list of whole numbers`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw bad(`has the data_offsets ${show(offsets)}, expected two whole numbers`)
  }
  const [begin, end] = offsets as [number, number]
  if (end < begin) throw bad(`ends (${end}) before it begins (${begin})`)
  if (dataBegin + end > size)
    throw bad(`reaches to byte ${dataBegin + end}, but the file has ${size} bytes; it is truncated`)
  const wanted = sizeOf(shape) * DTYPE_BYTES[dtype as Dtype]
  if (end - begin !== wanted) throw bad(`takes ${end - begin} bytes, but ${dtype} of shape [${shape}] takes ${wanted}`)
  return { dtype: dtype as Dtype, shape, begin: dataBegin + begin, end: dataBegin + end }
}

/** The format requires that tensors cover the data section exactly once. */
function checkLayout(path: string, entries: Map<string, SafetensorsEntry>, dataBegin: number, size: number): void {
  const order = [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
  let at = dataBegin
  let before = ''
  for (const [name, { begin, end }] of order) {
    if (begin < at)
      throw fault(path, `the data of ${show(name)} overlaps that of ${show(before)} by ${at - begin} bytes`)
    if (begin > at) throw fault(path, `${begin - at} bytes before the data of ${show(name)} belong to no tensor`)
    at = end
    before = name
  }
  if (at !== size) throw fault(path, `${size - at} bytes at its end belong to no tensor`)
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

// --------------------------------------------------------------------------------------------------------------- write

/**
 * Writes all tensors to a temporary file and moves it to `path` at the end. The header is padded so that the data
 * begins at a multiple of 64 bytes, and wider elements go first, so that a mapped file is aligned for every dtype.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorSource[],
  metadata: Record<string, string> = {},
  on?: FileSystem,
): Promise<void> {
  const order = [...tensors].sort((a, b) => (DTYPE_BYTES[b.dtype] ?? 0) - (DTYPE_BYTES[a.dtype] ?? 0))
  const header: Record<string, unknown> = Object.create(null)
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata
  let at = 0
  const checked = ({ name, dtype, shape }: TensorSource, data: ArrayBufferView): ArrayBufferView => {
    const wanted = sizeOf(shape) * DTYPE_BYTES[dtype]
    if (data.byteLength !== wanted)
      throw invalid(`tensor ${name}`, `${wanted} bytes for ${dtype} of shape [${shape}]`, data.byteLength)
    return data
  }
  for (const tensor of order) {
    const { name, dtype, shape, data } = tensor
    if (!Object.hasOwn(DTYPE_BYTES, dtype))
      throw invalid(`tensor ${name}`, `a dtype of ${Object.keys(DTYPE_BYTES).join(', ')}`, dtype)
    if (name === '__metadata__' || Object.hasOwn(header, name)) throw invalid('tensors', 'every name once', name)
    if (typeof data !== 'function') checked(tensor, data)
    const wanted = sizeOf(shape) * DTYPE_BYTES[dtype]
    header[name] = { dtype, shape, data_offsets: [at, (at += wanted)] }
  }
  const text = Buffer.from(JSON.stringify(header), 'utf8')
  const length = roundUp(8 + text.byteLength, 64) - 8
  const head = Buffer.alloc(8 + length, ' ')
  head.writeBigUInt64LE(BigInt(length), 0)
  text.copy(head, 8)
  await writeAtomically(
    path,
    async (sink) => {
      await sink.write(head)
      for (const tensor of order) {
        const { data: given } = tensor
        const data = typeof given === 'function' ? checked(tensor, await given()) : given
        await sink.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
      }
    },
    on,
  )
}
