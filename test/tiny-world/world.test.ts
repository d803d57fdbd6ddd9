import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { createHash } from 'node:crypto'
import * as w from '../../examples/tiny-world/world.js'

const test = suite('tiny world: scenes and pixels')

const scenes = Array.from({ length: 500 }, (_, i) => w.clip(0, 'train', i))
const still = new w.Random(0, 'stills')
const stills = Array.from({ length: 500 }, () => w.stillScene(still))
const near = (value: number, expected: number, within: number, what: string): void =>
  assert.ok(Math.abs(value - expected) <= within, `${what}: ${value}, expected ${expected} ± ${within}`)

test('the same seed gives the same bytes, here and everywhere', () => {
  assert.equal(w.clip(7, 'val', 3), w.clip(7, 'val', 3))
  assert.equal(w.film(w.clip(7, 'val', 3)), w.film(w.clip(7, 'val', 3)))
  const sum = createHash('sha256')
  for (let i = 0; i < 5; i++) for (const frame of w.film(w.clip(0, 'train', i))) sum.update(frame)
  assert.is(sum.digest('hex').slice(0, 16), '45eb4b356557c56c')
})

test('splits and seeds share no clip', () => {
  const seen = new Set<string>()
  for (const split of ['train', 'val', 'test']) {
    for (const seed of [0, 1]) for (let i = 0; i < 300; i++) seen.add(JSON.stringify(w.clip(seed, split, i).things))
  }
  assert.is(seen.size, 1800)
})

test('streams of different names are unrelated, and uniform', () => {
  const a = new w.Random(0, 'a')
  const b = new w.Random(0, 'b')
  let [mean, product] = [0, 0]
  for (let i = 0; i < 20000; i++) {
    const [x, y] = [a.uniform(), b.uniform()]
    mean += x / 20000
    product += ((x - 0.5) * (y - 0.5)) / 20000
  }
  near(mean, 0.5, 0.01, 'mean')
  near(product, 0, 0.003, 'covariance')
  const counts = [0, 0, 0, 0, 0]
  for (let i = 0; i < 20000; i++) counts[a.int(5)]!++
  for (const c of counts) near(c, 4000, 250, 'count')
  assert.equal(a.shuffled([1, 2, 3, 4]).sort(), [1, 2, 3, 4])
})

test('objects keep apart and inside the margin, colours differ, numbers and travels are as stated', () => {
  for (const [i, scene] of [...scenes, ...stills].entries()) {
    const moving = scene.things.filter((t) => w.direction(t) !== undefined)
    assert.ok(w.nearest(scene.things) >= w.GAP)
    assert.is(new Set(scene.things.map((t) => t.color)).size, scene.things.length)
    assert.is(moving.length, i < scenes.length ? w.MOVERS[i % 5] : 0)
    assert.ok(scene.things.length >= (i < scenes.length ? 3 : 1) && scene.things.length <= 4)
    for (const thing of scene.things) {
      assert.ok(thing.radius >= 4.3 && thing.radius <= 5.3)
      for (let f = 0; f < w.FRAMES; f++) {
        for (const c of w.centre(thing, f)) assert.ok(c >= w.MARGIN - 1e-9 && c <= w.SIZE - w.MARGIN + 1e-9)
      }
      const travel = Math.abs(thing.dx) + Math.abs(thing.dy)
      if (moving.includes(thing)) assert.ok(thing.dx * thing.dy === 0 && travel >= 12 && travel <= 16)
    }
  }
})

test('every direction, shape, colour and number of objects comes equally often', () => {
  const count = <T>(values: T[], kinds: readonly T[]): void => {
    for (const kind of kinds) {
      const share = values.filter((v) => v === kind).length / values.length
      near(share, 1 / kinds.length, 4 * Math.sqrt(1 / kinds.length / values.length), String(kind))
    }
  }
  const things = scenes.flatMap((s) => s.things)
  count(
    things.map(w.direction).filter((d) => d !== undefined),
    w.DIRECTIONS,
  )
  count(
    things.map((t) => t.shape),
    w.SHAPES,
  )
  count(
    things.map((t) => t.color),
    w.COLORS,
  )
  count(
    scenes.map((s) => s.things.length),
    [3, 4],
  )
  count(
    stills.map((s) => s.things.length),
    [1, 2, 3, 4],
  )
})

