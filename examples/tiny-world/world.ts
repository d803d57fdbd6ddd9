/**
 * The tiny world: coloured shapes on a grey ground, at rest (stills) or gliding (clips). Scenes are drawn from a named
 * stream of random numbers and rasterised here, in plain TypeScript, so that a seed means the same pixels everywhere.
 *
 * Units: pixels, with pixel (i, j) covering [i, i+1) × [j, j+1); y grows downwards. Frames are 48 × 48 × 3 bytes, RGB.
 */

export const SIZE = 48 // width and height of a frame, pixels
export const FRAMES = 8 // frames of a clip
export const FPS = 8 // frames per second of a clip
export const MARGIN = 4 // a centre never comes nearer to the border, pixels
export const GAP = 10 // two centres never come nearer to each other in max-norm, over the whole clip, pixels
export const TRAVEL = [12, 16] as const // how far a mover glides over the clip, pixels
export const RADIUS = [4.3, 5.3] as const // of the circle; the other shapes cover about the same area, pixels
export const NOISE = 0.02 // standard deviation of the pixel noise, of full scale

export const COLORS = ['red', 'green', 'blue', 'yellow', 'purple'] as const
export const SHAPES = ['circle', 'square', 'triangle'] as const
export const DIRECTIONS = ['left', 'right', 'up', 'down'] as const
/** How many things move, from clip to clip: one mover comes twice because two tasks ask for it. */
export const MOVERS = [0, 1, 2, 3, 1] as const

export type Color = (typeof COLORS)[number]
export type Shape = (typeof SHAPES)[number]
export type Direction = (typeof DIRECTIONS)[number]

/** One object: its centre halfway through the clip, and its displacement from the first frame to the last. */
export interface Thing {
  color: Color
  shape: Shape
  radius: number
  x: number
  y: number
  dx: number // 0 where it rests or moves along y
  dy: number
}

/** All that a clip or still shows; the pixels are a function of this alone. */
export interface Scene {
  background: [number, number, number] // 0 to 255
  things: Thing[] // no two of one colour
  noise: number // seed of the pixel noise
}

const PAINT: Record<Color, readonly [number, number, number]> = {
  red: [214, 46, 46],
  green: [46, 168, 70],
  blue: [52, 84, 220],
  yellow: [232, 206, 48],
  purple: [164, 64, 196],
}

const STEP: Record<Direction, readonly [number, number]> = { left: [-1, 0], right: [1, 0], up: [0, -1], down: [0, 1] }

// --- random numbers -------------------------------------------------------------------------------------------------

/** sfc32, seeded by a hash of the seed and any names: streams of different names share nothing. */
export class Random {
  #a: number
  #b: number
  #c: number
  #d: number

  constructor(seed: number, ...names: (string | number)[]) {
    const text = [seed, ...names].join('\u0000')
    this.#a = hash(text, 0x811c9dc5)
    this.#b = hash(text, 0x9e3779b9)
    this.#c = hash(text, 0x85ebca6b)
    this.#d = 1
    for (let i = 0; i < 12; i++) this.bits()
  }

