import { test } from 'uvu'
import * as assert from 'uvu/assert'
import * as fs from 'node:fs/promises'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { InputError } from '../../lib/errors.js'
import { writeFileAtomic, type FileSystem } from '../../lib/files/atomic.js'
import { readAsFloat32, readEntry, readHeader, writeSafetensors } from '../../lib/files/safetensors.js'

const folder = mkdtempSync(join(tmpdir(), 'mtransllama-safetensors-'))
test.after(() => rmSync(folder, { recursive: true, force: true }))
const at = (name: string) => join(folder, name)

/** A file from a header (text or object) and data bytes; `length` overrides the header length. */
function build(name: string, header: unknown, data = 0, length?: bigint): string {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const head = Buffer.alloc(8)
  head.writeBigUInt64LE(length ?? BigInt(text.length))
  writeFileSync(at(name), Buffer.concat([head, text, Buffer.alloc(data)]))
  return at(name)
}

async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    assert.instance(error, InputError)
    const { message } = error as Error
    assert.not.match(message, /\n/)
    return message
  }
  return assert.unreachable('nothing was refused') as never
}

test('what is written is read again, aligned, with its metadata', async () => {
  const path = at('round.safetensors')
  const weights = Float32Array.of(1.5, -2, 3e-8, Infinity, 0, -0)
  await writeSafetensors(
    path,
    [
      { name: 'mask', dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 3) },
      { name: 'ids', dtype: 'I64', shape: [1, 2], data: BigInt64Array.of(-100n, 7n) },
      { name: 'weights', dtype: 'F32', shape: [2, 3], data: weights },
      { name: 'scalar', dtype: 'F32', shape: [], data: Float32Array.of(4) },
      { name: 'nothing', dtype: 'F32', shape: [0, 5], data: new Float32Array(0) },
    ],
    { config: '{"a":1}' },
  )
  const header = await readHeader(path)
  assert.equal(header.metadata, { config: '{"a":1}' })
  assert.equal([...header.entries.keys()].sort(), ['ids', 'mask', 'nothing', 'scalar', 'weights'])
  assert.is(Math.min(...[...header.entries.values()].map((e) => e.begin)) % 64, 0)
  assert.is(header.entries.get('ids')!.begin % 8, 0)
  assert.is(header.entries.get('weights')!.begin % 4, 0)
  assert.equal(await readAsFloat32(header, 'weights'), weights)
  assert.equal(new BigInt64Array((await readEntry(header, 'ids')).buffer), BigInt64Array.of(-100n, 7n))
  assert.equal(await readAsFloat32(header, 'scalar'), Float32Array.of(4))
  assert.is((await readEntry(header, 'nothing')).length, 0)
  assert.match(await refusal(readEntry(header, 'absent')), /no tensor named "absent"/)
  assert.match(await refusal(readAsFloat32(header, 'mask')), /tensor mask: expected a floating-point dtype .* got "U8"/)
  assert.equal(readdirSync(folder), ['round.safetensors'])
})

test('float16, bfloat16 and float64 are widened exactly', async () => {
  const path = at('half.safetensors')
  const f16 = Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x83ff, 0x7c00, 0x8000, 0x7e00)
  const bf16 = Uint16Array.of(0x3f80, 0xc000, 0x0001, 0xff80, 0x7fc0)
  await writeSafetensors(path, [
    { name: 'f16', dtype: 'F16', shape: [9], data: f16 },
    { name: 'bf16', dtype: 'BF16', shape: [5], data: bf16 },
    { name: 'f64', dtype: 'F64', shape: [2], data: Float64Array.of(0.1, -1e300) },
  ])
  const header = await readHeader(path)
  assert.equal(
    [...(await readAsFloat32(header, 'f16'))],
    [1, -2, 65504, 2 ** -14, 2 ** -24, -1023 * 2 ** -24, Infinity, -0, NaN],
  )
  assert.equal([...(await readAsFloat32(header, 'bf16'))], [1, -2, 2 ** -133, -Infinity, NaN])
  assert.equal([...(await readAsFloat32(header, 'f64'))], [Math.fround(0.1), -Infinity])
})

