/** Writes pickles of protocol 2 as Python writes them: dictionaries, lists, texts, numbers, arrays of NumPy. */

/** Instructions of the machine that reads a pickle. */
export type Instructions = Buffer

const code = (...parts: (string | number | Uint8Array)[]): Instructions =>
  Buffer.concat(
    parts.map((p) => (typeof p === 'number' ? Buffer.of(p) : typeof p === 'string' ? Buffer.from(p, 'latin1') : p)),
  )
const length = (n: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32LE(n)
  return bytes
}

/** The file of one value. */
export const pickle = (value: Instructions): Buffer => code(0x80, 2, value, '.')
export const int = (n: number): Instructions => code('J', length(n))
export const text = (s: string): Instructions => code('X', length(Buffer.byteLength(s)), Buffer.from(s))
/** A string of Python 2. */
export const bytes = (s: string): Instructions => code('T', length(s.length), s)
export const list = (...items: Instructions[]): Instructions => code(']', '(', ...items, 'e')
export const tuple = (...items: Instructions[]): Instructions => code('(', ...items, 't')
export const dict = (...items: [Instructions, Instructions][]): Instructions => code('}', '(', ...items.flat(), 'u')

const global = (module: string, name: string): Instructions => code('c', module, '\n', name, '\n')
const NONE = code('N')

/** An array of int64, as Python 2 pickled it. */
export function arrayOf(numbers: readonly number[]): Instructions {
  const data = Buffer.from(BigInt64Array.from(numbers, BigInt).buffer)
  const array = code(
    global('numpy.core.multiarray', '_reconstruct'),
    tuple(global('numpy', 'ndarray'), tuple(int(0)), bytes('b')),
    'R',
  )
  const dtype = code(
    code(global('numpy', 'dtype'), tuple(bytes('i8'), int(0), int(1)), 'R'),
    tuple(int(3), bytes('<'), NONE, NONE, NONE, int(-1), int(-1), int(0)),
    'b',
  )
  return code(
    array,
    tuple(int(1), tuple(int(numbers.length)), dtype, code(0x89), code('T', length(data.length), data)),
    'b',
  )
}