  /** 32 random bits, as an unsigned number. */
  bits(): number {
    const t = (((this.#a + this.#b) | 0) + this.#d) | 0
    this.#d = (this.#d + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + t
    return t >>> 0
  }

  /** Uniform in [low, high). */
  uniform(low = 0, high = 1): number {
    return low + (high - low) * (this.bits() / 4294967296)
  }

  /** Uniform among 0 … n−1. */
  int(n: number): number {
    return Math.floor(this.uniform() * n)
  }

  /** True with the given probability. */
  chance(probability: number): boolean {
    return this.uniform() < probability
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(list.length)]!
  }

  /** A new list in random order (Fisher–Yates). */
  shuffled<T>(list: readonly T[]): T[] {
    const out = [...list]
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.int(i + 1)
      ;[out[i], out[j]] = [out[j]!, out[i]!]
    }
    return out
  }
}

/** FNV-1a over UTF-16 units, finished as in MurmurHash3. */
function hash(text: string, start: number): number {
  let h = start
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return h ^ (h >>> 16)
}

// --- scenes ---------------------------------------------------------------------------------------------------------

/** A still with 1–4 objects (or exactly `things`), anywhere in the box. */
export function stillScene(random: Random, things = 1 + random.int(4)): Scene {
  return arrange(random, things, () => ({ x: inBox(random), y: inBox(random), dx: 0, dy: 0 }))
}

/**
 * A clip with 3–4 objects, `movers` of them moving. The number of objects says nothing about the number of movers, and
 * an axis along which an object rests has the same law as one random frame of an axis along which it moves: so where
 * an object is in a frame tells neither whether nor which way it moves.
 */
export function clipScene(random: Random, movers: number): Scene {
  return arrange(random, 3 + random.int(2), (i) => {
    if (i >= movers) return { x: snapshot(random), y: snapshot(random), dx: 0, dy: 0 }
    const [sx, sy] = STEP[random.pick(DIRECTIONS)]
    const travel = random.uniform(...TRAVEL)
    const middle = inBox(random, travel / 2)
    const rest = snapshot(random)
    return { x: sx ? middle : rest, y: sy ? middle : rest, dx: sx * travel, dy: sy * travel }
  })
}

/** The clip number `index` of a split; alone a function of the three. */
export function clip(seed: number, split: string, index: number): Scene {
  return clipScene(new Random(seed, 'clip', split, index), MOVERS[index % MOVERS.length]!)
}

/** Uniform where neither this point nor one `reach` pixels off leaves the box. */
function inBox(random: Random, reach = 0): number {
  return random.uniform(MARGIN + reach, SIZE - MARGIN - reach)
}

/** Where a mover would be in a random frame. */
function snapshot(random: Random): number {
  const travel = random.uniform(...TRAVEL)
  return inBox(random, travel / 2) + travel * (random.int(FRAMES) / (FRAMES - 1) - 0.5)
}

type Path = Pick<Thing, 'x' | 'y' | 'dx' | 'dy'>

/** Draws all paths anew until all keep apart: rejecting single ones would tell the first from the last placed. */
function arrange(random: Random, count: number, path: (i: number) => Path): Scene {
  let paths: Path[]
  do paths = Array.from({ length: count }, (_, i) => path(i))
  while (nearest(paths) < GAP)
  const colors = random.shuffled(COLORS)
  const grey = random.uniform(80, 175)
  const tint = (): number => grey + random.uniform(-10, 10)
  return {
    background: [tint(), tint(), tint()],
    things: random.shuffled(
      paths.map((p, i) => ({ color: colors[i]!, shape: random.pick(SHAPES), radius: random.uniform(...RADIUS), ...p })),
    ),
    noise: random.bits(),
  }
}

/** Centre of a thing at frame `f` (0 … FRAMES−1); a still has the same at all. */
export function centre(path: Path, f: number): [x: number, y: number] {
  const t = f / (FRAMES - 1) - 0.5
  return [path.x + path.dx * t, path.y + path.dy * t]
}

/** The least distance of any two centres in any frame, max-norm, pixels. */
export function nearest(paths: readonly Path[]): number {
  let least = Infinity
  for (let i = 0; i < paths.length; i++) {
    for (let j = 0; j < i; j++) {
      for (let f = 0; f < FRAMES; f++) {
        const [ax, ay] = centre(paths[i]!, f)
        const [bx, by] = centre(paths[j]!, f)
        least = Math.min(least, Math.max(Math.abs(ax - bx), Math.abs(ay - by)))
      }
    }
  }
  return least
}

/** Which way a thing moves; undefined where it rests. */
export function direction(thing: Path): Direction | undefined {
  return DIRECTIONS.find((d) => thing.dx * STEP[d][0] + thing.dy * STEP[d][1] > 0)
}

// --- pixels ---------------------------------------------------------------------------------------------------------

/** Frame `f` of a scene, 48 × 48 × 3 bytes (row, column, RGB). */
export function paint(scene: Scene, f = 0): Uint8Array {
  const canvas = new Float32Array(SIZE * SIZE * 3)
  const [r, g, b] = scene.background
  for (let i = 0; i < canvas.length; i += 3) {
    canvas[i] = r
    canvas[i + 1] = g
    canvas[i + 2] = b
  }
  for (const thing of scene.things) stamp(canvas, thing, f)
  const random = new Random(scene.noise, f)
  const bytes = new Uint8ClampedArray(canvas.length) // rounds and clamps
  for (let i = 0; i < bytes.length; i += 2) {
    const bits = random.bits()
    bytes[i] = canvas[i]! + BELL[bits & 4095]!
    bytes[i + 1] = canvas[i + 1]! + BELL[bits >>> 20]!
  }
  return new Uint8Array(bytes.buffer)
}

/** All frames of a clip, in order. */
export function film(scene: Scene): Uint8Array[] {
  return Array.from({ length: FRAMES }, (_, f) => paint(scene, f))
}

/** Blends one thing into the canvas; a pixel is covered by how far its centre lies inside the edge. */
function stamp(canvas: Float32Array, thing: Thing, f: number): void {
  const [cx, cy] = centre(thing, f)
  const [r, g, b] = PAINT[thing.color]
  const reach = thing.radius * 1.3 + 1
  const low = (c: number): number => Math.max(0, Math.floor(c - reach))
  const high = (c: number): number => Math.min(SIZE - 1, Math.ceil(c + reach))
  for (let j = low(cy); j <= high(cy); j++) {
    for (let i = low(cx); i <= high(cx); i++) {
      const cover = Math.min(1, Math.max(0, 0.5 - outside(thing, i + 0.5 - cx, j + 0.5 - cy)))
      if (cover === 0) continue
      const at = (j * SIZE + i) * 3
      canvas[at] = canvas[at]! + cover * (r - canvas[at]!)
      canvas[at + 1] = canvas[at + 1]! + cover * (g - canvas[at + 1]!)
      canvas[at + 2] = canvas[at + 2]! + cover * (b - canvas[at + 2]!)
    }
  }
}

/** Distance from the edge, positive outside, of a point relative to the centre. */
function outside({ shape, radius }: Thing, x: number, y: number): number {
  if (shape === 'circle') return Math.hypot(x, y) - radius
  if (shape === 'square') return Math.max(Math.abs(x), Math.abs(y)) - 0.9 * radius
  const half = 1.2 * radius // triangle: as wide as high, apex up, its box around the centre
  return Math.max(y - half, (2 * Math.abs(x) - y - half) / Math.sqrt(5))
}

/** Quantiles of the pixel noise in steps of 1/4096, in units of a byte: one look-up a value. */
const BELL = Float32Array.from({ length: 4096 }, (_, i) => 255 * NOISE * quantile((i + 0.5) / 4096))

/** Inverse of the normal distribution function, by bisection on a series for the error function (set-up only). */
function quantile(p: number): number {
  let low = -5
  let high = 5
  for (let i = 0; i < 40; i++) {
    const middle = (low + high) / 2
    if (normal(middle) < p) low = middle
    else high = middle
  }
  return (low + high) / 2
}

function normal(x: number): number {
  let term = x
  let sum = x
  for (let k = 1; k < 80; k++) {
    term *= (x * x) / (2 * k + 1)
    sum += term
  }
  return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI)
}