const good = { dtype: 'F32', shape: [2], data_offsets: [0, 8] }
const malformed: [string, () => string, RegExp][] = [
  ['missing', () => at('none.safetensors'), /no such file/],
  ['a folder', () => folder, /it is a folder/],
  [
    'empty',
    () => {
      writeFileSync(at('f'), '')
      return at('f')
    },
    /it has 0 bytes/,
  ],
  [
    'too short',
    () => {
      writeFileSync(at('f'), 'abc')
      return at('f')
    },
    /it has 3 bytes/,
  ],
  ['header too large', () => build('f', '{}', 0, 100_000_001n), /claims 100000001 bytes.*at most 100000000/],
  ['header length absurd', () => build('f', '{}', 0, 2n ** 64n - 1n), /allows at most/],
  ['header past the file', () => build('f', '{}', 0, 50n), /the file ends after 10; it may be truncated/],
  ['not JSON', () => build('f', 'PK\u0003\u0004 zip?'), /header is not JSON/],
  ['header empty', () => build('f', ''), /header is not JSON/],
  [
    'not UTF-8',
    () => {
      writeFileSync(at('f'), Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe]))
      return at('f')
    },
    /not UTF-8/,
  ],
  ['not an object', () => build('f', '[1]'), /not a JSON object/],
  ['null', () => build('f', 'null'), /not a JSON object/],
  ['metadata of numbers', () => build('f', { __metadata__: { a: 1 } }), /__metadata__ must map names to strings/],
  ['entry no object', () => build('f', { a: 3 }), /"a" is described by 3/],
  ['dtype unknown', () => build('f', { a: { ...good, dtype: 'F31' } }, 8), /"a" has the dtype "F31"/],
  ['dtype of the prototype', () => build('f', { a: { ...good, dtype: 'toString' } }, 8), /has the dtype "toString"/],
  ['dtype missing', () => build('f', { a: { shape: [2], data_offsets: [0, 8] } }, 8), /has the dtype undefined/],
  ['shape negative', () => build('f', { a: { ...good, shape: [-2] } }, 8), /has the shape \[-2\]/],
  ['shape fractional', () => build('f', { a: { ...good, shape: [0.5, 4] } }, 8), /has the shape/],
  ['shape missing', () => build('f', { a: { dtype: 'F32', data_offsets: [0, 8] } }, 8), /has the shape undefined/],
  ['offsets missing', () => build('f', { a: { dtype: 'F32', shape: [2] } }, 8), /data_offsets undefined/],
  ['three offsets', () => build('f', { a: { ...good, data_offsets: [0, 8, 9] } }, 8), /data_offsets \[0,8,9\]/],
  ['offset as text', () => build('f', { a: { ...good, data_offsets: ['0', 8] } }, 8), /expected two whole numbers/],
  [
    'end before begin',
    () => build('f', { a: { ...good, data_offsets: [8, 0] } }, 8),
    /ends \(0\) before it begins \(8\)/,
  ],
  [
    'size and shape disagree',
    () => build('f', { a: { ...good, shape: [3] } }, 8),
    /takes 8 bytes, but F32 of shape \[3\] takes 12/,
  ],
  ['size overflows', () => build('f', { a: { ...good, shape: [2 ** 40, 2 ** 40] } }, 8), /takes 8 bytes/],
  [
    'truncated',
    () => build('f', { a: good, b: { ...good, data_offsets: [8, 16] } }, 12),
    /"b" reaches to byte \d+, but the file has \d+ bytes; it is truncated/,
  ],
  [
    'overlap',
    () => build('f', { a: good, b: { ...good, data_offsets: [4, 12] } }, 12),
    /"b" overlaps that of "a" by 4 bytes/,
  ],
  ['the same bytes twice', () => build('f', { a: good, b: good }, 8), /overlaps/],
  [
    'gap',
    () => build('f', { a: good, b: { ...good, data_offsets: [12, 20] } }, 20),
    /4 bytes before the data of "b" belong to no tensor/,
  ],
  [
    'gap at the beginning',
    () => build('f', { a: { ...good, data_offsets: [4, 12] } }, 12),
    /4 bytes before the data of "a"/,
  ],
  ['trailing bytes', () => build('f', { a: good }, 11), /3 bytes at its end belong to no tensor/],
  [
    'duplicate name',
    () => build('f', `{"a":${JSON.stringify(good)},"\\u0061":${JSON.stringify(good)}}`, 8),
    /the key "a" occurs twice/,
  ],
  [
    'duplicate field',
    () => build('f', '{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
    /the key "dtype" occurs twice/,
  ],
]
for (const [name, make, expected] of malformed) {
  test(`refused: ${name}`, async () => {
    const path = make()
    const message = await refusal(readHeader(path))
    assert.match(message, expected)
    assert.ok(message.startsWith(path))
  })
}

