import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdirSync } from 'node:fs'
import { basename } from 'node:path'
import sharp from 'sharp'
import { FrameStream } from '../../lib/data/decode.js'
import { openVideo, readClip as readFrames, sampleTimes, type RgbFrame } from '../../lib/data/frames.js'
import { temporaryFolder, writeVideo, type Colour, type Matrix, type Picture, type VideoOptions } from './videos.js'

const test = suite('frames')
const folder = temporaryFolder()
test.after(() => folder.remove())

/** A colour per frame number, told apart from its neighbours by far more than the tolerance. */
const colour = (i: number): Colour => [(i * 37) % 256, (i * 91 + 40) % 256, (i * 53 + 90) % 256]
const colours = (n: number): Colour[] => Array.from({ length: n }, (_, i) => colour(i))
const pixel = (f: RgbFrame, x = 0, y = 0): number[] => [
  ...f.data.subarray(3 * (y * f.width + x), 3 * (y * f.width + x) + 3),
]

/** 8-bit YUV keeps a colour to about 2 of 255; chroma of saturated colours is clipped in none of these tests. */
function near(got: number[], want: readonly number[], tolerance = 3): void {
  assert.ok(
    got.every((v, i) => Math.abs(v - want[i]!) <= tolerance),
    `${got} is not ${want} within ${tolerance}`,
  )
}

/** Which of the first `n` frames this is. */
function numberOf(frame: RgbFrame, n: number): number {
  const [r, g, b] = pixel(frame) as [number, number, number]
  const away = colours(n).map((c) => Math.max(Math.abs(c[0] - r), Math.abs(c[1] - g), Math.abs(c[2] - b)))
  const best = away.indexOf(Math.min(...away))
  assert.ok(away[best]! <= 3, `${[r, g, b]} is no frame of this video`)
  return best
}

test('uniform sampling takes the middle of T equal parts, fps counts from the start', () => {
  assert.equal(sampleTimes(0, 8, 4, { kind: 'uniform' }), [1, 3, 5, 7])
  assert.equal(sampleTimes(2, 4, 1, { kind: 'uniform' }), [3])
  assert.equal(sampleTimes(1, 3, 4, { kind: 'fps', fps: 2 }), [1, 1.5, 2, 2.5])
  assert.throws(() => sampleTimes(0, 1.5, 4, { kind: 'fps', fps: 2 }), /more than 1\.5 s for 4 frames at 2 fps/)
  assert.throws(() => sampleTimes(0, 1, 2, { kind: 'fps', fps: 0 }), /above 0/)
  for (const frames of [0, -1, 1.5, NaN])
    assert.throws(() => sampleTimes(0, 1, frames, { kind: 'uniform' }), /whole number from 1 on/)
})

test('decoded pixels are the ones that were encoded, for every matrix and range', async () => {
  const picture: Picture = (x, y) =>
    x < 16 ? (y < 8 ? [200, 40, 90] : [20, 150, 60]) : y < 8 ? [40, 70, 190] : [128, 128, 128]
  for (const matrix of ['bt601', 'bt709', 'unspecified'] as (Matrix | 'unspecified')[]) {
    for (const fullRange of [false, true]) {
      for (const [codec, name] of [
        ['libx264', 'a.mp4'],
        ['ffv1', 'a.mkv'],
      ] as const) {
        const path = await writeVideo(folder.at(name), [picture, picture], {
          matrix,
          fullRange,
          codec,
          subsampled: false,
        })
        const [frame] = await readFrames({ video: path }, { frames: 1, sampling: { kind: 'uniform' } })
        assert.equal([frame!.width, frame!.height], [32, 16])
        near(pixel(frame!, 3, 3), [200, 40, 90])
        near(pixel(frame!, 3, 12), [20, 150, 60])
        near(pixel(frame!, 28, 3), [40, 70, 190])
        near(pixel(frame!, 28, 12), [128, 128, 128])
      }
    }
  }
})

test('the frame at a time is the last one that is not after it', async () => {
  const path = await writeVideo(folder.at('rate.mp4'), colours(10), { fps: 10 })
  const video = await openVideo(path)
  try {
    assert.ok(Math.abs(video.duration - 1) < 1e-3 && Math.abs(video.fps - 10) < 1e-3)
    const got: number[] = []
    for (const t of [0, 0.05, 0.0999, 0.1, 0.55, 0.3, 0.99, 5]) got.push(numberOf(await video.frameAt(t), 10))
    assert.equal(got, [0, 0, 0, 1, 5, 3, 9, 9])
    assert.is(await video.frameAt(0.31), await video.frameAt(0.35), 'the same frame is converted once')
  } finally {
    await video.close()
    await video.close()
  }
})

