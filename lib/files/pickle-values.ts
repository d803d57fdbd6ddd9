/** What pickles hold, and the functions and classes of Python that they may name. */
import { sizeOf } from '../shape.js'
import type { Dtype } from './safetensors.js'

/**
 * What a pickle holds. Lists are arrays and tuples are frozen arrays; dictionaries are maps in the order of the file.
 * Whole numbers are bigint where a number would round them. A string of Python 2 is read as Latin-1, a character per
 * byte.
 */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly PickleValue[]
  | Map<PickleValue, PickleValue>
  | Set<PickleValue>
  | NumpyArray
  | NumpyDtype
  | TorchTensor
  | TorchStorage
  | Global

/** A function or class of Python: its name alone. */
export class Global {
  constructor(
    readonly name: string,
    /** What the machine builds where the pickle calls it; absent where it may only be named. */
    readonly call?: (args: readonly PickleValue[]) => PickleValue,
  ) {}
}

/** An element type of NumPy: kind and bytes (`i8`, `f4`, `O8`), and whether the highest byte is the first. */
export class NumpyDtype {
  bigEndian = false
  constructor(readonly name: string) {}
}

/** An array of NumPy, row-major, in the order of this machine's bytes. float16 is widened to float32; `O` is a list. */
export class NumpyArray {
  shape: readonly number[] = [0]
  dtype = ''
  data: ArrayLike<number> | ArrayLike<bigint> | readonly PickleValue[] = []
}

/** The memory of one or more tensors of torch: a place in the file, which is not read here. */
export class TorchStorage {
  constructor(
    readonly dtype: Dtype,
    readonly key: string,
    /** Elements. */
    readonly size: number,
  ) {}
}

/** A tensor of torch: offset and strides in elements of its storage. */
export class TorchTensor {
  constructor(
    readonly storage: TorchStorage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}
}

/** Where a pickle breaks a rule: half a sentence, to which the reader adds the file and the byte. */
export class Refusal extends Error {}

export const refuse = (what: string): never => {
  throw new Refusal(what)
}

export const isTuple = (value: PickleValue | undefined): value is readonly PickleValue[] =>
  Array.isArray(value) && Object.isFrozen(value)

export const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

export const isShape = (value: PickleValue | undefined): value is readonly number[] =>
  isTuple(value) && value.length <= 64 && value.every(isCount) && Number.isSafeInteger(sizeOf(value as number[]))

/** A key of a dictionary or a set: as in Python, neither a list nor a dictionary. */
export const hashable = (value: PickleValue): PickleValue =>
  typeof value === 'object' && value !== null && !isTuple(value) ? refuse(`a key is ${kind(value)}`) : value

/** A word for a value, with its article; never the value itself, which may unfold to any size. */
export function kind(value: PickleValue): string {
  if (value === null) return 'None'
  if (Array.isArray(value)) return isTuple(value) ? 'a tuple' : 'a list'
  if (value instanceof Global) return value.name
  if (value instanceof Map) return 'a dictionary'
  if (value instanceof Set) return 'a set'
  if (value instanceof Uint8Array) return 'bytes'
  if (value instanceof NumpyArray || value instanceof NumpyDtype) return 'a NumPy array'
  if (value instanceof TorchTensor || value instanceof TorchStorage) return 'a tensor'
  return `a ${typeof value}`
}

export const narrowed = (value: bigint): number | bigint =>
  value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value

export function orderedDict(): Global {
  return new Global('collections.OrderedDict', (args) =>
    args.length ? refuse('collections.OrderedDict gets arguments') : new Map(),
  )
}
