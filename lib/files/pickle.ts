/**
 * Reads Python's pickles without executing them. A pickle is a program for a small machine, and in Python it may call
 * any function. This machine knows plain data, the arrays of NumPy and the tensors of torch, builds those itself, and
 * refuses every other opcode and global by name. Nothing is ever looked up or called by a name from the file.
 */
import { readFile, stat } from 'node:fs/promises'
import { InputError, show } from '../errors.js'
import { buildArray, buildDtype, dataGlobals } from './pickle-numpy.js'
import { STORAGES, torchGlobals } from './pickle-torch.js'
import {
  Global,
  hashable,
  isCount,
  isTuple,
  kind,
  narrowed,
  NumpyArray,
  NumpyDtype,
  Refusal,
  refuse,
  TorchStorage,
  type PickleValue,
} from './pickle-values.js'
import { pointerIn, unreadable } from './text.js'

export { NumpyArray, TorchStorage, TorchTensor, type PickleValue } from './pickle-values.js'

/** What is read besides plain data: `torch` its tensors (protocol 2), `data` the arrays of NumPy (protocols 2 to 4). */
export type Dialect = 'torch' | 'data'

/** Limits of a pickle. Files that people have stay far below them. */
export interface PickleLimits {
  /** Bytes of the pickle. */
  bytes: number
  /** Instructions. */
  opcodes: number
  /** Lists, tuples, dictionaries, sets, arrays and tensors. */
  objects: number
  /** Values that are remembered to be used again. */
  memo: number
  /** Objects inside of objects, and marks that are open at one time. */
  depth: number
  /** Values when everything that is used twice is counted twice. */
  unfolded: number
}

/** The limits that hold where a caller gives no other. */
export const PICKLE_LIMITS: PickleLimits = {
  bytes: 2 ** 28,
  opcodes: 5e7,
  objects: 4e6,
  memo: 1e7,
  depth: 64,
  unfolded: 1e8,
}

const NAMES = `28 MARK 2e STOP 30 POP 31 POP_MARK 32 DUP 46 FLOAT 49 INT 4a BININT 4b BININT1 4c LONG 4d BININT2
  4e NONE 50 PERSID 51 BINPERSID 52 REDUCE 53 STRING 54 BINSTRING 55 SHORT_BINSTRING 56 UNICODE 58 BINUNICODE
  61 APPEND 62 BUILD 63 GLOBAL 64 DICT 7d EMPTY_DICT 65 APPENDS 67 GET 68 BINGET 69 INST 6a LONG_BINGET 6c LIST
  5d EMPTY_LIST 6f OBJ 70 PUT 71 BINPUT 72 LONG_BINPUT 73 SETITEM 74 TUPLE 29 EMPTY_TUPLE 75 SETITEMS 47 BINFLOAT
  80 PROTO 81 NEWOBJ 82 EXT1 83 EXT2 84 EXT4 85 TUPLE1 86 TUPLE2 87 TUPLE3 88 NEWTRUE 89 NEWFALSE 8a LONG1 8b LONG4
  42 BINBYTES 43 SHORT_BINBYTES 8c SHORT_BINUNICODE 8d BINUNICODE8 8e BINBYTES8 8f EMPTY_SET 90 ADDITEMS
  91 FROZENSET 92 NEWOBJ_EX 93 STACK_GLOBAL 94 MEMOIZE 95 FRAME 96 BYTEARRAY8 97 NEXT_BUFFER 98 READONLY_BUFFER`

/** The names of all opcodes of Python's pickletools, by their byte. */
const OPCODES = new Map(
  [...NAMES.matchAll(/(\w\w) (\w+)/g)].map(([, byte, name]): [number, string] => [Number.parseInt(byte!, 16), name!]),
)

