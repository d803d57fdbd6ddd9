/** The tensor: a typed, strided view of native memory. */
import { invalid } from '../errors.js'
import { native, type NativeTensor } from '../native.js'
import { sizeOf } from '../shape.js'
import { deviceId, deviceOf, type Device } from './device.js'
import { ARRAYS, DTYPE_NUMBERS, isQuantized, type DType, type TypedArray } from './dtype.js'
import { enter, leave, type Scope } from './scope.js'

/** Strides, in elements, of a contiguous tensor. */
export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length)
  for (let i = shape.length - 1, n = 1; i >= 0; n *= shape[i--]!) strides[i] = n
  return strides
}

/** A native handle and the tensors that stand for it. */
class Handle {
  users = 1
  constructor(readonly native: NativeTensor) {}
}
/** Handles without a tensor, to be used again: to make one, and to collect it, costs more than an operator's call. */
const released: Handle[] = []
const MOST_RELEASED = 1 << 14

/** The handle that a native function made, of the last one in {@link released} where there was one. */
function taken(native: NativeTensor): Handle {
  const handle = released.pop()
  if (!handle) return new Handle(native)
  handle.users = 1
  return handle
}

// Shapes and strides are passed to native code in a typed array of their length: it reads that at once, a JavaScript
// array element by element.
const MAX_RANK = 6
const arraysPerRank = (): Float64Array[] => Array.from({ length: MAX_RANK + 1 }, (_, rank) => new Float64Array(rank))
const [sizes, steps] = [arraysPerRank(), arraysPerRank()]
function across(perRank: readonly Float64Array[], values: readonly number[]): Float64Array | readonly number[] {
  const array = Array.isArray(values) && perRank[values.length]
  if (!array) return values // native code says what is wrong with it
  for (let i = 0; i < array.length; i++) {
    const value = values[i]
    if (typeof value !== 'number') return values
    array[i] = value
  }
  return array
}

/**
 * Gradients of the inputs from those of the outputs; `undefined` for an input that needs none. `residuals` holds, for
 * the inputs that were recorded as `adds`, the gradient that they have so far, where there is one: the result must
 * include it.
 */
export type Backward = (dys: Tensor[], needs: boolean[], residuals: (Tensor | undefined)[]) => (Tensor | undefined)[]

export interface Node {
  /** The name of the operator, for messages. */
  readonly operator: string
  /** Position in the order of recording. */
  readonly order: number
  readonly inputs: Tensor[]
  readonly outputs: Tensor[]
  readonly backward: Backward
  /** Inputs, by number, to whose gradient so far the backward adds its own in the same pass. */
  readonly adds: readonly number[]
}

/**
 * An n-dimensional array in native memory. Made by {@link tensor}, {@link empty} and the operators; freed by
 * {@link dispose}, by `using`, or with the {@link scope} it was made in.
 */
export class Tensor {
  /** Sizes of the dimensions, outermost first; [] for a single number. */
  readonly shape: readonly number[]
  /** Elements from one index of a dimension to the next. */
  readonly strides: readonly number[]
  /** Type of the elements. */
  readonly dtype: DType
  /** Whether gradients flow to it: set on parameters, inherited by what is computed from them. */
  requiresGrad = false
  /** Of a leaf, after `backward`: its gradient, summed over calls until it is disposed and unset. */
  grad: Tensor | undefined
  /** How it was computed, where a gradient needs it. */
  node: Node | undefined
  /** For messages: the name of a weight or parameter. */
  label: string | undefined
  #handle: Handle | undefined
  #home: Scope | undefined
  #position = 0

  /** Takes a native handle over. */
  constructor(
    handle: NativeTensor | Handle,
    shape: readonly number[],
    dtype: DType,
    strides: readonly number[] = contiguousStrides(shape),
  ) {
    this.#handle = handle instanceof Handle ? handle : new Handle(handle)
    // Copies: the caller may go on with its arrays.
    this.shape = [...shape]
    this.dtype = dtype
    this.strides = [...strides]
    enter(this)
  }