test('a variable frame rate is honoured: time stamps count, not frame numbers', async () => {
  for (const name of ['vfr.mp4', 'vfr.mkv']) {
    const path = await writeVideo(folder.at(name), colours(5), { pts: [0, 100, 150, 1000, 1900] })
    const frames = await readFrames({ video: path, end: 1.9 }, { frames: 5, sampling: { kind: 'uniform' } }) // .19 .57 .95 1.33 1.71
    assert.equal(
      frames.map((f) => numberOf(f, 5)),
      [2, 2, 2, 3, 3],
    )
    assert.equal(
      frames.map((f) => Number(f.time.toFixed(3))),
      [0.15, 0.15, 0.15, 1, 1],
    )
  }
})

test('seeking gives what decoding from the start gives, with and without B-frames, at any keyframe distance', async () => {
  const n = 100
  const cases: [string, VideoOptions][] = [
    ['gop12.mp4', { gop: 12 }],
    ['gop250.mp4', { gop: 250 }],
    ['b.mp4', { gop: 25, bFrames: 3 }],
    ['b.mkv', { gop: 25, bFrames: 3 }],
    ['b.ts', { gop: 25, bFrames: 3 }],
    ['m.avi', { codec: 'mpeg4', gop: 20 }],
    ['all.mkv', { codec: 'ffv1', gop: 1 }],
  ]
  for (const [name, options] of cases) {
    const path = await writeVideo(folder.at(name), colours(n), { fps: 10, ...options })
    const inOrder = await readFrames({ video: path }, { frames: n, sampling: { kind: 'first' } })
    if (options.codec !== 'mpeg4')
      assert.equal(
        inOrder.map((f) => numberOf(f, n)),
        colours(n).map((_, i) => i),
        name,
      )
    for (const order of [[97], [99], [3, 20, 55, 56, 99], [99, 50, 0], [24, 25, 26], [49, 48, 74, 75]]) {
      const video = await openVideo(path)
      try {
        for (const i of order)
          assert.equal(await video.frameAt(i / 10 + 0.05), inOrder[i], `${name}, frame ${i} of ${order}`)
      } finally {
        await video.close()
      }
    }
  }
})

test('seeking decodes from a keyframe on, and nothing twice on the way forward', async () => {
  const n = 200
  const decoded = async (path: string, times: number[]): Promise<number> => {
    const read = FrameStream.prototype.read
    let count = 0
    FrameStream.prototype.read = function () {
      count++
      return read.call(this)
    }
    const video = await openVideo(path)
    try {
      for (const t of times) await video.frameAt(t)
      return count
    } finally {
      FrameStream.prototype.read = read
      await video.close()
    }
  }
  for (const [name, bFrames] of [
    ['far.mp4', 0],
    ['farb.mp4', 2],
    ['far.mkv', 0],
    ['farb.mkv', 2],
  ] as const) {
    const often = await writeVideo(folder.at(name), colours(n), { fps: 10, gop: 10, bFrames })
    for (const times of [[19.05], [5.55, 12.35, 18.95]]) {
      const count = await decoded(often, times)
      assert.ok(count <= 13 * times.length, `${name}: ${count} frames decoded for ${times}`)
    }
    const rarely = await writeVideo(folder.at(`rare-${name}`), colours(n), { fps: 10, gop: 500, bFrames })
    const count = await decoded(rarely, [2.5, 7.5, 12.5, 17.5])
    assert.ok(count <= 178, `${name}: ${count} frames decoded where 177 are needed`)
  }
})

test('a start time other than zero does not shift the frames', async () => {
  const path = await writeVideo(folder.at('offset.ts'), colours(20), { fps: 10, offset: 7000 })
  const frames = await readFrames({ video: path, start: 0.5, end: 1.5 }, { frames: 2, sampling: { kind: 'uniform' } })
  assert.equal(
    frames.map((f) => numberOf(f, 20)),
    [7, 12],
  )
})