/** Those that torch's own restricted reader knows. */
const TORCH = `PROTO STOP MARK GLOBAL REDUCE BUILD NEWOBJ EMPTY_DICT EMPTY_LIST EMPTY_TUPLE EMPTY_SET APPEND APPENDS
  SETITEM SETITEMS TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
  SHORT_BINSTRING BINPUT LONG_BINPUT BINGET LONG_BINGET BINPERSID`.split(/\s+/)
/** Of data: strings of Python 2, bytes of protocol 3, and what protocol 4 writes. */
const DATA = [
  ...TORCH.filter((name) => name !== 'BINPERSID'),
  ...'BINSTRING BINBYTES SHORT_BINBYTES SHORT_BINUNICODE ADDITEMS STACK_GLOBAL MEMOIZE FRAME'.split(' '),
]

const DIALECTS: Record<Dialect, { opcodes: Set<string>; globals: Map<string, Global>; protocols: [number, number] }> = {
  torch: { opcodes: new Set(TORCH), globals: torchGlobals(), protocols: [2, 2] },
  data: { opcodes: new Set(DATA), globals: dataGlobals(), protocols: [2, 4] },
}

// ---------------------------------------------------------------------------------------------------------------- read

/**
 * The value of a file of data: plain values and NumPy's arrays, as `pickle.dump` writes them with the protocols 2 to 4.
 *
 * @throws InputError that names what was refused
 */
export async function readPickle(path: string, limits: Partial<PickleLimits> = {}): Promise<PickleValue> {
  const most = limits.bytes ?? PICKLE_LIMITS.bytes
  let bytes: Uint8Array
  try {
    const { size } = await stat(path)
    if (size > most) throw refused(path, `it has ${size} bytes, and at most ${most} are read`)
    bytes = await readFile(path)
  } catch (error) {
    throw error instanceof InputError ? error : unreadable(path, error)
  }
  const pointer = pointerIn(bytes)
  if (pointer) throw new InputError(`${path}: is ${pointer.what}; ${pointer.remedy}.`)
  const { value, end } = unpickle(bytes, path, 'data', { limits })
  if (end !== bytes.length) throw refused(path, `${bytes.length - end} bytes follow its end`)
  return value
}

/**
 * Runs the pickle that begins at byte `begin` and returns its value and where it ends.
 *
 * @param where the file, for messages
 * @throws InputError that names what was refused
 */
export function unpickle(
  bytes: Uint8Array,
  where: string,
  dialect: Dialect,
  { begin = 0, limits = {} }: { begin?: number; limits?: Partial<PickleLimits> } = {},
): { value: PickleValue; end: number } {
  const machine = new Machine(bytes, begin, DIALECTS[dialect], { ...PICKLE_LIMITS, ...limits })
  try {
    return { value: machine.run(), end: machine.at }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    throw refused(where, `${error.message}, at byte ${machine.opcode}`)
  }
}

const refused = (where: string, what: string): InputError =>
  new InputError(
    `${where}: this pickle was refused and nothing of it executed: ${what}; ` +
      'only plain data, NumPy arrays and torch tensors are read.',
  )

const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const EMPTY: readonly PickleValue[] = Object.freeze([])

class Machine {
  /** The next byte to be read; and where the current instruction begins. */
  at: number
  opcode: number
  readonly #view: DataView
  readonly #end: number
  #stack: PickleValue[] = []
  /** Heights of the stack where marks were set. */
  readonly #marks: number[] = []
  readonly #memo = new Map<number, PickleValue>()
  readonly #storages = new Map<string, TorchStorage>()
  #objects = 0

  constructor(
    readonly bytes: Uint8Array,
    readonly begin: number,
    readonly dialect: (typeof DIALECTS)[Dialect],
    readonly limits: PickleLimits,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#end = Math.min(bytes.length, begin + limits.bytes)
    this.at = this.opcode = begin
  }

