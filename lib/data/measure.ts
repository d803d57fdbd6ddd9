/**
 * What the packets of a video file say about its pictures, without decoding: where the last one ends, and whether one
 * clock counts all of them. Arithmetic alone.
 */

/** The time of a packet by which pictures are counted. */
export type Counter = 'pts' | 'dts'

/** What the packets of a file say about its pictures, without decoding. */
export interface Measured {
  /**
   * Where the last picture begins and ends: seconds on the file's own clock, or from the first picture where it has
   * none.
   */
  last: number
  end: number
  /** Whether the clock falls back, stands or leaps somewhere: files joined end to end. */
  joined: boolean
  /** Set where packets do not say when pictures are shown. */
  counted: Counter | undefined
}

/** Pictures of one clock, while packets are read. */
interface Part {
  first: number
  /** Beginning and end of the picture that is shown last. */
  latest: number
  end: number
  /** The last decoding time. */
  fed: number | undefined
  /** Seconds of all pictures up to the last packet with a time, and of those after it. */
  timed: number
  untimed: number
  /** The last stamps, and whether one of them is there twice. */
  recent: number[]
  doubled: boolean
}

/** Packets that a decoder keeps at most. */
export const MOST_DELAY = 16
/** A fall of the clock below this (seconds) from one picture to the next is jitter. */
export const TREMOR = 0.1
/**
 * A clock that may begin anew (transport streams) and leaps further than this (seconds) did so. FFmpeg's own limits,
 * both.
 */
export const LEAP = 10
/** Seconds of a picture where neither the file nor a rate tells. */
export const UNKNOWN_LENGTH = 0.04

/** A packet: when its picture is shown, and when it is decoded, where it says so; seconds. */
export interface PacketTimes {
  shown: number | undefined
  fed: number | undefined
  length: number
  isKeyframe: boolean
}

/** The stream that packets are of. */
export interface StreamTimes {
  counted: Counter | undefined
  /** Whether this kind of container may begin its clock anew. */
  restarts: boolean
  /** Packets that the decoder keeps before it gives a frame; NaN where that varies. */
  delay: number
}

/** Measures the pictures of packets that are added in the order of the file. */
export class Measure {
  private readonly parts: Part[] = [] // between falls of the clock
  private stamped = false
  private summed = 0
  private delay: number | undefined // from decoding to presentation, of the first packet

  constructor(private readonly stream: StreamTimes) {}

  /** Whether no packet had a time. */
  get empty(): boolean {
    return !this.parts.length
  }

  add({ shown, fed, length, isKeyframe }: PacketTimes): void {
    const { parts, stream } = this
    const { counted, restarts } = stream
    const counter = counted === 'dts' ? fed : shown
    this.summed += length
    if (shown !== undefined) this.stamped = true
    if (shown !== undefined && fed !== undefined) this.delay ??= shown - fed
    const later = Math.max(this.delay ?? 0, (stream.delay || 0) * length)
    const time = counter ?? (counted || fed === undefined ? undefined : fed + later)
    let part = parts.at(-1)
    if (time === undefined) {
      if (part) part.untimed += length
      return
    }
    if (part && !counted) {
      const ahead = fed === undefined || part.fed === undefined ? 0 : fed - part.fed
      // A keyframe is shown after everything before it.
      const back = isKeyframe ? time <= part.latest - (restarts ? 0 : TREMOR) : !restarts && ahead < -TREMOR
      if (back || (restarts && ahead > length + LEAP)) part = undefined
    }
    if (!part) parts.push((part = begun(time, length, fed)))
    part.first = Math.min(part.first, time)
    if (time >= part.latest) [part.latest, part.end] = [time, time + length]
    part.fed = fed ?? part.fed
    part.timed += part.untimed + length
    part.untimed = 0
    if (counter === undefined || !restarts) return
    part.doubled ||= part.recent.includes(counter)
    part.recent = [...part.recent.slice(1 - MOST_DELAY), counter]
  }

  /** Call once, after the last packet. */
  result(): Measured {
    const { parts, summed, stamped } = this
    for (const part of parts) {
      // Where times are missing at the end, or wrong, the number of pictures tells.
      const counts = part.untimed > 0 || part.doubled
      const missing = counts ? Math.max(0, part.first + part.timed + part.untimed - part.end) : 0
      part.latest += missing
      part.end += missing
    }
    const lasts = parts.reduce((sum, part) => sum + part.end - part.first, 0)
    const end = parts.length ? parts[0]!.first + lasts : summed
    const final = parts.at(-1)
    const last = final ? end - (final.end - final.latest) : end - UNKNOWN_LENGTH
    const joined = parts.length > 1 || parts.some((part) => part.doubled)
    return { last, end, joined, counted: this.stream.counted ?? (stamped ? undefined : 'dts') }
  }
}

const begun = (time: number, length: number, fed: number | undefined): Part => ({
  first: time,
  latest: time,
  end: time + length,
  fed,
  timed: 0,
  untimed: 0,
  recent: [],
  doubled: false,
})
