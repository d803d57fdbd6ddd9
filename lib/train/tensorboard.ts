/**
 * TensorBoard's event files: records of a length, its checksum, an `Event` in protocol buffers, and the checksum of
 * that (tensorflow/core/lib/io/record_writer.h, tensorboard/compat/proto/event.proto). Only scalars are written.
 */
import { readdir } from 'node:fs/promises'
import { hostname } from 'node:os'

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1
  return c >>> 0
})

/** CRC-32C (Castagnoli) of bytes. */
export function crc32c(bytes: Uint8Array): number {
  let c = 0xffffffff
  for (const byte of bytes) c = TABLE[(c ^ byte) & 0xff]! ^ (c >>> 8)
  return (c ^ 0xffffffff) >>> 0
}

/** A checksum as the format stores it. */
function masked(bytes: Uint8Array): Buffer {
  const crc = crc32c(bytes)
  const out = Buffer.alloc(4)
  out.writeUInt32LE((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0)
  return out
}

/** A record of an event file. */
export function record(event: Uint8Array): Buffer {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(event.byteLength))
  return Buffer.concat([length, masked(length), event, masked(event)])
}

// ---- protocol buffers: a field is its number and wire type, then its value ----

const [VARINT, DOUBLE, BYTES, FLOAT] = [0, 1, 2, 5] as const

function varint(value: number): Buffer {
  const bytes: number[] = []
  let rest = BigInt(value)
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128)
  return Buffer.from([...bytes, Number(rest)])
}
const key = (field: number, type: number): Buffer => varint(field * 8 + type)
function double(field: number, value: number): Buffer {
  const out = Buffer.alloc(8)
  out.writeDoubleLE(value)
  return Buffer.concat([key(field, DOUBLE), out])
}
function float(field: number, value: number): Buffer {
  const out = Buffer.alloc(4)
  out.writeFloatLE(value)
  return Buffer.concat([key(field, FLOAT), out])
}
function bytes(field: number, value: Uint8Array | string): Buffer {
  const content = Buffer.from(value as string)
  return Buffer.concat([key(field, BYTES), varint(content.length), content])
}

const event = (time: number, step: number, what: Buffer): Buffer =>
  Buffer.concat([double(1, time), key(2, VARINT), varint(step), what])

/** The record that every file begins with. */
export const versionRecord = (time: number): Buffer =>
  record(Buffer.concat([double(1, time), bytes(3, 'brain.Event:2')]))

/** A record that says: a process starts; of the files before, what is of `step` and later does not count. */
export const startRecord = (time: number, step: number): Buffer =>
  record(event(time, step, bytes(7, Buffer.concat([key(1, VARINT), varint(1)]))))

/** A record of numbers by name at a step; `time` in seconds since 1970. */
export const scalarRecord = (time: number, step: number, scalars: Readonly<Record<string, number>>): Buffer =>
  record(
    event(
      time,
      step,
      bytes(
        5,
        Buffer.concat(
          Object.entries(scalars).map(([tag, value]) => bytes(1, Buffer.concat([bytes(1, tag), float(2, value)]))),
        ),
      ),
    ),
  )

/**
 * The name of a new event file in a folder. TensorBoard reads files in the order of their names, whose number is a
 * time: it is after those that are there, also where the clock was set back.
 */
export async function eventFileName(folder: string, seconds: number): Promise<string> {
  const before = (await readdir(folder).catch(() => [])).flatMap((name) => {
    const number = /^events\.out\.tfevents\.(\d+)\./.exec(name)?.[1]
    return number === undefined ? [] : [Number(number)]
  })
  const number = Math.max(Math.floor(seconds), ...before.map((n) => n + 1))
  return `events.out.tfevents.${String(number).padStart(10, '0')}.${hostname()}.${process.pid}`
}