  run(): PickleValue {
    const { opcodes, protocols } = this.dialect
    if (this.begin >= this.#end || this.bytes[this.begin] !== 0x80)
      refuse(`it does not begin as a pickle of protocol ${protocols[0]} or later does`)
    for (let n = 0; ; n++) {
      this.opcode = this.at
      if (n >= this.limits.opcodes) refuse(`it has more than ${this.limits.opcodes} instructions`)
      const byte = this.#byte()
      const name = OPCODES.get(byte)
      if (name === undefined || !opcodes.has(name))
        refuse(`it uses ${name === undefined ? 'an unknown opcode' : `the opcode ${name}`} (0x${byte.toString(16)})`)
      if (name === 'STOP') {
        const value = this.#pop()
        if (this.#stack.length || this.#marks.length) refuse('it ends with values that belong to nothing')
        this.#checkForm(value)
        return value
      }
      if (name === 'PROTO') this.#proto(n)
      else this.#execute(name!)
    }
  }

  #proto(n: number): void {
    const [least, most] = this.dialect.protocols
    const protocol = this.#byte()
    if (n > 0) refuse('it states its protocol twice')
    if (protocol < least || protocol > most)
      refuse(`its protocol is ${protocol}, expected ${least === most ? least : `${least} to ${most}`}`)
  }

  #execute(name: string): void {
    const push = (value: PickleValue): void => void this.#stack.push(value)
    switch (name) {
      case 'FRAME':
        if (this.#length(this.#u64()) > this.#end - this.at) refuse('a frame is longer than the file')
        return
      case 'MARK':
        if (this.#marks.length >= this.limits.depth) refuse(`more than ${this.limits.depth} marks are open`)
        return void this.#marks.push(this.#stack.length)
      case 'NONE':
        return push(null)
      case 'NEWTRUE':
        return push(true)
      case 'NEWFALSE':
        return push(false)
      case 'BININT':
        return push(this.#view.getInt32(this.#take(4), true))
      case 'BININT1':
        return push(this.#byte())
      case 'BININT2':
        return push(this.#view.getUint16(this.#take(2), true))
      case 'LONG1':
        return push(long(this.#slice(this.#byte())))
      case 'BINFLOAT':
        return push(this.#view.getFloat64(this.#take(8), false))
      case 'BINUNICODE':
        return push(this.#text(this.#u32()))
      case 'SHORT_BINUNICODE':
        return push(this.#text(this.#byte()))
      case 'SHORT_BINSTRING':
        return push(this.#latin1(this.#byte()))
      case 'BINSTRING':
        return push(this.#latin1(this.#u32()))
      case 'SHORT_BINBYTES':
        return push(Uint8Array.from(this.#slice(this.#byte())))
      case 'BINBYTES':
        return push(Uint8Array.from(this.#slice(this.#u32())))
      case 'EMPTY_TUPLE':
        return push(EMPTY)
      case 'EMPTY_LIST':
        return push(this.#counted([]))
      case 'EMPTY_DICT':
        return push(this.#counted(new Map()))
      case 'EMPTY_SET':
        return push(this.#counted(new Set()))
      case 'TUPLE':
        return push(this.#counted(Object.freeze(this.#popMark())))
      case 'TUPLE1':
      case 'TUPLE2':
      case 'TUPLE3': {
        const items = Array.from({ length: Number(name.at(-1)) }, () => this.#pop()).reverse()
        return push(this.#counted(Object.freeze(items)))
      }
      case 'APPEND':
        return this.#append([this.#pop()])
      case 'APPENDS':
        return this.#append(this.#popMark())
      case 'ADDITEMS':
        return this.#add(this.#popMark())
      case 'SETITEM':
        return this.#set([this.#pop(), this.#pop()].reverse())
      case 'SETITEMS':
        return this.#set(this.#popMark())
      case 'BINPUT':
        return this.#remember(this.#byte())
      case 'LONG_BINPUT':
        return this.#remember(this.#u32())
      case 'MEMOIZE':
        return this.#remember(this.#memo.size)
      case 'BINGET':
        return push(this.#recall(this.#byte()))
      case 'LONG_BINGET':
        return push(this.#recall(this.#u32()))
      case 'GLOBAL':
        return push(this.#global(this.#line(), this.#line()))
      case 'STACK_GLOBAL': {
        const [member, module] = [this.#pop(), this.#pop()]
        if (typeof module !== 'string' || typeof member !== 'string') return refuse('a global has no name')
        return push(this.#global(module, member))
      }
      case 'BINPERSID':
        return push(this.#storage(this.#pop()))
      case 'REDUCE':
      case 'NEWOBJ': {
        const [args, callee] = [this.#pop(), this.#pop()]
        if (!(callee instanceof Global)) return refuse(`it calls ${kind(callee)}`)
        if (!isTuple(args)) return refuse(`it calls ${callee.name} with ${kind(args)} in place of arguments`)
        if (!callee.call) return refuse(`it calls ${callee.name}, which may only be named`)
        return push(this.#counted(callee.call(args)))
      }
      case 'BUILD': {
        const state = this.#pop()
        return build(this.#top(), state)
      }
      default:
        throw new Error(`the opcode ${name} is allowed and not implemented`)
    }
  }

  // ------------------------------------------------------------------------------------------------------------- bytes

  /** Claims the next `n` bytes and returns where they begin. */
  #take(n: number): number {
    if (n > this.#end - this.at)
      refuse(
        this.#end < this.bytes.length
          ? `it is longer than ${this.limits.bytes} bytes`
          : `it ends inside an instruction that takes ${n} more bytes`,
      )
    const at = this.at
    this.at += n
    return at
  }
  #byte(): number {
    return this.bytes[this.#take(1)]!
  }
  #u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }
  #u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true)
  }
  #length(n: bigint): number {
    return n > BigInt(Number.MAX_SAFE_INTEGER) ? refuse('a length has more than 53 bits') : Number(n)
  }
  #slice(n: number): Uint8Array {
    const at = this.#take(n)
    return this.bytes.subarray(at, at + n)
  }
  #text(n: number): string {
    const bytes = this.#slice(n)
    try {
      return text.decode(bytes)
    } catch {
      return refuse('a string is not UTF-8')
    }
  }
  #latin1(n: number): string {
    return latin1(this.#slice(n))
  }
  /** A line of text, at most 512 bytes, its end not included. */
  #line(): string {
    const end = this.bytes.subarray(0, Math.min(this.#end, this.at + 513)).indexOf(10, this.at)
    if (end < 0) refuse('a global has no end of its name')
    const line = this.#text(end - this.at)
    this.at++
    return line
  }

  // ------------------------------------------------------------------------------------------------------------- stack

  #counted<T extends PickleValue>(value: T): T {
    if (++this.#objects > this.limits.objects) refuse(`it makes more than ${this.limits.objects} objects`)
    return value
  }
  #top(): PickleValue {
    if (this.#stack.length <= (this.#marks.at(-1) ?? 0)) refuse('an instruction lacks its operand')
    return this.#stack.at(-1)!
  }
  #pop(): PickleValue {
    const value = this.#top()
    this.#stack.pop()
    return value
  }
  /** Everything above the last mark. */
  #popMark(): PickleValue[] {
    const mark = this.#marks.pop()
    if (mark === undefined) return refuse('an instruction lacks its mark')
    return this.#stack.splice(mark)
  }
  #append(items: PickleValue[]): void {
    const list = this.#top()
    if (!Array.isArray(list) || Object.isFrozen(list)) return refuse(`it appends to ${kind(list)}`)
    for (const item of items) list.push(item)
  }
  #add(items: PickleValue[]): void {
    const set = this.#top()
    if (!(set instanceof Set)) return refuse(`it adds to ${kind(set)}`)
    for (const item of items) set.add(hashable(item))
  }
  #set(items: PickleValue[]): void {
    const map = this.#top()
    if (!(map instanceof Map)) return refuse(`it sets a key of ${kind(map)}`)
    if (items.length % 2) refuse('a key has no value')
    for (let i = 0; i < items.length; i += 2) {
      const key = hashable(items[i]!)
      if (map.has(key)) refuse(`the key ${show(key)} is there twice in one dictionary`)
      map.set(key, items[i + 1]!)
    }
  }
  #remember(index: number): void {
    if (index >= this.limits.memo) refuse(`it remembers more than ${this.limits.memo} values`)
    this.#memo.set(index, this.#top())
  }
  #recall(index: number): PickleValue {
    if (!this.#memo.has(index)) refuse(`it recalls value ${index}, which was not remembered`)
    return this.#memo.get(index)!
  }
  #global(module: string, name: string): Global {
    const known = this.dialect.globals.get(`${module}.${name}`)
    return known ?? refuse(`it asks for ${show(`${module}.${name}`).slice(1, -1)}`)
  }

  /** The storage of a persistent id: ('storage', class, key, location, elements[, null]). */
  #storage(id: PickleValue): TorchStorage {
    const [what, type, key, location, size, view = null] = isTuple(id) && id.length <= 6 ? id : []
    const dtype = type instanceof Global ? STORAGES.get(type.name) : undefined
    if (what !== 'storage' || !dtype || typeof key !== 'string' || typeof location !== 'string' || !isCount(size))
      return refuse('a persistent id is not that of a storage')
    if (view !== null) refuse(`the storage ${show(key)} is a view of another`)
    const known = this.#storages.get(key)
    if (known && (known.dtype !== dtype || known.size !== size))
      refuse(`the storage ${show(key)} is described in two ways`)
    const storage = known ?? this.#counted(new TorchStorage(dtype, key, size))
    this.#storages.set(key, storage)
    return storage
  }

  /**
   * Refuses values that contain themselves, are nested too deeply, or are small in the file and huge when they are
   * walked.
   */
  #checkForm(root: PickleValue): void {
    const done = new Map<PickleValue, { depth: number; size: number }>()
    const open = new Set<PickleValue>()
    const of = (value: PickleValue): { depth: number; size: number } => {
      const children = members(value)
      if (!children) return { depth: 0, size: 1 }
      const known = done.get(value)
      if (known) return known
      if (open.has(value)) return refuse('a value contains itself')
      if (open.size >= this.limits.depth) refuse(`its values are nested more than ${this.limits.depth} deep`)
      open.add(value)
      let [depth, size] = [1, 1]
      for (const child of children) {
        const inner = of(child)
        depth = Math.max(depth, inner.depth + 1)
        size += inner.size
      }
      open.delete(value)
      // What is deep and used again inside of something deep adds up.
      if (depth + open.size > this.limits.depth) refuse(`its values are nested more than ${this.limits.depth} deep`)
      if (size > this.limits.unfolded) refuse(`its values unfold to more than ${this.limits.unfolded}`)
      done.set(value, { depth, size })
      return { depth, size }
    }
    of(root)
  }
}

/** The values inside of a value; undefined for one without. */
function members(value: PickleValue): Iterable<PickleValue> | undefined {
  if (Array.isArray(value)) return value
  if (value instanceof Set) return value
  if (value instanceof Map) return [...value.keys(), ...value.values()]
  return value instanceof NumpyArray && Array.isArray(value.data) ? value.data : undefined
}

/** Two's complement, lowest byte first. */
function long(bytes: Uint8Array): number | bigint {
  let value = 0n
  for (let i = bytes.length; i--; ) value = (value << 8n) | BigInt(bytes[i]!)
  return narrowed(BigInt.asIntN(8 * bytes.length, value))
}

const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')

/** BUILD: the state of an object that was made before. */
function build(target: PickleValue, state: PickleValue): void {
  if (target instanceof NumpyDtype) buildDtype(target, state)
  else if (target instanceof NumpyArray) buildArray(target, state)
  // Attributes of a dictionary, such as a state dict's _metadata.
  else if (!(target instanceof Map && state instanceof Map)) refuse(`it sets the state of ${kind(target)}`)
}
