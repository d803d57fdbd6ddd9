/**
 * Reads what `torch.save` wrote, as files of tensors: `pytorch_model.bin`, `.pth`, `.pt`. Both forms: a zip archive
 * (torch 1.6 and later), and before that pickles with the storages behind them. Nothing of a file is executed
 * (pickle.ts). Tensors stay where they are: the header gives their absolute offsets, as that of a safetensors file.
 */
import { open } from 'node:fs/promises'
import { InputError, show } from '../errors.js'
import { sizeOf } from '../shape.js'
import { TorchTensor, unpickle, type PickleValue, type TorchStorage } from './pickle.js'
import { DTYPE_BYTES, type SafetensorsEntry, type SafetensorsHeader } from './safetensors.js'
import { pointerIn, POINTER_BYTES, unreadable } from './text.js'
import { checkSums, isZip, openZip, readZip, type Zip } from './zip.js'

/** The first value of the older form. */
const MAGIC = 0x1950a86a20f9469cfc6cn
const PROTOCOL = 1001
/** Keys of a training checkpoint under which its state dict lies. */
const WRAPPERS = ['model', 'state_dict'] as const
/** Most bytes of the pickle: names and shapes alone. */
const MAX_PICKLE = 2 ** 26

/** Where the bytes of a storage begin. */
type Places = (storage: TorchStorage) => number

const fault = (path: string, what: string): InputError =>
  new InputError(`${path}: not a usable file of torch: ${what}.`)

/**
 * The tensors of a file that `torch.save` wrote: of a state dict, or of the one under `model` or `state_dict`, as
 * training programs write it. Optimizer and configuration beside it are not looked at.
 *
 * @throws InputError that names what was refused: other classes and functions, sizes that do not fit, archives that
 *   are damaged or made to mislead
 */
export async function readTorch(path: string): Promise<SafetensorsHeader> {
  const { head, size } = await beginning(path, POINTER_BYTES)
  const pointer = pointerIn(head)
  if (pointer) throw new InputError(`${path}: is ${pointer.what}; ${pointer.remedy}.`)
  if (!isZip(head)) return readOld(path, size)
  const zip = await openZip(path)
  const { value, places, used } = await readArchive(zip)
  const entries = entriesOf(path, value, places)
  return { path, size, entries, metadata: {}, check: () => checkSums(zip, used) }
}

/** The first bytes of a file, and its size. */
async function beginning(path: string, most: number): Promise<{ head: Buffer; size: number }> {
  try {
    const file = await open(path, 'r')
    try {
      const status = await file.stat()
      if (!status.isFile()) throw new InputError(`${path}: expected a file of torch, but it is a folder or a device.`)
      const length = Math.min(status.size, most)
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, 0)
      return { head: buffer.subarray(0, bytesRead), size: status.size }
    } finally {
      await file.close()
    }
  } catch (error) {
    throw error instanceof InputError ? error : unreadable(path, error)
  }
}

// ----------------------------------------------------------------------------------------------------------- zip form

/** The object of an archive; `used` are the names of the storages that it refers to. */
async function readArchive(zip: Zip): Promise<{ value: PickleValue; places: Places; used: Set<string> }> {
  const { path, entries } = zip
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name))
  if (pickles.length !== 1)
    throw fault(path, `its archive has ${pickles.length} files DIRECTORY/data.pkl, expected one`)
  const root = pickles[0]!.slice(0, -'data.pkl'.length)
  const byteOrder = `${root}byteorder`
  if (entries.has(byteOrder)) {
    const order = Buffer.from(await readZip(zip, byteOrder, 16)).toString('latin1')
    if (order !== 'little') throw fault(path, `its numbers are in the byte order ${show(order)}, expected "little"`)
  }
  const bytes = await readZip(zip, pickles[0]!, MAX_PICKLE)
  const { value, end } = unpickle(bytes, `${path} (data.pkl)`, 'torch')
  if (end !== bytes.length) throw fault(path, `${bytes.length - end} bytes follow the end of data.pkl`)
  const used = new Set<string>()
  const places = ({ key, dtype, size }: TorchStorage): number => {
    const name = `${root}data/${key}`
    const entry = entries.get(name)
    if (!entry) throw fault(path, `the storage ${show(key)} is not in its archive`)
    if (entry.method !== 'stored')
      throw fault(path, `the storage ${show(key)} is compressed, and torch stores them as they are`)
    if (entry.size !== size * DTYPE_BYTES[dtype])
      throw fault(
        path,
        `the storage ${show(key)} has ${entry.size} bytes, and ${size} elements of ${dtype} take ${size * DTYPE_BYTES[dtype]}`,
      )
    used.add(name)
    return entry.begin
  }
  return { value, places, used }
}

// ----------------------------------------------------------------------------------------------------------- old form

