/** Writes what Python would: pickles instruction by instruction, zip archives byte by byte, and files of torch. */
import { crc32, deflateRawSync } from 'node:zlib'
import type { TensorData } from '../../lib/files/safetensors.js'

type Part = Uint8Array | number | string

/** Bytes of instructions: numbers are bytes, strings their Latin-1. */
export const code = (...parts: Part[]): Buffer =>
  Buffer.concat(
    parts.map((p) => (typeof p === 'number' ? Buffer.of(p) : typeof p === 'string' ? Buffer.from(p, 'latin1') : p)),
  )
const u16 = (n: number): Buffer => {
  const b = Buffer.alloc(2)
  b.writeUInt16LE(n)
  return b
}
export const u32 = (n: number): Buffer => {
  const b = Buffer.alloc(4)
  b.writeUInt32LE(n)
  return b
}
export const u64 = (n: number): Buffer => {
  const b = Buffer.alloc(8)
  b.writeBigInt64LE(BigInt(n))
  return b
}

/** A pickle of protocol 2 (or another) around instructions. */
export const pickle = (body: Part, protocol = 2): Buffer => code(0x80, protocol, body, '.')
export const str = (text: string): Buffer => code('X', u32(Buffer.byteLength(text)), Buffer.from(text, 'utf8'))
export const int = (n: number): Buffer => (n >= 0 && n < 256 ? code('K', n) : code('J', u32(n >>> 0)))
export const global = (module: string, name: string): Buffer => code('c', module, '\n', name, '\n')
export const tuple = (...items: Part[]): Buffer => code('(', ...items, 't')
export const call = (callee: Part, ...args: Part[]): Buffer => code(callee, tuple(...args), 'R')
export const list = (...items: Part[]): Buffer => code(']', '(', ...items, 'e')
export const dict = (...items: Part[]): Buffer => code('}', '(', ...items, 'u')
export const ordered = (...items: Part[]): Buffer =>
  code(global('collections', 'OrderedDict'), ')', 'R', '(', ...items, 'u')

const CLASSES: Partial<Record<TensorData['dtype'], string>> = {
  F32: 'Float',
  F16: 'Half',
  BF16: 'BFloat16',
  F64: 'Double',
  I64: 'Long',
  I32: 'Int',
  U8: 'Byte',
  BOOL: 'Bool',
}

export interface StorageOptions {
  type?: string
  size?: number
  more?: Part
}
/** The persistent id of a storage. */
export const storage = (key: string, { type = 'Float', size = 4, more = '' }: StorageOptions = {}): Buffer =>
  code(tuple(str('storage'), global('torch', `${type}Storage`), str(key), str('cpu'), int(size), more), 'Q')

/** A tensor over a storage; the arguments of torch's _rebuild_tensor_v2. */
export const rebuilt = (
  of: Part,
  shape: Part,
  strides: Part,
  { offset = int(0), hooks = ordered() as Part } = {},
): Buffer => call(global('torch._utils', '_rebuild_tensor_v2'), of, offset, shape, strides, '\x89', hooks)

const strides = (shape: readonly number[]): number[] =>
  shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1))
function bytesOf({ data, shape, turned }: Stored): Buffer {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  if (!turned) return bytes
  const [rows, columns] = shape as [number, number]
  const width = bytes.length / (rows * columns)
  const at = (r: number, c: number): Buffer => bytes.subarray((r * columns + c) * width, (r * columns + c + 1) * width)
  return Buffer.concat(Array.from({ length: rows * columns }, (_, i) => at(i % rows, Math.floor(i / rows))))
}

/** A matrix whose columns lie behind each other in its storage. */
export type Stored = TensorData & { turned?: boolean }

/** The state dict of tensors, each in a storage of its own, named by its number. */
const stateDict = (tensors: readonly Stored[]): Buffer =>
  ordered(
    ...tensors.flatMap(({ name, dtype, shape, turned }, i) => [
      str(name),
      rebuilt(
        storage(String(i), { type: CLASSES[dtype]!, size: shape.reduce((a, b) => a * b, 1) }),
        tuple(...shape.map(int)),
        tuple(...(turned ? [1, shape[0]!] : strides(shape)).map(int)),
      ),
    ]),
  )