  get #live(): Handle {
    if (!this.#handle)
      throw invalid(
        this.label ?? 'tensor',
        'a live tensor',
        `one of shape [${this.shape}] that was disposed`,
        'keep() it, or return it from its scope',
      )
    return this.#handle
  }
  /** The native handle. Throws once the tensor was disposed. */
  get handle(): NativeTensor {
    return this.#live.native
  }
  /** Whether it was disposed. Any use of a disposed tensor but `dispose` is an error. */
  get disposed(): boolean {
    return !this.#handle
  }
  /** Its device; undefined until the first operator writes to it, which decides: that of the operator's inputs. */
  get device(): Device | undefined {
    return deviceOf(native().device(this.handle))
  }
  /** Number of dimensions. */
  get rank(): number {
    return this.shape.length
  }
  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape)
  }
  /** Size of dimension i; negative counts from the end. Throws if there is no such dimension. */
  dim(i: number): number {
    const n = this.shape.at(i)
    if (n === undefined) throw invalid('dim', `a dimension of shape [${this.shape}]`, i)
    return n
  }
  /** Whether its elements lie in row-major order without gaps. */
  get isContiguous(): boolean {
    const expected = contiguousStrides(this.shape)
    return this.shape.every((n, i) => n === 1 || this.strides[i] === expected[i])
  }

  /**
   * The same memory seen with another shape, strides and offset, all in elements and relative to this tensor.
   * No gradient flows through it; the operators of `ops/views` are the differentiable ones.
   */
  view(shape: readonly number[], strides: readonly number[] = contiguousStrides(shape), offset = 0): Tensor {
    const seen = native().view(
      this.handle,
      across(sizes, shape),
      across(steps, strides),
      offset,
      released.at(-1)?.native,
    )
    return new Tensor(taken(seen), shape, this.dtype, strides)
  }
  /** Its elements on a device, contiguous: the tensor itself if it lies there. No gradient flows through it. */
  to(device: Device): Tensor {
    if (this.device === device) return this
    const moved = new Tensor(native().transfer(this.handle, deviceId(device)), this.shape, this.dtype)
    if (this.label !== undefined) moved.label = this.label
    return moved
  }
  /** The same memory, shape and strides, without the tape. */
  detach(): Tensor {
    const handle = this.#live
    handle.users++
    return new Tensor(handle, this.shape, this.dtype, this.strides)
  }

  /**
   * The elements in row-major order, once everything before has been computed. 16-bit floats come as their bits, a
   * quantised matrix as its bytes.
   */
  async data(): Promise<TypedArray> {
    return new ARRAYS[this.dtype](await native().read(this.handle))
  }
  /** Like {@link data}, waiting on the calling thread: for tests, benchmarks and exit handlers. */
  dataBlocking(): TypedArray {
    return new ARRAYS[this.dtype](native().readBlocking(this.handle))
  }
  /** The value of a tensor with one element. */
  async item(): Promise<number> {
    if (this.size !== 1) throw invalid('item()', 'a tensor of one element', `shape [${this.shape}]`)
    return Number((await this.data())[0])
  }

  /** Marks it as a trained parameter. Returns it. */
  requireGrad(label?: string): this {
    if (this.dtype !== 'float32') throw invalid(label ?? 'parameter', 'dtype float32', this.dtype)
    this.requiresGrad = true
    if (label !== undefined) this.label = label
    return this
  }

  /**
   * Declares its contents final: no operator may write to its memory from now on. The CPU backend then keeps a weight
   * of linear layers in the layout of its kernels, made once. Weights that lie in a file are frozen as they are.
   * Returns it.
   */
  freeze(): this {
    native().freeze(this.handle)
    return this
  }

  /** Frees it, once the queue no longer needs it. Does nothing the second time. */
  dispose(): void {
    const handle = this.#handle
    if (!handle) return
    this.#handle = undefined
    this.node = undefined
    if (--handle.users === 0) {
      native().release(handle.native)
      if (released.length < MOST_RELEASED) released.push(handle)
    }
    leave(this)
  }
  /** For scopes: who frees it from now on. */
  own(scope: Scope | undefined): void {
    if (this.#home) {
      // The last tensor moves to its position.
      const { tensors } = this.#home
      const last = tensors.pop() as Tensor
      if (last !== this) {
        tensors[this.#position] = last
        last.#position = this.#position
      }
    }
    this.#home = scope
    if (scope) this.#position = scope.tensors.push(this) - 1
  }
  /** For scopes: whether that one frees it. */
  ownedBy(scope: Scope): boolean {
    return this.#home === scope
  }
  [Symbol.dispose](): void {
    this.dispose()
  }
}

