/** What the machine for pickles (pickle.ts) builds of NumPy's functions and classes: arrays and scalars. */
import { show } from '../errors.js'
import { offsets, sizeOf } from '../shape.js'
import {
  Global,
  hashable,
  isShape,
  isTuple,
  kind,
  narrowed,
  NumpyArray,
  NumpyDtype,
  orderedDict,
  refuse,
  type PickleValue,
} from './pickle-values.js'
import { toFloat32 } from './safetensors.js'

/** The functions and classes of NumPy that a pickle may name. */
export function dataGlobals(): Map<string, Global> {
  const ndarray = new Global('numpy.ndarray')
  const globals = [
    orderedDict(),
    ndarray,
    new Global('numpy.dtype', dtypeOf),
    // How protocol 2 writes bytes: as text, a character per byte.
    new Global('_codecs.encode', ([value, encoding]) =>
      typeof value === 'string' && (encoding === 'latin1' || encoding === 'latin-1')
        ? bytesOf(value)
        : refuse('_codecs.encode gets something else than Latin-1 text'),
    ),
  ]
  // How the protocols before 4 write a set.
  for (const module of ['__builtin__', 'builtins'])
    globals.push(
      new Global(`${module}.set`, ([items, ...rest]) =>
        Array.isArray(items) && !rest.length ? new Set(items.map(hashable)) : refuse('a set is made of no list'),
      ),
    )
  for (const module of ['numpy.core.multiarray', 'numpy._core.multiarray'])
    globals.push(
      new Global(`${module}._reconstruct`, ([type]) =>
        type === ndarray ? new NumpyArray() : refuse('an array is of another class than numpy.ndarray'),
      ),
      new Global(`${module}.scalar`, ([dtype, value]) => {
        if (!(dtype instanceof NumpyDtype)) return refuse('a scalar has no element type')
        const element = elements(dtype, value ?? null, 1)[0]!
        if (typeof element === 'bigint') return narrowed(element)
        return dtype.name === 'b1' ? element !== 0 : element
      }),
    )
  return new Map(globals.map((global) => [global.name, global]))
}

/** A string of Latin-1, as Python 2 wrote bytes. */
function bytesOf(value: PickleValue): Uint8Array<ArrayBuffer> {
  if (value instanceof Uint8Array) return Uint8Array.from(value)
  if (typeof value !== 'string' || /[^\0-\xff]/.test(value)) return refuse('bytes are expected')
  return Uint8Array.from(Buffer.from(value, 'latin1'))
}

const DTYPES = /^(b1|[iu][1248]|f[248]|O[48]?)$/

function dtypeOf([name]: readonly PickleValue[]): NumpyDtype {
  if (typeof name !== 'string' || !DTYPES.test(name))
    return refuse(`an array has the element type ${typeof name === 'string' ? show(name) : kind(name ?? null)}`)
  return new NumpyDtype(name.startsWith('O') ? 'O' : name)
}

/** (version, byte order, subdtype, names, fields, …): plain element types alone. */
export function buildDtype(dtype: NumpyDtype, state: PickleValue): void {
  const [, order, subdtype, names, fields] = isTuple(state) ? state : []
  if (subdtype !== null || names !== null || fields !== null) refuse('an array has a structured element type')
  if (order !== '<' && order !== '>' && order !== '|' && order !== '=') return refuse('an array has no byte order')
  dtype.bigEndian = order === '>'
}

/** (version, shape, element type, column-major, elements). */
export function buildArray(array: NumpyArray, state: PickleValue): void {
  const [shape, dtype, columnMajor, data] = isTuple(state) ? state.slice(-4) : []
  if (!isShape(shape) || !(dtype instanceof NumpyDtype) || data === undefined)
    return refuse('the state of an array is incomplete')
  const values = elements(dtype, data, sizeOf(shape))
  array.shape = shape
  array.dtype = dtype.name
  array.data = columnMajor && shape.length > 1 ? rowMajor(values, shape) : values
}

type Elements = NumpyArray['data'] & { slice(): NumpyArray['data'] }

/** The elements of bytes, or of a list where they are objects. */
function elements(dtype: NumpyDtype, data: PickleValue, count: number): Elements {
  const { name, bigEndian } = dtype
  if (name === 'O') {
    if (!Array.isArray(data) || data.length !== count)
      return refuse(`an array of ${count} objects holds ${Array.isArray(data) ? data.length : kind(data)}`)
    return data
  }
  const width = Number(name.at(-1))
  const bytes = bytesOf(data)
  if (bytes.length !== count * width)
    return refuse(`an array of ${count} elements of ${width} bytes holds ${bytes.length} bytes`)
  if (bigEndian) for (let i = 0; i < bytes.length; i += width) bytes.subarray(i, i + width).reverse()
  const { buffer } = bytes
  switch (name) {
    case 'i1':
      return new Int8Array(buffer)
    case 'i2':
      return new Int16Array(buffer)
    case 'u2':
      return new Uint16Array(buffer)
    case 'i4':
      return new Int32Array(buffer)
    case 'u4':
      return new Uint32Array(buffer)
    case 'i8':
      return new BigInt64Array(buffer)
    case 'u8':
      return new BigUint64Array(buffer)
    case 'f2':
      return toFloat32('F16', bytes)
    case 'f4':
      return new Float32Array(buffer)
    case 'f8':
      return new Float64Array(buffer)
    default: // b1, u1
      return bytes
  }
}

/** The same elements where the last index changes fastest. */
function rowMajor(values: Elements, shape: readonly number[]): NumpyArray['data'] {
  const out = values.slice()
  const strides = shape.map((_, d) => sizeOf(shape.slice(0, d)))
  let i = 0
  for (const from of offsets(shape, strides)) Object.assign(out, { [i++]: values[from] })
  return out
}
