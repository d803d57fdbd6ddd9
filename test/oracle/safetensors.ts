// Just enough of safetensors for the tests: everything is read into float64, and written as F32.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type NdArray, array } from './array.js'

export interface Entry extends NdArray {
  readonly dtype: string
}
export interface Tensors {
  readonly tensors: Map<string, Entry>
  readonly metadata: Record<string, string>
}

export function readSafetensors(path: string): Tensors {
  const file = readFileSync(path)
  const length = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const metadata = (header['__metadata__'] ?? {}) as unknown as Record<string, string>
  const tensors = new Map<string, Entry>()
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const [from, to] = data_offsets
    const bytes = new Uint8Array(file.subarray(8 + length + from, 8 + length + to)).buffer
    tensors.set(name, { ...array(shape, decode(dtype, bytes)), dtype })
  }
  return { tensors, metadata }
}

function decode(dtype: string, bytes: ArrayBuffer): ArrayLike<number | bigint> {
  switch (dtype) {
    case 'F64':
      return new Float64Array(bytes)
    case 'F32':
      return new Float32Array(bytes)
    case 'I64':
      return new BigInt64Array(bytes)
    case 'I32':
      return new Int32Array(bytes)
    case 'U8':
      return new Uint8Array(bytes)
    // bfloat16 is the upper half of a float32
    case 'BF16':
      return new Float32Array(Uint32Array.from(new Uint16Array(bytes), (x) => x << 16).buffer)
    default:
      throw new Error(`dtype ${dtype} is not read here`)
  }
}

/** The weights of a checkpoint folder, in one file or in shards, and its config.json. */
export function readCheckpoint(folder: string): { tensors: Map<string, NdArray>; config: Record<string, unknown> } {
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>
  const index = join(folder, 'model.safetensors.index.json')
  const files = existsSync(index)
    ? [
        ...new Set(
          Object.values((JSON.parse(readFileSync(index, 'utf8')) as { weight_map: Record<string, string> }).weight_map),
        ),
      ]
    : ['model.safetensors']
  const tensors = new Map<string, NdArray>()
  for (const file of files)
    for (const [name, tensor] of readSafetensors(join(folder, file)).tensors) tensors.set(name, tensor)
  return { tensors, config }
}

/** Writes every array as F32. */
export function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, NdArray>,
  metadata: Record<string, string> = { format: 'pt' },
): void {
  const header: Record<string, unknown> = { __metadata__: metadata }
  const blocks: Buffer[] = []
  let at = 0
  for (const [name, { shape, data }] of tensors) {
    const block = Buffer.from(Float32Array.from(data).buffer)
    header[name] = { dtype: 'F32', shape, data_offsets: [at, at + block.length] }
    blocks.push(block)
    at += block.length
  }
  let text = JSON.stringify(header)
  text += ' '.repeat((8 - (Buffer.byteLength(text) % 8)) % 8)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(text)))
  writeFileSync(path, Buffer.concat([length, Buffer.from(text), ...blocks]))
}
