/**
 * Reads damaged videos: clips of eight containers, whose bytes a seeded generator changes. Each must give pictures or
 * one InputError, within its time; no process may crash, and memory must not grow. `npm run fuzz:video -- --clips 2000
 * --seed 1`.
 */
import { rmSync, readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Decoders } from '../../lib/data/decoders.js'
import type { Sampling } from '../../lib/data/frames.js'
import { InputError } from '../../lib/errors.js'
import { bars, temporaryFolder, writeVideo, type VideoOptions } from './videos.js'

/** What is written once, and then damaged. */
const CLIPS: [string, VideoOptions][] = [
  ['a.mp4', { bFrames: 2, sound: 1 }],
  ['b.mkv', { bFrames: 2 }],
  ['c.webm', { codec: 'libvpx-vp9', sound: 1 }],
  ['d.avi', { codec: 'mpeg4', bFrames: 2 }],
  ['e.flv', { sound: 1 }],
  ['f.wmv', { codec: 'wmv2', sound: 1 }],
  ['g.ts', { bFrames: 2 }],
  ['h.mpg', { codec: 'mpeg2video', bFrames: 2, sound: 1 }],
]
const SAMPLINGS: Sampling[] = [{ kind: 'uniform' }, { kind: 'fps', fps: 10 }, { kind: 'first' }]

export interface FuzzResult {
  clips: number
  /** Clips that gave pictures, that were refused in one sentence, and, among the latter, that ran out of time. */
  pictures: number
  refused: number
  late: number
  /** Decoding processes that crashed: what was in hand is refused, but FFmpeg has a fault. */
  crashes: number
  /** Wrong outcomes, with the number of the clip. */
  faults: string[]
  /**
   * Largest resident sets, in MiB: of this process after the first tenth and at the end, and of a decoding one
   * likewise.
   */
  memory: { here: [number, number]; there: [number, number] }
}

/** A generator of whole numbers below `n`, by seed (mulberry32). */
function generator(seed: number): (n: number) => number {
  let state = seed >>> 0
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * n)
  }
}

/** A damaged copy. */
function mutate(original: Buffer, below: (n: number) => number): Buffer {
  let bytes = Buffer.from(original)
  const cut = (): [number, number] => {
    const at = below(bytes.length)
    return [at, Math.min(bytes.length, at + 1 + below(1 << below(12)))]
  }
  for (let times = 1 + below(3); times > 0; times--) {
    const [from, to] = cut()
    const reach = below(2) ? bytes.length : Math.min(bytes.length, 600) // every second time, in the header
    const word = Math.min(below(reach), bytes.length - 4)
    const kind = below(8)
    if (bytes.length < 8) return bytes
    else if (kind === 0) for (let i = 1 + below(30); i > 0; i--) bytes[below(reach)]! ^= 1 << below(8)
    else if (kind === 1) for (let i = from; i < to; i++) bytes[i] = below(256)
    else if (kind === 2) bytes.fill(0, from, to)
    else if (kind === 3) bytes = bytes.subarray(0, 1 + below(bytes.length))
    else if (kind === 4) bytes = Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)])
    else if (kind === 5) bytes = Buffer.concat([bytes.subarray(0, to), bytes.subarray(from)])
    else if (kind === 6) bytes.writeUInt32BE([0, 1, 0x7fffffff, 0x80000000, 0xffffffff][below(5)]!, word)
    else bytes.writeUInt32LE(below(2 ** 32), word)
  }
  return bytes
}

/** @param progress is called after every clip */
export async function fuzz(
  clips: number,
  seed: number,
  limit = 20,
  progress: (done: number, result: FuzzResult) => void = () => {},
): Promise<FuzzResult> {
  const folder = temporaryFolder()
  const decoders = new Decoders()
  const result: FuzzResult = {
    clips,
    pictures: 0,
    refused: 0,
    late: 0,
    crashes: 0,
    faults: [],
    memory: { here: [0, 0], there: [0, 0] },
  }
  const originals = new Map<string, Buffer>()
  const MiB = (bytes: number): number => Math.round(bytes / 2 ** 20)
  const one = async (i: number): Promise<void> => {
    const below = generator(seed * 1_000_003 + i)
    const [name] = CLIPS[i % CLIPS.length]!
    const path = folder.at(`${i}-${name}`)
    writeFileSync(path, mutate(originals.get(name)!, below))
    try {
      const frames = 1 + below(8)
      const clip = { video: path, ...(below(4) === 0 && { start: 0.2, end: 0.2 + (1 + below(10)) / 10 }) }
      const got = await decoders.read(clip, { frames, sampling: SAMPLINGS[below(3)]! }, limit)
      if (
        got.length !== frames ||
        !got.every((f) => f.data.length === 3 * f.width * f.height && Number.isFinite(f.time))
      )
        result.faults.push(`clip ${i}, ${name}: ${got.length} pictures for ${frames}, or of a wrong size`)
      result.pictures++
    } catch (error) {
      const { message } = error as Error
      result.refused++
      if (/its frames within/.test(message)) result.late++
      if (/decoder that crashed/.test(message)) result.crashes++
      if (!(error instanceof InputError) || /\n/.test(message)) result.faults.push(`clip ${i}, ${name}: ${message}`)
    } finally {
      rmSync(path)
    }
  }
  try {
    for (const [name, options] of CLIPS)
      originals.set(
        name,
        readFileSync(
          await writeVideo(
            folder.at(name),
            Array.from({ length: 30 }, (_, i) => bars(i)),
            { width: 64, height: 32, fps: 25, ...options },
          ),
        ),
      )
    let [next, done] = [0, 0]
    await Promise.all(
      Array.from({ length: 4 }, async () => {
        while (next < clips) {
          await one(next++)
          if (++done === Math.ceil(clips / 10))
            result.memory = { here: [MiB(process.memoryUsage.rss()), 0], there: [MiB(decoders.rss), 0] }
          progress(done, result)
        }
      }),
    )
    result.memory.here[1] = MiB(process.memoryUsage.rss())
    result.memory.there[1] = MiB(decoders.rss)
    return result
  } finally {
    decoders.close()
    folder.remove()
  }
}

/** In one line. */
export function summary({
  clips,
  pictures,
  refused,
  late,
  crashes,
  faults,
  memory: { here, there },
}: FuzzResult): string {
  return `${clips} clips: ${pictures} gave pictures, ${refused} were refused (${late} for their time); ${crashes} crashes of FFmpeg, ${faults.length} faults; memory here ${here.join(' → ')} MiB, of a decoding process at most ${there.join(' → ')} MiB`
}

if (process.argv[1] && import.meta.url.endsWith(process.argv[1].replaceAll('\\', '/').split('/').at(-1)!)) {
  const { values } = parseArgs({
    options: {
      clips: { type: 'string', default: '2000' },
      seed: { type: 'string', default: '1' },
      limit: { type: 'string', default: '20' },
    },
  })
  const [clips, seed, limit] = [Number(values.clips), Number(values.seed), Number(values.limit)]
  console.log(`${clips} damaged clips of ${CLIPS.length} containers, seed ${seed}, at most ${limit} s each`)
  const result = await fuzz(clips, seed, limit, (done, r) => {
    if (done % 100 === 0)
      console.log(`${done}: ${r.pictures} gave pictures, ${r.refused} refused, ${r.faults.length} faults`)
  })
  for (const fault of result.faults) console.log(fault)
  console.log(summary(result))
  process.exitCode = result.faults.length || result.crashes ? 1 : 0
}