// Node 20 has no Symbol.dispose of its own; the compilers' `using` looks it up when it is used.
declare global {
  interface SymbolConstructor {
    readonly dispose: unique symbol
  }
}

/**
 * A tensor with undefined content: an operator's output. It lies on the device of that operator, unless `device` is
 * given.
 */
export function empty(shape: readonly number[], dtype: DType = 'float32', device?: Device): Tensor {
  const id = device && deviceId(device)
  const handle = native().create(across(sizes, shape), DTYPE_NUMBERS[dtype] ?? dtype, id, released.at(-1)?.native)
  return new Tensor(taken(handle), shape, dtype)
}

function checkShape(name: string, shape: readonly number[], length: number): void {
  if (!Array.isArray(shape) || shape.some((n) => !Number.isInteger(n) || n < 0))
    throw invalid(name, 'a shape of integers >= 0', shape)
  if (sizeOf(shape) !== length) throw invalid(name, `${sizeOf(shape)} elements for shape [${shape}]`, length)
}

/**
 * A tensor with the given elements, copied to `device`. The dtype follows the array (Float32Array: float32, Int32Array:
 * int32, Uint8Array: uint8, BigInt64Array: int64; number[]: float32) unless given; Uint16Array holds the bits of a
 * 16-bit float and needs `dtype`.
 */
export function tensor(
  data: TypedArray | readonly number[],
  shape?: readonly number[],
  dtype?: DType,
  device: Device = 'cpu',
): Tensor {
  const type = dtype ?? dtypeOf(data)
  if (!Object.hasOwn(ARRAYS, type) || isQuantized(type))
    throw invalid(
      'tensor',
      `a dtype, one of ${Object.keys(ARRAYS)
        .filter((t) => !isQuantized(t as DType))
        .join(', ')}`,
      type,
      ...(Object.hasOwn(ARRAYS, type) ? ['make a float32 tensor and quantize() it'] : []),
    )
  if (!isTyped(data) && !Array.isArray(data)) throw invalid('tensor', 'a typed array or an array of numbers', data)
  const source = isTyped(data) && data instanceof ARRAYS[type] ? data : convert(data, type)
  const dims = shape ?? [source.length]
  checkShape('tensor', dims, source.length)
  const bytes = new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
  const made = new Tensor(native().upload(bytes, dims, type), dims, type)
  if (device === 'cpu') return made
  const there = made.to(device)
  made.dispose()
  return there
}

const isTyped = (data: unknown): data is TypedArray => ArrayBuffer.isView(data) && !(data instanceof DataView)

function dtypeOf(data: unknown): DType {
  if (data instanceof Float32Array) return 'float32'
  if (data instanceof Int32Array) return 'int32'
  if (data instanceof Uint8Array) return 'uint8'
  if (data instanceof BigInt64Array) return 'int64'
  if (Array.isArray(data) || data instanceof Float64Array) return 'float32'
  throw invalid('tensor', 'a typed array or an array of numbers', data)
}

function convert(data: TypedArray | readonly number[], type: DType): TypedArray {
  if (type === 'bfloat16' || type === 'float16')
    throw invalid('tensor', `a Uint16Array of bits for ${type}`, data, 'make a float32 tensor and cast() it')
  if (!isTyped(data)) {
    const wrong = data.findIndex((x) => typeof x !== 'number' && typeof x !== 'bigint')
    if (wrong >= 0)
      throw invalid(
        'tensor',
        'an array of numbers',
        data[wrong],
        `see element ${wrong}; give the shape as the second argument`,
      )
  }
  if (type === 'int64') return BigInt64Array.from(Array.from(data as ArrayLike<number | bigint>, (x) => BigInt(x)))
  return ARRAYS[type].from(Array.from(data as ArrayLike<number | bigint>, Number))
}