test('an empty file of the format and padded headers are fine', async () => {
  assert.is((await readHeader(build('f', '{}'))).entries.size, 0)
  assert.is((await readHeader(build('f', `${JSON.stringify({ a: good })}      `, 8))).entries.size, 1)
  assert.is(
    (await readHeader(build('f', '{"a{\\"[": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8))).entries.size,
    1,
  )
})

test('a file cut after its header was read is noticed', async () => {
  const header = await readHeader(build('f', { a: good }, 8))
  writeFileSync(at('f'), '')
  assert.match(await refusal(readEntry(header, 'a')), /has been cut since it was opened/)
})

test('tensors are checked before they are written', async () => {
  const write = (...tensors: Parameters<typeof writeSafetensors>[1][number][]) =>
    refusal(writeSafetensors(at('w.safetensors'), tensors))
  const two = new Float32Array(2)
  assert.match(await write({ name: 'a', dtype: 'F32', shape: [3], data: two }), /tensor a: expected 12 bytes .* got 8/)
  assert.match(
    await write({ name: 'a', dtype: 'F32', shape: [2], data: two }, { name: 'a', dtype: 'F32', shape: [2], data: two }),
    /every name once/,
  )
  assert.match(await write({ name: 'a', dtype: 'Q4' as 'F32', shape: [2], data: two }), /a dtype of/)
  assert.not(readdirSync(folder).includes('w.safetensors'))
})

/** The real file system in which one call fails. */
function failing(call: 'open' | 'write' | 'sync' | 'rename', code: string, after = 0): FileSystem {
  const fail = () => Promise.reject(Object.assign(new Error(`${code}: simulated`), { code }))
  return {
    unlink: fs.unlink,
    rename: call === 'rename' ? fail : fs.rename,
    open:
      call === 'open'
        ? fail
        : async (path, flags) => {
            const handle = await fs.open(path, flags)
            let writes = 0
            return {
              write: ((...args: [Uint8Array, number, number]) =>
                call === 'write' && writes++ >= after ? fail() : handle.write(...args)) as fs.FileHandle['write'],
              sync: () => (call === 'sync' ? fail() : handle.sync()),
              close: () => handle.close(),
            }
          },
  }
}

for (const [call, code, after, words] of [
  ['write', 'ENOSPC', 0, /the disk is full \(ENOSPC\); nothing was left half-written/],
  ['write', 'ENOSPC', 1, /the disk is full/],
  ['sync', 'EIO', 0, /cannot be written/],
  ['rename', 'EACCES', 0, /no permission/],
  ['open', 'EROFS', 0, /read-only/],
] as const) {
  test(`${call} fails with ${code} after ${after} writes: the old file stays, no temporary one remains`, async () => {
    const path = at('kept.safetensors')
    const tensor = (value: number) => [{ name: 'a', dtype: 'F32' as const, shape: [1], data: Float32Array.of(value) }]
    await writeSafetensors(path, tensor(1))
    const before = readdirSync(folder).sort()
    assert.match(await refusal(writeSafetensors(path, tensor(2), {}, failing(call, code, after))), words)
    assert.equal(readdirSync(folder).sort(), before)
    assert.equal(await readAsFloat32(await readHeader(path), 'a'), Float32Array.of(1))
    assert.match(await refusal(writeFileAtomic(path, '{}', failing(call, code, call === 'write' ? 0 : after))), words)
    assert.equal(readdirSync(folder).sort(), before)
  })
}

test('a short write is continued, a folder that does not exist is named', async () => {
  const path = at('short.json')
  const slow: FileSystem = {
    ...fs,
    open: async (p, flags) => {
      const handle = await fs.open(p, flags)
      return {
        write: ((bytes: Uint8Array, from: number, n: number) =>
          handle.write(bytes, from, Math.min(n, 3))) as fs.FileHandle['write'],
        sync: () => handle.sync(),
        close: () => handle.close(),
      }
    },
  }
  await writeFileAtomic(path, '{"text":"zwölf"}', slow)
  assert.is(await fs.readFile(path, 'utf8'), '{"text":"zwölf"}')
  assert.match(await refusal(writeFileAtomic(at('no/such/file.json'), '{}')), /its folder does not exist/)
})

test.run()