async function readOld(path: string, size: number): Promise<SafetensorsHeader> {
  const { head } = await beginning(path, MAX_PICKLE)
  let at = 0
  const next = (): PickleValue => {
    const { value, end } = unpickle(head, path, 'torch', { begin: at, limits: { bytes: MAX_PICKLE } })
    at = end
    return value
  }
  if (head[0] !== 0x80 || next() !== MAGIC)
    throw fault(path, 'it begins neither as an archive nor with the number of older files')
  const protocol = next()
  if (protocol !== PROTOCOL) throw fault(path, `its version is ${shown(protocol)}, expected ${PROTOCOL}`)
  const system = next()
  if (!(system instanceof Map) || system.get('little_endian') !== true)
    throw fault(path, 'its numbers are not stated to be in little-endian order')
  const value = next()
  const keys = next()
  if (!Array.isArray(keys) || new Set(keys).size !== keys.length) throw fault(path, 'it has no list of storages')
  const storages = new Map<string, TorchStorage>()
  for (const tensor of tensorsIn(value)) storages.set(tensor.storage.key, tensor.storage)
  const begins = await layOut(path, { at, size, keys, storages })
  return { path, size, entries: entriesOf(path, value, ({ key }) => begins.get(key)!), metadata: {} }
}

/** Where the storages behind the pickles begin: each is its number of elements in 8 bytes, and the elements. */
async function layOut(
  path: string,
  {
    at,
    size,
    keys,
    storages,
  }: { at: number; size: number; keys: readonly PickleValue[]; storages: Map<string, TorchStorage> },
): Promise<Map<string, number>> {
  const begins = new Map<string, number>()
  const file = await open(path, 'r')
  try {
    for (const key of keys) {
      const storage = typeof key === 'string' ? storages.get(key) : undefined
      if (!storage) throw fault(path, `it lists the storage ${shown(key)}, to which no tensor refers`)
      const { buffer, bytesRead } = await file.read(Buffer.alloc(8), 0, 8, at)
      const stated = bytesRead === 8 ? buffer.readBigInt64LE(0) : -1n
      if (stated !== BigInt(storage.size))
        throw fault(path, `the storage ${shown(key)} has ${stated} elements, and its tensors say ${storage.size}`)
      begins.set(storage.key, at + 8)
      at += 8 + storage.size * DTYPE_BYTES[storage.dtype]
      if (at > size) throw fault(path, `the storage ${shown(key)} ends behind the file; it is truncated`)
    }
  } finally {
    await file.close()
  }
  if (at !== size) throw fault(path, `${size - at} bytes at its end belong to no storage`)
  const lost = [...storages.keys()].find((key) => !begins.has(key))
  if (lost !== undefined) throw fault(path, `the storage ${show(lost)} is not in it`)
  return begins
}

/** Every tensor of a value. */
function tensorsIn(value: PickleValue, seen = new Set<PickleValue>()): TorchTensor[] {
  if (value instanceof TorchTensor) return [value]
  if (typeof value !== 'object' || value === null || seen.has(value)) return []
  seen.add(value)
  const inner = value instanceof Map ? [...value.values()] : Array.isArray(value) ? (value as PickleValue[]) : []
  return inner.flatMap((v) => tensorsIn(v, seen))
}

/** A simple value for a message; anything else by its type, since it may unfold to any size. */
const shown = (value: PickleValue): string => (typeof value === 'object' ? 'an object' : show(value))

// ---------------------------------------------------------------------------------------------------------- state dict

function entriesOf(path: string, value: PickleValue, places: Places): Map<string, SafetensorsEntry> {
  const wrapper = value instanceof Map ? WRAPPERS.find((key) => value.get(key) instanceof Map) : undefined
  const state = wrapper && value instanceof Map ? value.get(wrapper)! : value
  if (!(state instanceof Map)) throw fault(path, 'it holds no dictionary of tensors')
  const entries = new Map<string, SafetensorsEntry>()
  for (const [name, tensor] of state) {
    if (typeof name !== 'string') throw fault(path, `the name of a tensor is ${shown(name)}`)
    if (!(tensor instanceof TorchTensor))
      throw fault(
        path,
        `${show(name)} is no tensor; expected a dictionary of tensors, or one under ${WRAPPERS.join(' or ')}`,
      )
    entries.set(name, entryOf(path, name, tensor, places))
  }
  if (!entries.size) throw fault(path, 'it holds no tensor')
  return entries
}

function entryOf(path: string, name: string, tensor: TorchTensor, places: Places): SafetensorsEntry {
  const { storage, offset, shape, strides } = tensor
  const { dtype, size } = storage
  const width = DTYPE_BYTES[dtype]
  const elements = sizeOf(shape)
  if (elements > size)
    throw fault(path, `${show(name)} has ${elements} elements, and its storage ${size}; it repeats them`)
  const begin = places(storage) + offset * width
  const plain = isRowMajor(shape, strides)
  const span = elements === 0 ? 0 : 1 + shape.reduce((n, d, i) => n + (d - 1) * strides[i]!, 0)
  return { dtype, shape: [...shape], begin, end: begin + span * width, ...(!plain && elements > 0 && { strides }) }
}

/** Whether elements lie in row-major order without gaps; where a dimension is 1, its stride has no meaning. */
function isRowMajor(shape: readonly number[], strides: readonly number[]): boolean {
  let step = 1
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] !== 1 && strides[d] !== step) return false
    step *= shape[d]!
  }
  return true
}