test('a rotated picture is turned as a player shows it', async () => {
  const [red, green, blue, grey]: Colour[] = [
    [200, 40, 40],
    [40, 160, 60],
    [40, 60, 190],
    [120, 120, 120],
  ] as Colour[]
  const picture: Picture = (x, y) => (y < 8 ? (x < 16 ? red! : green!) : x < 16 ? blue! : grey!)
  const corners = {
    90: [blue, red, grey, green],
    180: [grey, blue, green, red],
    270: [green, grey, red, blue],
  } as const
  for (const rotation of [90, 180, 270] as const) {
    for (const name of ['turned.mp4', 'turned.mkv']) {
      const path = await writeVideo(folder.at(name), [picture], { rotation, subsampled: false })
      const [f] = await readFrames({ video: path }, { frames: 1, sampling: { kind: 'first' } })
      assert.equal([f!.width, f!.height], rotation === 180 ? [32, 16] : [16, 32])
      const seen = [
        pixel(f!),
        pixel(f!, f!.width - 1, 0),
        pixel(f!, 0, f!.height - 1),
        pixel(f!, f!.width - 1, f!.height - 1),
      ]
      for (const [i, c] of corners[rotation].entries()) near(seen[i]!, c!)
    }
  }
})

test('uniform, fps and first-n choose their frames within start and end', async () => {
  const path = await writeVideo(folder.at('sampling.mp4'), colours(40), { fps: 10 })
  const read = async (frames: number, sampling: Parameters<typeof readFrames>[1]['sampling'], clip = {}) =>
    (await readFrames({ video: path, ...clip }, { frames, sampling })).map((f) => numberOf(f, 40))
  assert.equal(await read(4, { kind: 'uniform' }), [5, 15, 25, 35])
  assert.equal(await read(4, { kind: 'uniform' }, { start: 1, end: 2 }), [11, 13, 16, 18])
  assert.equal(await read(4, { kind: 'fps', fps: 2 }, { start: 0.5 }), [5, 10, 15, 20])
  assert.equal(await read(3, { kind: 'first' }), [0, 1, 2])
  assert.equal(await read(3, { kind: 'first' }, { start: 1.05 }), [11, 12, 13])
  assert.equal(await read(8, { kind: 'uniform' }, { start: 0, end: 0.4 }), [0, 0, 1, 1, 2, 2, 3, 3])
  assert.equal(
    await read(2, { kind: 'uniform' }, { start: 3, end: 4.05 }),
    [32, 37],
    'an end rounded up by less than a frame',
  )
})

test('a folder of frame images: natural order, time = index / fps, size and orientation of each', async () => {
  const images = folder.at('images')
  mkdirSync(images)
  for (let i = 0; i < 12; i++) {
    const image = sharp({
      create: { width: 4 + i, height: 6, channels: 3, background: { r: i * 20, g: 10, b: 250 - i * 20 } },
    })
    await (i === 3 ? image.withMetadata({ orientation: 6 }) : image).png().toFile(`${images}/frame${i}.png`)
  }
  const clip = { video: images, fps: 4 }
  const first = await readFrames(clip, { frames: 12, sampling: { kind: 'first' } })
  assert.equal(
    first.map((f) => pixel(f)[0]),
    Array.from({ length: 12 }, (_, i) => i * 20),
  )
  assert.equal(
    first.map((f) => f.time),
    Array.from({ length: 12 }, (_, i) => i / 4),
  )
  assert.equal(
    first.map((f) => f.width),
    [4, 5, 6, 6, 8, 9, 10, 11, 12, 13, 14, 15],
  )
  const uniform = await readFrames({ ...clip, start: 1, end: 2 }, { frames: 4, sampling: { kind: 'uniform' } })
  assert.equal(
    uniform.map((f) => f.time),
    [1, 1.25, 1.5, 1.75],
  )
  await sharp({ create: { width: 4, height: 4, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } } })
    .toColourspace('b-w')
    .png()
    .toFile(`${images}/frame12.png`)
  const [last] = await readFrames({ ...clip, start: 3 }, { frames: 1, sampling: { kind: 'first' } })
  assert.equal([last!.data.length, pixel(last!)], [48, [0, 0, 0]], 'grey with alpha becomes RGB')
})

test('nothing stays open, and the event loop stays free', async () => {
  const path = await writeVideo(
    folder.at('large.mp4'),
    colours(30).map((c) => c),
    { width: 640, height: 480, gop: 30 },
  )
  const { readdirSync, readlinkSync } = await import('node:fs')
  const held = () => {
    try {
      return readdirSync('/proc/self/fd').filter((fd) => {
        try {
          return basename(readlinkSync(`/proc/self/fd/${fd}`)) === 'large.mp4'
        } catch {
          return false
        }
      }).length
    } catch {
      return 0
    }
  }
  let longest = 0
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    longest = Math.max(longest, now - last)
    last = now
  }, 2)
  for (let i = 0; i < 5; i++) await readFrames({ video: path }, { frames: 4, sampling: { kind: 'uniform' } })
  clearInterval(timer)
  assert.ok(longest < 200, `a timer waited ${longest} ms`)
  assert.is(held(), 0)
})

test.run()
