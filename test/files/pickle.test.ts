// Pickles, zip archives and files of torch: what is well made is read, and hostile or damaged files are refused.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { InputError } from '../../lib/errors.js'
import { NumpyArray, readPickle, type PickleLimits } from '../../lib/files/pickle.js'
import { readEntry, type TensorData } from '../../lib/files/safetensors.js'
import { readTorch } from '../../lib/files/torch.js'
import { isZip, openZip, readZip } from '../../lib/files/zip.js'
import { Random } from '../../lib/ops/random.js'
import * as p from '../support/pickles.js'
import { hasPython, python } from '../support/python.js'
import { temporaryFolder } from '../support/tiny.js'

const folder = temporaryFolder('pickle')
const write = (bytes: Uint8Array, name = 'file'): string => {
  writeFileSync(join(folder, name), bytes)
  return join(folder, name)
}
const read = (bytes: Uint8Array, limits?: Partial<PickleLimits>) => readPickle(write(bytes), limits)

async function refusal(act: () => Promise<unknown>): Promise<string> {
  try {
    await act()
  } catch (error) {
    assert.instance(error, InputError, String((error as Error).stack))
    const { message } = error as Error
    assert.not.match(message, /\n/)
    assert.ok(message.length < 500, message)
    return message
  }
  return assert.unreachable('nothing was refused') as never
}