test('where an object is in one random frame hardly tells whether and which way it moves', () => {
  // The best guess that a 10 × 10 histogram of positions allows, learnt on the first half of 30,000 clips.
  const random = new w.Random(5)
  const moves = new Histogram(2)
  const ways = new Histogram(4)
  const first = new Histogram(4)
  for (let i = 0; i < 30000; i++) {
    const learn = i < 22500
    for (const thing of w.clip(1, 'leak', i).things) {
      const at = w.centre(thing, random.int(w.FRAMES))
      const way = w.direction(thing)
      moves.see(at, way ? 1 : 0, learn)
      if (way) ways.see(at, w.DIRECTIONS.indexOf(way), learn)
      if (way) first.see(w.centre(thing, 0), w.DIRECTIONS.indexOf(way), learn)
    }
  }
  assert.ok(
    moves.accuracy < Math.max(moves.majority, 0.5) + 0.04,
    `moving: ${moves.accuracy}, majority ${moves.majority}`,
  )
  assert.ok(ways.accuracy < 0.32, `direction, random frame: ${ways.accuracy}`)
  assert.ok(first.accuracy < 0.48, `direction, first frame: ${first.accuracy}`) // who starts at the left goes right: unavoidable in a box
})

class Histogram {
  #cells = new Map<string, number[]>()
  #right = 0
  #labels: number[]
  constructor(private kinds: number) {
    this.#labels = new Array<number>(kinds).fill(0)
  }
  see([x, y]: [number, number], label: number, learn: boolean): void {
    const key = `${Math.floor((x - 4) / 4)},${Math.floor((y - 4) / 4)}`
    const cell = this.#cells.get(key) ?? new Array<number>(this.kinds).fill(0)
    this.#cells.set(key, cell)
    if (learn) cell[label]!++
    else {
      this.#labels[label]!++
      if (cell.indexOf(Math.max(...cell)) === label) this.#right++
    }
  }
  get total(): number {
    return this.#labels.reduce((a, b) => a + b)
  }
  get accuracy(): number {
    return this.#right / this.total
  }
  get majority(): number {
    return Math.max(...this.#labels) / this.total
  }
}

test('pixels: grey ground with noise of 0.02, objects in their colours, motion from frame to frame', () => {
  const scene: w.Scene = {
    background: [120, 125, 130],
    things: [{ color: 'red', shape: 'circle', radius: 5, x: 24, y: 24, dx: 14, dy: 0 }],
    noise: 1,
  }
  const frames = w.film(scene)
  assert.is(frames.length, 8)
  assert.is(frames[0]!.length, 48 * 48 * 3)
  const pixel = (f: number, x: number, y: number): number[] => [
    ...frames[f]!.subarray((y * 48 + x) * 3, (y * 48 + x) * 3 + 3),
  ]
  assert.ok(pixel(0, 17, 24)[0]! > 180 && pixel(7, 17, 24)[0]! < 150)
  assert.ok(pixel(7, 31, 24)[0]! > 180 && pixel(0, 31, 24)[0]! < 150)
  const ground = [...frames[0]!.subarray(0, 48 * 3 * 15)].filter((_, i) => i % 3 === 0)
  const mean = ground.reduce((a, b) => a + b) / ground.length
  const deviation = Math.sqrt(ground.reduce((a, b) => a + (b - mean) ** 2, 0) / ground.length)
  near(mean, 120, 0.6, 'mean')
  near(deviation, 255 * w.NOISE, 0.4, 'noise')
  // A shape's area: the circle's πr², the others near it
  for (const shape of w.SHAPES) {
    const full = w.paint({ background: [0, 0, 0], things: [{ ...scene.things[0]!, shape, dx: 0 }], noise: 1 })
    const area = full.reduce((sum, v, i) => sum + (i % 3 === 0 && v > 40 ? v / 214 : 0), 0)
    near(area, Math.PI * 25, 10, shape)
  }
})

test.run()