/** As `torch.save(state_dict, path)` writes it; `wrap` puts the state dict below a key, as training programs do. */
export function torchZip(tensors: readonly Stored[], wrap?: string): Buffer {
  const state = stateDict(tensors)
  return zip([
    {
      name: 'archive/data.pkl',
      data: pickle(wrap === undefined ? state : dict(str(wrap), state, str('epoch'), int(3))),
    },
    { name: 'archive/byteorder', data: Buffer.from('little') },
    ...tensors.map((t, i) => ({ name: `archive/data/${i}`, data: bytesOf(t), align: 64 })),
    { name: 'archive/version', data: Buffer.from('3\n') },
  ])
}

/** The first pickles of the older form. */
export const oldHead = (): Buffer =>
  code(
    pickle(code(0x8a, 10, Buffer.from('6cfc9c46f9206aa85019', 'hex'))),
    pickle(int(1001)),
    pickle(dict(str('protocol_version'), int(1001), str('little_endian'), '\x88')),
  )

/** As torch before 1.6 writes it. */
export const torchOld = (tensors: readonly Stored[]): Buffer =>
  code(
    oldHead(),
    pickle(stateDict(tensors)),
    pickle(list(...tensors.map((_, i) => str(String(i))))),
    ...tensors.flatMap((t) => [u64(t.shape.reduce((a, b) => a * b, 1)), bytesOf(t)]),
  )

/** A file of an archive. What is given beside name and data is written in place of what is true. */
export interface ZipPart {
  name: string
  data: Uint8Array
  deflate?: boolean
  /** Its data begins at a multiple of so many bytes. */
  align?: number
  crc?: number
  size?: number
  packed?: number
  method?: number
  flags?: number
  /** In the local header alone. */
  localName?: string
  localSize?: number
  /** Where the directory says that its local header is; the header itself is written all the same. */
  at?: number
  /** Not written, only listed. */
  ghost?: boolean
}

export interface ZipOptions {
  before?: Uint8Array
  count?: number
  disk?: number
  begin?: number
  comment?: Uint8Array
}

export function zip(parts: readonly ZipPart[], { before = Buffer.alloc(0), ...end }: ZipOptions = {}): Buffer {
  const out: Uint8Array[] = [before]
  let at = before.length
  const write = (...bytes: Uint8Array[]): void => {
    for (const b of bytes) out.push(b), (at += b.length)
  }
  const lines: Buffer[] = []
  for (const part of parts) {
    const { name, data, deflate = false, align = 1, flags = 0x800 } = part
    const body = deflate ? deflateRawSync(data) : data
    const [crc, size, packed] = [part.crc ?? crc32(data), part.size ?? data.length, part.packed ?? body.length]
    const method = part.method ?? (deflate ? 8 : 0)
    const local = Buffer.from(part.localName ?? name)
    const pad = (align - ((at + 30 + local.length + 4) % align)) % align
    const extra = align > 1 ? code('FB', u16(pad), Buffer.alloc(pad, 'Z')) : Buffer.alloc(0)
    const begin = part.at ?? at
    const fields = (n: number): Buffer =>
      code(u16(20), u16(flags), u16(method), u32(0), u32(crc), u32(packed), u32(n), u16(local.length))
    if (!part.ghost) write(code('PK\x03\x04', fields(part.localSize ?? size), u16(extra.length), local, extra), body)
    lines.push(
      code('PK\x01\x02', u16(20), u16(20), u16(flags), u16(method), u32(0), u32(crc), u32(packed), u32(size)),
      code(u16(Buffer.byteLength(name)), u16(0), u16(0), u16(0), u16(0), u32(0), u32(begin), name),
    )
  }
  const begin = at
  write(...lines)
  const count = end.count ?? parts.length
  const comment = end.comment ?? Buffer.alloc(0)
  write(
    code('PK\x05\x06', u16(end.disk ?? 0), u16(0), u16(count), u16(count), u32(at - begin), u32(end.begin ?? begin)),
    code(u16(comment.length), comment),
  )
  return Buffer.concat(out)
}