const tensors: TensorData[] = [
  { name: 'a', dtype: 'F32', shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
  { name: 'h', dtype: 'F16', shape: [3], data: Uint16Array.of(0x3c00, 0xc000, 0) },
  { name: 'b', dtype: 'BF16', shape: [], data: Uint16Array.of(0x3f80) },
  { name: 'i', dtype: 'I64', shape: [2], data: BigInt64Array.of(7n, -9n) },
  { name: 'nothing', dtype: 'F64', shape: [0, 4], data: new Float64Array(0) },
]

// ---------------------------------------------------------------------------------------------------------- well made

test('plain data of the protocols 2 to 4', async () => {
  const shared = p.code(p.list(p.int(1)), 'q', 9)
  const value = await read(
    p.pickle(
      p.dict(
        ...[p.str('ü☃'), p.code('G', Buffer.from('3ff8000000000000', 'hex'))],
        ...[p.int(-5), p.code(0x8a, 2, 0xff, 0x80)],
        ...[p.str('big'), p.code(0x8a, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1)],
        ...[p.str('t'), p.tuple('N', '\x88', '\x89', p.code('M', 0x34, 0x12))],
        ...[p.str('python 2'), p.code('U', 2, 'a\xe9')],
        ...[p.str('l'), shared],
        ...[p.str('again'), p.code('h', 9)],
        ...[p.str('set'), p.call(p.global('__builtin__', 'set'), p.list(p.int(1), p.int(2)))],
      ),
    ),
  )
  const expected = new Map<unknown, unknown>([
    ['ü☃', 1.5],
    [-5, -32513],
    ['big', 2n ** 64n],
    ['t', [null, true, false, 0x1234]],
    ['python 2', 'aé'],
    ['l', [1]],
    ['again', [1]],
    ['set', new Set([1, 2])],
  ])
  assert.equal(value, expected)
  const map = value as Map<string, unknown>
  assert.is(map.get('l'), map.get('again'))
  assert.equal(Object.isFrozen(map.get('t')), true)
  const four = p.code(0x95, p.u64(10), 0x8c, 1, 'k', 0x94, 'C', 2, 0, 255, 0x94, 0x86)
  assert.equal(await read(p.pickle(four, 4)), ['k', Uint8Array.of(0, 255)] as never)
})

const dtype = (name: string, order = '<'): Buffer =>
  p.code(
    p.call(p.global('numpy', 'dtype'), p.str(name), '\x89', '\x88'),
    p.tuple(p.int(3), p.str(order), 'N', 'N', 'N', p.int(-1), p.int(-1), p.int(0)),
    'b',
  )
const blank = (of = p.global('numpy', 'ndarray')): Buffer =>
  p.call(p.global('numpy.core.multiarray', '_reconstruct'), of, p.tuple(p.int(0)), p.code('U', 1, 'b'))
const ndarray = (shape: number[], type: Buffer, data: Uint8Array | string, columns = '\x89'): Buffer =>
  p.code(blank(), p.tuple(p.int(1), p.tuple(...shape.map(p.int)), type, columns, data), 'b')
/** As Python 2 writes bytes, and as Python 3 does in protocol 2. */
const bytes2 = (data: Uint8Array): Buffer => p.code('T', p.u32(data.length), data)
const bytes3 = (data: Uint8Array): Buffer =>
  p.call(p.global('_codecs', 'encode'), p.str(Buffer.from(data).toString('latin1')), p.str('latin1'))

test('arrays of NumPy in protocol 2: of Python 2 and 3, both byte orders, column-major, objects and scalars', async () => {
  const longs = new Uint8Array(BigInt64Array.of(3n, -200n).buffer)
  const big = Uint8Array.of(0, 1, 0xff, 0xfe)
  const floats = new Uint8Array(Float32Array.of(0, 3, 1, 4, 2, 5).buffer)
  const value = (await read(
    p.pickle(
      p.tuple(
        ndarray([2], dtype('i8'), bytes2(longs)),
        ndarray([2], dtype('i8'), bytes3(longs)),
        ndarray([2], dtype('i2', '>'), bytes2(big)),
        ndarray([2, 3], dtype('f4'), bytes2(floats), '\x88'),
        ndarray([2], dtype('O8', '|'), p.list(p.str('x'), p.list(p.int(1)))),
        p.call(p.global('numpy._core.multiarray', 'scalar'), dtype('i8'), bytes3(longs.subarray(8))),
        p.call(p.global('numpy.core.multiarray', 'scalar'), dtype('b1', '|'), bytes3(Uint8Array.of(1))),
        ndarray([0, 3], dtype('f8'), bytes2(new Uint8Array())),
      ),
    ),
  )) as unknown[]
  const plain = value.map((v) => (v instanceof NumpyArray ? [[...v.shape], v.dtype, v.data] : v))
  assert.equal(plain, [
    [[2], 'i8', BigInt64Array.of(3n, -200n)],
    [[2], 'i8', BigInt64Array.of(3n, -200n)],
    [[2], 'i2', Int16Array.of(1, -2)],
    [[2, 3], 'f4', Float32Array.of(0, 1, 2, 3, 4, 5)],
    [[2], 'O', ['x', [1]]],
    -200,
    true,
    [[0, 3], 'f8', new Float64Array(0)],
  ])
})

for (const [form, file] of [
  ['the zip form', p.torchZip(tensors)],
  ['a training checkpoint', p.torchZip(tensors, 'model')],
  ['the older form', p.torchOld(tensors)],
] as const)
  test(`files of torch: ${form}`, async () => {
    const header = await readTorch(write(file))
    assert.equal(
      [...header.entries].map(([name, e]) => ({ name, dtype: e.dtype, shape: e.shape })),
      tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
    )
    for (const t of tensors)
      assert.equal(await readEntry(header, t.name), new Uint8Array(t.data.buffer), `${form}: ${t.name}`)
    await header.check?.()
    // A stored and aligned tensor can be mapped where it is.
    if (isZip(file)) assert.is(header.entries.get('a')!.begin % 64, 0)
  })

test('several tensors of one storage, an offset, and a transposed one', async () => {
  const of = p.storage('0', { size: 6 })
  const state = p.ordered(
    ...[p.str('whole'), p.rebuilt(of, p.tuple(p.int(2), p.int(3)), p.tuple(p.int(3), p.int(1)))],
    ...[p.str('turned'), p.rebuilt(of, p.tuple(p.int(3), p.int(2)), p.tuple(p.int(1), p.int(3)))],
    ...[p.str('row'), p.rebuilt(of, p.tuple(p.int(3)), p.tuple(p.int(1)), { offset: p.int(3) })],
    ...[
      p.str('parameter'),
      p.call(p.global('torch._utils', '_rebuild_parameter'), p.rebuilt(of, ')', ')'), '\x88', p.ordered()),
    ],
  )
  const data = new Uint8Array(Float32Array.of(0, 1, 2, 3, 4, 5).buffer)
  const header = await readTorch(
    write(
      p.zip([
        { name: 'x/data.pkl', data: p.pickle(state) },
        { name: 'x/data/0', data, align: 64 },
      ]),
    ),
  )
  const values = async (name: string) => new Float32Array((await readEntry(header, name)).buffer)
  assert.equal(await values('whole'), Float32Array.of(0, 1, 2, 3, 4, 5))
  assert.equal(await values('turned'), Float32Array.of(0, 3, 1, 4, 2, 5))
  assert.equal(await values('row'), Float32Array.of(3, 4, 5))
  assert.equal(await values('parameter'), Float32Array.of(0))
})

test('files of an archive, stored and deflated', async () => {
  const text = Buffer.from('abc'.repeat(1000))
  const zip = await openZip(
    write(
      p.zip(
        [
          { name: 'd/deflated', data: text, deflate: true },
          { name: 'stored', data: text },
        ],
        { comment: Buffer.from('PK?') },
      ),
    ),
  )
  assert.equal(
    [...zip.entries.values()].map((e) => e.method),
    ['deflated', 'stored'],
  )
  for (const name of zip.entries.keys()) assert.equal(Buffer.from(await readZip(zip, name, 3000)), text)
  assert.match(await refusal(() => readZip(zip, 'stored', 2999)), /"stored" has 3000 bytes, and at most 2999 are read/)
  assert.match(await refusal(() => readZip(zip, 'other', 1)), /holds no "other"/)
})

// ------------------------------------------------------------------------------------------------------------- hostile

const system = p.call(p.global('posix', 'system'), p.str('touch /tmp/owned'))
const one = p.tuple(p.int(1))
/** A state dict of one tensor in an archive with one storage of 16 bytes. */
const archive = (tensor: Buffer, more: p.ZipPart[] = [], options?: p.ZipOptions): Buffer =>
  p.zip(
    [
      { name: 'a/data.pkl', data: p.pickle(p.dict(p.str('w'), tensor)) },
      { name: 'a/data/0', data: new Uint8Array(16), align: 64 },
      ...more,
    ],
    options,
  )
const fine = p.rebuilt(p.storage('0'), p.tuple(p.int(4)), one)
const rows = p.tuple(p.int(4))
const deep = (n: number, inner = '') => p.code(']'.repeat(n), inner, 'a'.repeat(n - 1))
/** Lists of two times the list before: 2^n values in 8 n bytes. */
const laughs = (n: number): Buffer =>
  p.code(']', 'q', 0, ...Array.from({ length: n }, (_, i) => p.code(p.list('h', i, 'h', i), 'q', i + 1)), 't')

const data: [string, Uint8Array, RegExp, Partial<PickleLimits>?][] = [
  ['os.system', p.pickle(system), /it asks for posix\.system, at byte 2/],
  ['eval', p.pickle(p.call(p.global('__builtin__', 'eval'), p.str('1'))), /it asks for __builtin__\.eval/],
  ['exec', p.pickle(p.call(p.global('builtins', 'exec'), p.str('1'))), /it asks for builtins\.exec/],
  [
    'a global that only looks like ours',
    p.pickle(p.global('numpy.core', 'multiarray._reconstruct\0')),
    /it asks for numpy\.core\.multiarray/,
  ],
  ['getattr', p.pickle(p.global('builtins', 'getattr')), /it asks for builtins\.getattr/],
  ['a global from the stack', p.pickle(p.code(p.str('os'), p.str('system'), 0x93), 4), /it asks for os\.system/],
  ['a global without a name', p.pickle(p.code(p.int(1), p.int(2), 0x93), 4), /a global has no name/],
  ['a global without an end', p.pickle(p.code('c', 'x'.repeat(600))), /a global has no end of its name/],
  ['torch in a file of data', p.pickle(p.global('torch', 'FloatStorage')), /it asks for torch\.FloatStorage/],
  ['a class that reduces itself', p.pickle(p.code('(i', 'os\nsystem\n')), /uses the opcode INST \(0x69\)/],
  ['OBJ', p.pickle(p.code('(', p.str('x'), 'o')), /the opcode OBJ/],
  ['an extension', p.pickle(p.code(0x82, 1)), /the opcode EXT1 \(0x82\)/],
  ['NEWOBJ_EX', p.pickle(p.code('NN}', 0x92), 4), /the opcode NEWOBJ_EX/],
  ['a buffer from elsewhere', p.pickle(p.code(0x97), 4), /the opcode NEXT_BUFFER/],
  ['BYTEARRAY8', p.pickle(p.code(0x96, p.u64(1), 0), 4), /the opcode BYTEARRAY8/],
  ['a persistent id in a file of data', p.pickle(p.code('N', 'Q')), /the opcode BINPERSID/],
  ['text opcodes', p.pickle('I1\n'), /the opcode INT \(0x49\)/],
  ['an unknown opcode', p.pickle(p.code(0xff)), /an unknown opcode \(0xff\)/],
  ['protocol 0', Buffer.from('(dp0\n.'), /does not begin as a pickle of protocol 2 or later/],
  ['protocol 5', p.pickle('N', 5), /its protocol is 5, expected 2 to 4/],
  ['two protocols', p.pickle(p.code(0x80, 2, 'N')), /states its protocol twice/],
  ['empty', Buffer.alloc(0), /does not begin as a pickle/],
  ['no end', p.code(0x80, 2, 'N'), /ends inside an instruction/],
  ['bytes behind the end', p.code(p.pickle('N'), 'N'), /1 bytes follow its end/],
  ['a string longer than the file', p.pickle(p.code('X', p.u32(2 ** 31))), /takes 2147483648 more bytes/],
  ['a frame longer than the file', p.pickle(p.code(0x95, p.u64(2 ** 40), 'N'), 4), /a frame is longer than the file/],
  ['a string that is not UTF-8', p.pickle(p.code('X', p.u32(2), 0xff, 0xfe)), /a string is not UTF-8/],
  ['an empty stack', p.pickle(''), /lacks its operand/],
  ['a mark that is missing', p.pickle('t'), /lacks its mark/],
  ['values that are left', p.pickle('NN'), /ends with values that belong to nothing/],
  ['a mark that is left', p.pickle('N('), /lacks its operand/],
  ['a pop below a mark', p.pickle('N(N\x85\x85t'), /lacks its operand|belong to nothing/],
  ['too many marks', p.pickle('('.repeat(100)), /more than 64 marks are open/],
  ['a memo bomb', p.pickle(p.code('N', 'r', p.u32(2 ** 32 - 1))), /remembers more than 10000000 values/],
  ['a memo that was never set', p.pickle(p.code('h', 7)), /recalls value 7, which was not remembered/],
  ['values nested too deeply', p.pickle(deep(100)), /nested more than 64 deep/],
  [
    'depth out of shared parts',
    p.pickle(p.code(deep(40), 'q', 0, deep(40, 'h\0a'), p.code(0x86))),
    /nested more than 64 deep/,
  ],
  ['a value that contains itself', p.pickle(p.code(']', 'q', 0, 'h', 0, 'a')), /a value contains itself/],
  ['the billion laughs', p.pickle(p.code('(', laughs(40))), /unfold to more than 100000000/],
  ['more objects than allowed', p.pickle(p.tuple(']'.repeat(50))), /makes more than 20 objects/, { objects: 20 }],
  ['more instructions than allowed', p.pickle(p.tuple('N'.repeat(50))), /more than 20 instructions/, { opcodes: 20 }],
  [
    'more bytes than allowed',
    p.pickle(p.tuple('N'.repeat(50))),
    /it has 55 bytes, and at most 20 are read/,
    { bytes: 20 },
  ],
  ['appending to a tuple', p.pickle(p.code(one, 'N', 'a')), /it appends to a tuple/],
  ['setting a key of a list', p.pickle(']NNs'), /it sets a key of a list/],
  ['a key twice', p.pickle(p.dict(p.str('k'), 'N', p.str('k'), 'N')), /the key "k" is there twice/],
  ['a key without a value', p.pickle('}(Nu'), /a key has no value/],
  ['a list as a key', p.pickle('}]Ns'), /a key is a list/],
  ['a call of a string', p.pickle(p.call(p.str('os.system'), p.str('x'))), /it calls a string/],
  ['a call with a list', p.pickle(p.code(p.global('numpy', 'dtype'), ']R')), /with a list in place of arguments/],
  [
    'a class that is called',
    p.pickle(p.call(p.global('numpy', 'ndarray'), one)),
    /calls numpy\.ndarray, which may only be named/,
  ],
  ['state for a number', p.pickle(p.code(p.int(1), '}b')), /sets the state of a number/],
  ['an array of another class', p.pickle(blank(p.global('numpy', 'dtype'))), /another class than numpy\.ndarray/],
  [
    'an array with too few bytes',
    p.pickle(ndarray([3], dtype('i8'), bytes2(new Uint8Array(8)))),
    /of 3 elements of 8 bytes holds 8 bytes/,
  ],
  [
    'an array larger than numbers go',
    p.pickle(
      ndarray(
        [65535, 65535, 65535, 65535, 65535].map(() => 2 ** 31 - 1),
        dtype('i8'),
        bytes2(new Uint8Array(8)),
      ),
    ),
    /state of an array is incomplete/,
  ],
  [
    'an array of records',
    p.pickle(p.call(p.global('numpy', 'dtype'), p.str('V8'), '\x89', '\x88')),
    /element type "V8"/,
  ],
  [
    'an array without objects',
    p.pickle(ndarray([3], dtype('O8', '|'), bytes2(new Uint8Array(24)))),
    /an array of 3 objects holds a string/,
  ],
  [
    'an encoding that executes',
    p.pickle(p.call(p.global('_codecs', 'encode'), p.str('x'), p.str('zlib'))),
    /something else than Latin-1 text/,
  ],
  ['a set of nothing', p.pickle(p.call(p.global('builtins', 'set'), p.int(5))), /a set is made of no list/],
  ['a Git LFS pointer', Buffer.from('version https://git-lfs.github.com/spec/v1\n'), /Git LFS pointer/],
]

const strange = (name: string): Buffer => archive(fine, [{ name, data: Buffer.from('x') }])
const torch: [string, Uint8Array, RegExp][] = [
  ['os.system in data.pkl', archive(system), /data\.pkl\).*it asks for posix\.system/],
  ['a class of torch that loads code', archive(p.global('torch.jit', '_unpickler')), /asks for torch\.jit\._unpickler/],
  ['an opcode beyond those of torch', archive(p.code(p.str('os'), p.str('system'), 0x93)), /the opcode STACK_GLOBAL/],
  ['bytes of protocol 3', archive(p.code('C', 1, 'x')), /the opcode SHORT_BINBYTES/],
  [
    'the rebuild function of before',
    archive(p.global('torch._utils', '_rebuild_tensor')),
    /asks for torch\._utils\._rebuild_tensor,/,
  ],
  [
    'a call of a storage',
    archive(p.call(p.global('torch', 'FloatStorage'), p.int(4))),
    /torch\.FloatStorage, which may only be named/,
  ],
  [
    'a tensor beyond its storage',
    archive(p.rebuilt(p.storage('0'), p.tuple(p.int(5)), one)),
    /reaches to element 4 of the storage "0", which has 4/,
  ],
  ['an offset beyond it', archive(p.rebuilt(p.storage('0'), rows, one, { offset: p.int(1) })), /reaches to element 4/],
  [
    'a negative offset',
    archive(p.rebuilt(p.storage('0'), rows, one, { offset: p.int(-1) })),
    /that are not whole numbers/,
  ],
  ['a negative stride', archive(p.rebuilt(p.storage('0'), rows, p.tuple(p.int(-1)))), /that are not whole numbers/],
  ['sizes without strides', archive(p.rebuilt(p.storage('0'), rows, ')')), /has 1 sizes and 0 strides/],
  ['hooks', archive(p.rebuilt(p.storage('0'), rows, one, { hooks: p.ordered(p.str('x'), 'N') })), /a tensor has hooks/],
  ['a tensor without storage', archive(p.rebuilt(p.int(1), rows, one)), /a tensor has no storage/],
  [
    'an element repeated',
    archive(p.rebuilt(p.storage('0'), p.tuple(p.int(2 ** 30)), p.tuple(p.int(0)))),
    /has 1073741824 elements, and its storage 4/,
  ],
  [
    'a storage that is not there',
    archive(p.rebuilt(p.storage('1'), rows, one)),
    /the storage "1" is not in its archive/,
  ],
  [
    'a storage by a path',
    archive(p.rebuilt(p.storage('../data.pkl'), rows, one)),
    /the storage "\.\.\/data\.pkl" is not in its archive/,
  ],
  [
    'a storage of another size',
    archive(p.rebuilt(p.storage('0', { size: 100 }), rows, one)),
    /has 16 bytes, and 100 elements of F32 take 400/,
  ],
  [
    'a storage in two ways',
    archive(p.code(p.tuple(fine, p.rebuilt(p.storage('0', { type: 'Int' }), rows, one)))),
    /described in two ways/,
  ],
  ['a view of a storage', archive(p.rebuilt(p.storage('0', { more: p.tuple() }), rows, one)), /is a view of another/],
  [
    'an unknown storage',
    archive(p.rebuilt(p.storage('0', { type: 'Quint8' }), rows, one)),
    /asks for torch\.Quint8Storage/,
  ],
  ['an id that is none', archive(p.code(p.str('x'), 'Q')), /not that of a storage/],
  ['a state dict of numbers', archive(p.int(3)), /"w" is no tensor/],
  ['no tensor', p.zip([{ name: 'a/data.pkl', data: p.pickle('}') }]), /holds no tensor/],
  [
    'a module in place of a state dict',
    p.zip([{ name: 'a/data.pkl', data: p.pickle(p.int(1)) }]),
    /holds no dictionary of tensors/,
  ],
  [
    'bytes behind data.pkl',
    p.zip([{ name: 'a/data.pkl', data: p.code(p.pickle('}'), system) }]),
    /bytes follow the end of data\.pkl/,
  ],
  ['two pickles', strange('b/data.pkl'), /has 2 files DIRECTORY\/data\.pkl/],
  ['no pickle', p.zip([{ name: 'data.pkl', data: p.pickle('}') }]), /has 0 files DIRECTORY\/data\.pkl/],
  ['big-endian numbers', archive(fine, [{ name: 'a/byteorder', data: Buffer.from('big') }]), /in the byte order "big"/],
  [
    'a storage that is compressed',
    p.zip([
      { name: 'a/data.pkl', data: p.pickle(p.dict(p.str('w'), fine)) },
      { name: 'a/data/0', data: new Uint8Array(16), deflate: true },
    ]),
    /"0" is compressed/,
  ],
  // of the archive
  ['a name with ..', strange('a/../../x'), /"a\/\.\.\/\.\.\/x" is not a plain relative path/],
  ['an absolute name', strange('/etc/passwd'), /"\/etc\/passwd" is not a plain relative path/],
  ['a name of Windows', strange('C:\\x'), /is not a plain relative path/],
  ['a name with a zero', strange('a/data/0\0.txt'), /is not a plain relative path/],
  ['a name twice', strange('a/data/0'), /the name "a\/data\/0" is there twice/],
  [
    'two names for the same bytes',
    archive(fine, [
      { name: 'b', data: p.pickle(p.dict(p.str('w'), fine)), localName: 'a/data.pkl', at: 0, ghost: true },
    ]),
    /the local header of "b" has the name "a\/data\.pkl"/,
  ],
  [
    'entries that overlap',
    archive(
      fine,
      [{ name: 'a/data/0', data: new Uint8Array(8), at: 0, ghost: true }].map((x) => ({ ...x, name: 'a/data.pkl2' })),
    ),
    /the local header of "a\/data\.pkl2" has the name/,
  ],
  [
    'a file inside another',
    p.zip([
      { name: 'o', data: p.code('xx', p.zip([{ name: 'i', data: Buffer.from('y') }]).subarray(0, 32)) },
      { name: 'i', data: Buffer.from('y'), at: 33, ghost: true },
    ]),
    /"o" overlaps i by/,
  ],
  [
    'another name in the local header',
    archive(fine, [{ name: 'x', data: Buffer.from('x'), localName: 'y' }]),
    /the local header of "x" has the name "y"/,
  ],
  [
    'another size in the local header',
    archive(fine, [{ name: 'x', data: Buffer.from('x'), localSize: 9 }]),
    /has another size or checksum/,
  ],
  [
    'two sizes of a stored file',
    archive(fine, [{ name: 'x', data: Buffer.from('x'), size: 9 }]),
    /stored as it is, and has two sizes/,
  ],
  [
    'an encrypted file',
    archive(fine, [{ name: 'x', data: Buffer.from('x'), flags: 1 }]),
    /is encrypted or has unknown flags/,
  ],
  [
    'another compression',
    archive(fine, [{ name: 'x', data: Buffer.from('x'), method: 12 }]),
    /compressed by method 12/,
  ],
  [
    'a checksum that is wrong',
    p.zip([{ name: 'a/data.pkl', data: p.pickle('}'), crc: 5 }]),
    /the bytes of "a\/data\.pkl" do not have its checksum/,
  ],
  [
    'a bomb that unpacks to more',
    p.zip([{ name: 'a/data.pkl', data: new Uint8Array(2 ** 20), deflate: true, size: 10 }]),
    /unpacks to more than its 10 bytes/,
  ],
  [
    'a file that unpacks to less',
    p.zip([{ name: 'a/data.pkl', data: new Uint8Array(10), deflate: true, size: 20 }]),
    /has 10 bytes, and 20 are stated/,
  ],
  [
    'deflated bytes that are none',
    p.zip([{ name: 'a/data.pkl', data: Buffer.from('\xff\xff\xff'), method: 8 }]),
    /cannot be unpacked/,
  ],
  [
    'a pickle of 64 MiB and more',
    p.zip([{ name: 'a/data.pkl', data: new Uint8Array(2 ** 26 + 1), deflate: true }]),
    /has 67108865 bytes, and at most 67108864 are read/,
  ],
  ['more lines than there are', archive(fine, [], { count: 3 }), /line 3 of its directory is not there/],
  ['fewer lines than there are', archive(fine, [], { count: 1 }), /bytes of its directory belong to no file/],
  ['several disks', archive(fine, [], { disk: 1 }), /one of several parts/],
  ['a directory elsewhere', archive(fine, [], { begin: 7 }), /does not end where its end record begins/],
  ['two ends', archive(fine, [], { comment: p.code('PK\x05\x06', Buffer.alloc(18)) }), /it has two ends/],
  ['cut at the end', archive(fine).subarray(0, -30), /no end record; it may be truncated/],
  ['cut at the beginning', archive(fine).subarray(60), /neither as an archive nor/],
  // the older form
  ['another number at the beginning', p.pickle(p.int(5)), /neither as an archive nor with the number of older files/],
  ['a web page', Buffer.from('<!doctype html>'), /neither as an archive nor/],
  ['os.system in the older form', p.code(p.oldHead(), p.pickle(system)), /asks for posix\.system/],
  ['storages cut short', p.torchOld(tensors).subarray(0, -3), /elements, and its tensors say|behind the file/],
  ['bytes behind the storages', p.code(p.torchOld(tensors), 'x'), /1 bytes at its end belong to no storage/],
  [
    'a storage that is not listed',
    p.code(p.oldHead(), p.pickle(p.dict(p.str('w'), fine)), p.pickle(']')),
    /the storage "0" is not in it/,
  ],
  [
    'a storage that nothing uses',
    p.code(p.oldHead(), p.pickle(p.dict(p.str('w'), fine)), p.pickle(p.list(p.str('9')))),
    /storage "9", to which no tensor refers/,
  ],
]

