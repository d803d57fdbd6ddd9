/**
 * Features on disk. The vision tower is frozen, so a clip's features are computed once and then read under a key of
 * everything that they depend on.
 */

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, stat, unlink } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { invalid } from '../errors.js'
import { writeFileAtomic, type FileSystem } from '../files/atomic.js'
import { readEntry, readHeader, writeSafetensors } from '../files/safetensors.js'
import { frameImages, type Sampling } from './clip.js'
import type { Preprocessor } from './preprocess.js'
import { absent } from './reject.js'
import { sizeOf } from '../shape.js'

/** Raise this when a change of decoding, sampling or resizing changes pixels. */
const VERSION = 5

/** Milliseconds in which a file may change twice and keep its time stamp. */
const TICK = 2000

const known = new Map<string, { stamp: string; hash: Promise<string> }>()

/**
 * SHA-256 (hex) of a video file's bytes, or of all names and bytes of a folder's frame images. Cached in the process
 * while size and modification time stay the same.
 * @throws InputError if it cannot be read
 */
export async function contentHash(path: string): Promise<string> {
  try {
    const files = (await stat(path)).isDirectory() ? await frameImages(path) : undefined
    if (!files) return await fileHash(path)
    const hash = createHash('sha256')
    for (const file of files) hash.update(`${basename(file)}\0${await fileHash(file)}\0`)
    return hash.digest('hex')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === undefined) throw error
    throw absent(path, path, 'a readable video file or folder of frame images', error)
  }
}

async function fileHash(path: string): Promise<string> {
  const { stamp } = await stampOfFile(path)
  const entry = known.get(path)
  if (entry?.stamp === stamp) return entry.hash
  const hash = (async () => {
    const digest = createHash('sha256')
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) digest.update(chunk as Buffer)
    return digest.digest('hex')
  })()
  known.set(path, { stamp, hash })
  hash.catch(() => known.delete(path))
  return hash
}

/** What tells without reading it whether a file, or a folder of frame images, changed; and its latest time stamp. */
interface Stamp {
  stamp: string
  modified: number
}

async function stampOfFile(path: string): Promise<Stamp> {
  const s = await stat(path).catch((error: unknown) => {
    throw absent(path, path, 'a readable video file or frame image', error)
  })
  if (!s.isFile())
    // reading a pipe may block forever
    throw invalid(path, 'a readable video file or folder of frame images', new Error('neither a file nor a folder'))
  return { stamp: `${s.size} ${s.mtimeMs}`, modified: s.mtimeMs }
}

async function stampOf(video: string): Promise<Stamp> {
  if (!(await stat(video)).isDirectory()) return stampOfFile(video)
  const digest = createHash('sha256')
  let modified = 0
  for (const file of await frameImages(video)) {
    const one = await stampOfFile(file)
    digest.update(`${basename(file)}\0${one.stamp}\0`)
    modified = Math.max(modified, one.modified)
  }
  return { stamp: digest.digest('hex'), modified }
}

/** The record of a video's content: its hash, and the stamp that it had then. */
interface Recorded {
  video: string
  stamp: string
  hash: string
}

/**
 * `contentHash` of a video, recorded in a feature cache's folder: while size and time stamp stay the same, the video is
 * not read again. A record that cannot be written is not missed.
 *
 * @param folder of the feature cache
 * @param how `verify` reads the video in any case; `recorded` reads none, and returns undefined where nothing is known
 * @throws InputError if the video cannot be read
 */
export async function recordedHash(
  video: string,
  folder: string,
  how?: 'verify' | 'recorded',
): Promise<string | undefined> {
  const name = sha256(resolve(video))
  const path = join(folder, 'videos', name.slice(0, 2), `${name}.json`)
  const before = await stampOf(video).catch(() => undefined) // contentHash says what is wrong
  const found = how === 'verify' ? undefined : await readRecord(path)
  if (before && found?.video === resolve(video) && found.stamp === before.stamp) return found.hash
  if (how === 'recorded') return undefined
  if (how === 'verify') known.clear()
  const hash = await contentHash(video)
  const after = await stampOf(video)
  // One that was just written may change again within the same tick of the clock.
  if (before?.stamp !== after.stamp || after.modified > Date.now() - TICK) return hash
  try {
    await mkdir(dirname(path), { recursive: true })
    await writeFileAtomic(path, JSON.stringify({ video: resolve(video), stamp: after.stamp, hash } satisfies Recorded))
  } catch {}
  return hash
}

