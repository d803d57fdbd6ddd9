/**
 * Quantised matrices on disk: made once, mapped from then on. A file holds those of one checkpoint in one form, by
 * name, and a checksum of each. Whatever is wrong with it, it is made again.
 */
import { createHash } from 'node:crypto'
import { mkdir, open, stat } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'
import { fingerprint, type CheckpointPlan } from '../checkpoint/plan.js'
import type { FileSystem } from '../files/atomic.js'
import { readEntry, readHeader, writeSafetensors, type SafetensorsHeader } from '../files/safetensors.js'
import { bytesOf, type QuantizedDType } from '../tensor/dtype.js'

/** Raise this when the layout of native/core/quantised.h or a value of docs/weights.md changes. */
const VERSION = 1
const CHECKSUMS = 'checksums'
/** Bytes that are read at a time. */
const CHUNK = 1 << 24

/** A matrix of a file. */
export interface Unit {
  name: string
  shape: readonly number[]
  dtype: QuantizedDType
}

/** Where such files lie: MT_CACHE, else the user's folder for caches. */
export function cacheFolder(): string {
  const { MT_CACHE, XDG_CACHE_HOME, LOCALAPPDATA } = process.env
  return MT_CACHE || join(XDG_CACHE_HOME || LOCALAPPDATA || join(homedir(), '.cache'), 'mtransllama')
}

/**
 * The file of a checkpoint in a form: by its fingerprint, and by size and time of each file, since the fingerprint
 * samples tensors.
 */
export async function cacheFile(folder: string, plan: CheckpointPlan, form: QuantizedDType): Promise<string> {
  const hash = createHash('sha256').update(`${VERSION}\0${form}\0${await fingerprint(plan)}`)
  for (const { path } of plan.files) {
    const { size, mtimeMs } = await stat(path)
    hash.update(`\0${size} ${mtimeMs}`)
  }
  return join(folder, `${form}-${hash.digest('hex').slice(0, 32)}.safetensors`)
}

/** Offsets in the file of all units, or why it cannot be used: half a sentence. Undefined where there is none. */
export async function readQuantised(
  path: string,
  units: readonly Unit[],
): Promise<Map<string, number> | string | undefined> {
  const file = await stat(path).catch(() => undefined)
  if (!file) return undefined
  try {
    const header = await readHeader(path)
    if (header.metadata.version !== String(VERSION)) return `it is of version ${header.metadata.version ?? 'none'}`
    const sums = new Uint32Array((await readEntry(header, CHECKSUMS)).buffer)
    if (header.entries.size !== units.length + 1 || sums.length !== units.length) return 'it holds other matrices'
    const begins = new Map<string, number>()
    for (const [i, { name, shape, dtype }] of units.entries()) {
      const entry = header.entries.get(name)
      if (!entry || entry.end - entry.begin !== bytesOf(dtype, shape)) return `it holds another ${name}`
      if ((await checksum(header, entry.begin, entry.end)) !== sums[i]) return `the bytes of ${name} have changed`
      begins.set(name, entry.begin)
    }
    return begins
  } catch (error) {
    return (error as Error).message.replace(/\.$/, '')
  }
}

async function checksum({ path }: SafetensorsHeader, begin: number, end: number): Promise<number> {
  const file = await open(path, 'r')
  try {
    const buffer = Buffer.allocUnsafe(Math.min(CHUNK, end - begin))
    let sum = 0
    for (let at = begin; at < end; ) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(CHUNK, end - at), at)
      if (bytesRead === 0) break
      sum = crc32(buffer.subarray(0, bytesRead), sum)
      at += bytesRead
    }
    return sum
  } finally {
    await file.close()
  }
}

/**
 * Writes all units, whose bytes `bytes` gives one at a time.
 *
 * @throws InputError where that is impossible, with nothing left half-written
 */
export async function writeQuantised(
  path: string,
  units: readonly Unit[],
  bytes: (unit: Unit) => Promise<Uint8Array>,
  on?: FileSystem,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  const sums = new Uint32Array(units.length)
  await writeSafetensors(
    path,
    [
      ...units.map((unit, i) => ({
        name: unit.name,
        dtype: 'U8' as const,
        shape: [bytesOf(unit.dtype, unit.shape)],
        data: async () => {
          const data = await bytes(unit)
          sums[i] = crc32(data)
          return data
        },
      })),
      {
        name: CHECKSUMS,
        dtype: 'U8' as const,
        shape: [sums.byteLength],
        data: () => sums,
      },
    ],
    { version: String(VERSION) },
    on,
  )
}