for (const [name, bytes, message, limits] of data)
  test(`a pickle of data is refused: ${name}`, async () => {
    assert.match(await refusal(() => read(bytes, limits)), message)
  })
for (const [name, bytes, message] of torch)
  test(`a file of torch is refused: ${name}`, async () => {
    assert.match(await refusal(() => readTorch(write(bytes))), message)
  })
test('there are at least 40 hostile files of torch, and no program ran', () => {
  assert.ok(torch.length >= 40, String(torch.length))
  assert.not.ok(existsSync('/tmp/owned'))
})

test('a storage whose bytes were changed is found by its checksum', async () => {
  const file = p.torchZip(tensors)
  const whole = await readTorch(write(file))
  file[whole.entries.get('a')!.begin + 5]! ^= 1
  const header = await readTorch(write(file))
  assert.match(await refusal(() => header.check!()), /the bytes of "archive\/data\/0" do not have its checksum/)
})

test('damaged files: a value or one sentence, never another error', async () => {
  const good = [p.torchZip(tensors), p.torchZip(tensors, 'model'), p.torchOld(tensors)]
  const plain = p.pickle(
    p.tuple(ndarray([2, 2], dtype('f4'), bytes3(new Uint8Array(16)), '\x88'), p.dict(p.str('k'), p.list(p.int(1)))),
  )
  const random = new Random(11)
  let refusals = 0
  for (let round = 0; round < 900; round++) {
    const torch = round % 4 < 3
    const bytes = Buffer.from(torch ? good[round % 4]! : plain)
    const draws = random.uniform([1 + (round % 5), 2])
    const numbers = (await draws.data()) as Float32Array
    draws.dispose()
    for (let i = 0; i < numbers.length; i += 2)
      bytes[Math.floor(numbers[i]! * bytes.length) % bytes.length] = Math.floor(numbers[i + 1]! * 256)
    const cut = round % 7 === 0 ? bytes.subarray(0, Math.floor(numbers[0]! * bytes.length)) : bytes
    try {
      if (torch) {
        const header = await readTorch(write(cut))
        await header.check?.()
        for (const name of header.entries.keys()) await readEntry(header, name)
      } else await read(cut)
    } catch (error) {
      assert.instance(error, InputError, `round ${round}: ${(error as Error).stack}`)
      refusals++
    }
  }
  assert.ok(refusals > 300, `${refusals} refused`)
})