async function readRecord(path: string): Promise<Partial<Recorded> | undefined> {
  try {
    const record = JSON.parse(await readFile(path, 'utf8')) as Partial<Recorded> | null
    return typeof record?.hash === 'string' && /^[0-9a-f]{64}$/.test(record.hash) ? record : undefined
  } catch {
    return undefined // none, or cut by a power loss
  }
}

/** Everything that features depend on. */
export interface FeatureSource {
  /** `contentHash` of the video. */
  content: string
  start?: number | undefined
  end?: number | undefined
  /** Of a folder of frame images. */
  fps?: number | undefined
  sampling: Sampling
  frames: number
  preprocessor: Preprocessor
  /** Names the vision tower's weights and the precision that they compute in. */
  visionFingerprint: string
}

/** The key under which features are cached: 64 hexadecimal digits. An absent `start` equals 0. */
export function featureKey({
  content,
  start = 0,
  end,
  fps,
  sampling,
  frames,
  preprocessor: p,
  visionFingerprint,
}: FeatureSource): string {
  const pixels = [p.size.height, p.size.width, p.mean, p.std, p.rescale, p.resample]
  const rate = sampling.kind === 'fps' ? sampling.fps : null
  const parts = [
    VERSION,
    content,
    start,
    end ?? null,
    fps ?? null,
    sampling.kind,
    rate,
    frames,
    pixels,
    visionFingerprint,
  ]
  return sha256(JSON.stringify(parts))
}

/** Elements of features, in the precision that they were computed in; of bfloat16, their bits. */
export type FeatureData = Float32Array | Uint16Array

const DTYPES = { F32: Float32Array, BF16: Uint16Array } as const

/**
 * Features by key, one safetensors file each (`features`, float32 or bfloat16). Several processes may share a folder.
 */
export class FeatureCache {
  /** @param on the file system's calls; a test passes ones that fail */
  constructor(
    readonly folder: string,
    private readonly on?: FileSystem,
  ) {}

  /** Whether there is a file under `key`; it is not read. */
  async has(key: string): Promise<boolean> {
    return stat(this.path(key)).then(
      () => true,
      () => false,
    )
  }

  /** The features under `key`; undefined where there are none. A damaged file counts as absent and is deleted. */
  async get(key: string): Promise<{ data: FeatureData; shape: number[] } | undefined> {
    const path = this.path(key)
    if (!(await this.has(key))) return undefined
    try {
      const header = await readHeader(path)
      const bytes = await readEntry(header, 'features')
      const { dtype, shape } = header.entries.get('features')!
      if (Object.hasOwn(DTYPES, dtype) && header.metadata.key === key && header.metadata.sha256 === sha256(bytes)) {
        const type = DTYPES[dtype as keyof typeof DTYPES]
        return {
          data: new type(bytes.buffer, bytes.byteOffset, bytes.byteLength / type.BYTES_PER_ELEMENT),
          shape,
        }
      }
    } catch {}
    await unlink(path).catch(() => {})
    return undefined
  }

  /**
   * Stores features, row-major, of the given shape ([T, K_V, D_v]); the file appears whole or not at all.
   * @throws InputError if shape and data disagree or the folder cannot be written
   */
  async put(key: string, shape: readonly number[], data: FeatureData): Promise<void> {
    const size = sizeOf(shape)
    if (size !== data.length)
      throw invalid('features', `${size} values for the shape [${shape.join(', ')}]`, data.length)
    const path = this.path(key)
    try {
      await mkdir(dirname(path), { recursive: true })
    } catch (error) {
      throw invalid(this.folder, 'a folder that can be written', error)
    }
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    const dtype = data instanceof Uint16Array ? ('BF16' as const) : ('F32' as const)
    const stored = { name: 'features', dtype, shape: [...shape], data }
    await writeSafetensors(path, [stored], { key, sha256: sha256(bytes) }, this.on)
  }

  /** Two letters of the key make a folder, so that no folder grows without bounds. */
  private path(key: string): string {
    if (!/^[0-9a-f]{64}$/.test(key)) throw invalid('key', 'a key made by featureKey', key)
    return join(this.folder, key.slice(0, 2), `${key}.safetensors`)
  }
}

function sha256(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex')
}