test('files that torch itself writes (MT_PYTHON, with torch)', async () => {
  if (!hasPython('torch')) return
  const source = `
import sys, torch
sd = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)).state_dict()
for i, (k, v) in enumerate(sd.items()): v.copy_(torch.arange(v.numel(), dtype=v.dtype).reshape(v.shape) + i)
sd['turned'] = sd['0.weight'].t(); sd['half'] = torch.ones(5, dtype=torch.float16)
sd['parameter'] = torch.nn.Parameter(torch.zeros(2)); sd['ids'] = torch.arange(4)
torch.save({'model': sd, 'epoch': 3, 'config': {'run': {'lr': 1e-4}}}, sys.argv[1] + '/new.pth')
torch.save(sd, sys.argv[1] + '/old.bin', _use_new_zipfile_serialization=False)`
  python(source, folder)
  for (const name of ['new.pth', 'old.bin']) {
    assert.ok(readFileSync(join(folder, name)).length)
    const header = await readTorch(join(folder, name))
    await header.check?.()
    const numbers = async (tensor: string) => [...new Float32Array((await readEntry(header, tensor)).buffer)]
    assert.equal(await numbers('0.weight'), [0, 1, 2, 3, 4, 5])
    assert.equal(await numbers('turned'), [0, 3, 1, 4, 2, 5])
    assert.equal(await numbers('1.bias'), [3, 4])
    assert.equal([...header.entries].map(([k, e]) => `${k} ${e.dtype} ${e.shape}`).slice(4), [
      'turned F32 3,2',
      'half F16 5',
      'parameter F32 2',
      'ids I64 4',
    ])
  }
})

test.run()
