/**
 * Videos as people have them: containers that do not state when pictures end, clocks that fall back, interlaced
 * fields, display matrices, alpha.
 */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import sharp from 'sharp'
import { openVideo, readFrames, type Clip, type RgbFrame } from '../../lib/data/frames.js'
import { InputError } from '../../lib/errors.js'
import { barNumber, bars, temporaryFolder, writeVideo, type Colour, type Picture, type VideoOptions } from './videos.js'

const test = suite('videos from the wild')
const folder = temporaryFolder()
test.after(() => folder.remove())

const SIZE = { width: 64, height: 32, fps: 25 }
const numbered = (n: number): Picture[] => Array.from({ length: n }, (_, i) => bars(i))
const write = (name: string, n: number, options: VideoOptions = {}) =>
  writeVideo(folder.at(name), numbered(n), { ...SIZE, ...options })
/** The same with noise below, which takes bytes: a cut in the file is a cut in the pictures. */
const noisy = (n: number): Picture[] =>
  upTo(n).map(
    (i) => (x, y) =>
      y < 16
        ? (bars(i) as (x: number, y: number) => Colour)(x, y)
        : [(x * 37 + y * i * 11) % 256, (y * 53 + x * i * 7) % 256, (x * y + i) % 256],
  )
const upTo = (n: number) => Array.from({ length: n }, (_, i) => i)

async function numbers(video: string, frames: number, clip: Partial<Clip> = {}): Promise<number[]> {
  return (await readFrames({ video, ...clip }, { frames, sampling: { kind: 'uniform' } })).map(barNumber)
}

async function refused(video: string, message: RegExp, frames = 4, clip: Partial<Clip> = {}): Promise<void> {
  const error = await numbers(video, frames, clip).then(
    (got) => new Error(`read ${got}`),
    (e: Error) => e,
  )
  assert.instance(error, InputError, error.message)
  assert.match(error.message, message)
}

/** Bytes of a file changed in place: `find` once, to `put` of the same length. */
function patched(path: string, find: string | Buffer, put: string | Buffer): string {
  const bytes = readFileSync(path)
  const at = bytes.indexOf(find)
  assert.ok(at >= 0, `${path} does not hold ${find}`)
  bytes.set(Buffer.from(put as string), at)
  writeFileSync(path, bytes)
  return path
}

const pixel = (f: RgbFrame, x: number, y: number): number[] => [
  ...f.data.subarray(3 * (y * f.width + x), 3 * (y * f.width + x) + 3),
]

test('1: interlaced pictures, either field first, in four codecs', async () => {
  for (const [name, codec] of [
    ['i.mkv', 'libx264'],
    ['i.mpg', 'mpeg2video'],
    ['i.avi', 'mpeg4'],
    ['i.ts', 'mpeg2video'],
  ] as const) {
    for (const interlaced of ['top', 'bottom'] as const) {
      const path = await write(`${interlaced}-${name}`, 50, { codec, interlaced })
      assert.equal(await numbers(path, 4), [6, 18, 31, 43], path)
      assert.equal(await numbers(path, 2, { start: 1, end: 2 }), [31, 43], path)
    }
  }
})

test('1: of two fields, the first one is the picture', async () => {
  for (const interlaced of ['top', 'bottom'] as const) {
    const woven: Picture = (_, y) => (y % 2 === (interlaced === 'top' ? 0 : 1) ? [200, 200, 200] : [40, 40, 40])
    const path = await writeVideo(folder.at('fields.mkv'), [woven, woven], {
      ...SIZE,
      codec: 'libx264',
      interlaced,
      subsampled: false,
    })
    const [frame] = await readFrames({ video: path }, { frames: 1, sampling: { kind: 'first' } })
    for (const y of [0, 1, 10, 11, 31])
      assert.ok(Math.abs(pixel(frame!, 20, y)[0]! - 200) < 12, `${interlaced}, line ${y}: ${pixel(frame!, 20, y)}`)
  }
})

test('2: sound that is longer than the pictures, begins before them, or is shorter', async () => {
  const cases: [string, VideoOptions][] = [
    ['long.webm', { codec: 'libvpx-vp9' }],
    ['long.mkv', { bFrames: 2 }],
    ['long.flv', {}],
    ['long.wmv', { codec: 'wmv2' }],
    ['long.mpg', { codec: 'mpeg2video', bFrames: 2 }],
    ['long.ts', { bFrames: 2 }],
    ['long.mp4', {}],
    ['b.flv', { bFrames: 2 }],
    ['b.asf', { codec: 'mpeg4', bFrames: 2 }],
    ['long.avi', { codec: 'mpeg4', bFrames: 2 }],
    ['b.avi', { bFrames: 2 }],
    ['fragments.mp4', { bFrames: 2, gop: 10, container: { movflags: 'frag_keyframe' } }],
  ]
  for (const [name, options] of cases) {
    for (const [sound, soundBefore] of [
      [6, 0],
      [6, 0.32],
      [1, 0],
      [0, 0],
    ] as const) {
      if (soundBefore && /avi|fragments/.test(name)) continue // the writer puts the first picture at 0 all the same
      const path = await write(name, 50, { ...options, sound, soundBefore })
      if (/webm|mkv/.test(name)) while (readFileSync(path).includes('DURATION')) patched(path, 'DURATION', 'XURATION')
      const where = `${name}, sound ${sound} s, ${soundBefore} s before`
      assert.equal(await numbers(path, 4), [6, 18, 31, 43], where)
      assert.equal(await numbers(path, 50), upTo(50), where)
    }
  }
})

test('2: headers of MP4 that know fewer pictures, or other times, than the table of samples', async () => {
  for (const [name, options] of [
    ['short.mp4', { bFrames: 2 }],
    ['short.mov', { codec: 'mpeg4' }],
  ] as const) {
    const path = await write(name, 50, options)
    const bytes = readFileSync(path)
    const at = bytes.indexOf('mdhd') + 20
    bytes.writeUInt32BE(bytes.readUInt32BE(at) / 2, at)
    writeFileSync(path, bytes)
    assert.equal(await numbers(path, 4), [6, 18, 31, 43], name)
    assert.equal(await numbers(path, 50), upTo(50), name)
  }
  // With B-frames and lengths that vary, the decoding times, which the header sums up, end early.
  const pts = upTo(30).map((i) => 40 * i + 400 * Math.max(0, i - 24))
  for (const ext of ['mp4', 'mov', 'mkv']) {
    const path = await write(`uneven.${ext}`, 30, { bFrames: 3, pts })
    assert.equal(await numbers(path, 1, { start: 3.2, end: 3.25 }), [29], ext)
    assert.equal(await numbers(path, 1, { start: 2, end: 2.1 }), [26], ext)
  }
})

test('2: an edit list that leaves out the beginning', async () => {
  for (const [name, options] of [
    ['trim.mp4', { bFrames: 2 }],
    ['trim.mov', { codec: 'mpeg4', sound: 6 }],
  ] as const)
    assert.equal(await numbers(await write(name, 50, { ...options, offset: -400 }), 4), [15, 25, 35, 45], name)
})

/** Seconds as Matroska's Duration element (milliseconds, float64). */
const duration = (s: number): Buffer => {
  const element = Buffer.from([0x44, 0x89, 0x88, 0, 0, 0, 0, 0, 0, 0, 0])
  element.writeDoubleBE(1000 * s, 3)
  return element
}

test('3: a last picture that stands to the end that is declared; cut off all the same', async () => {
  for (const [name, codec] of [
    ['still.webm', 'libvpx-vp9'],
    ['still.mkv', 'libx264'],
  ] as const) {
    const path = await writeVideo(folder.at(name), noisy(50), { ...SIZE, codec, gop: 10 })
    patched(patched(path, 'DURATION', 'XURATION'), duration(2), duration(5))
    assert.equal(await numbers(path, 4), [15, 46, 49, 49], name)
    assert.equal(await numbers(path, 1, { start: 4, end: 5 }), [49], name)
    const bytes = readFileSync(path)
    writeFileSync(path, bytes.subarray(0, bytes.length * 0.6))
    await refused(path, /it is truncated/)
  }
  const wmv = await writeVideo(folder.at('still.wmv'), noisy(50), { ...SIZE, codec: 'wmv2', gop: 10 })
  const bytes = readFileSync(wmv)
  const properties = bytes.indexOf(Buffer.from('a1dcab8c47a9cf118ee400c00c205365', 'hex'))
  bytes.writeBigUInt64LE(bytes.readBigUInt64LE(properties + 64) + 30_000_000n, properties + 64) // 3 s more
  writeFileSync(wmv, bytes)
  assert.equal(await numbers(wmv, 4), [15, 46, 49, 49])
  writeFileSync(wmv, bytes.subarray(0, bytes.length * 0.6))
  await refused(wmv, /it is truncated/)
})

test('3: a live recording, which knows no length, ends where it ends', async () => {
  const path = await write('live.webm', 50, { codec: 'libvpx', gop: 10, container: { live: '1' } })
  assert.equal(await numbers(path, 4), [6, 18, 31, 43])
  const bytes = readFileSync(path)
  writeFileSync(path, bytes.subarray(0, bytes.length - 5))
  await refused(path, /a whole video file, for a clip without an end, .* truncated/)
  assert.equal(await numbers(path, 2, { start: 0, end: 1 }), [6, 18])
  const flv = await write('cut.flv', 50, { sound: 2 })
  const tags = readFileSync(flv)
  assert.equal(await numbers(flv, 4), [6, 18, 31, 43])
  writeFileSync(flv, tags.subarray(0, tags.length - 4)) // the last tag's length does not count
  assert.equal(await numbers(flv, 4), [6, 18, 31, 43])
  writeFileSync(flv, tags.subarray(0, tags.length * 0.6))
  await refused(flv, /truncated/)
})

test('4: pictures of an AVI with B-frames, which knows decoding times alone', async () => {
  const cases: [string, number, VideoOptions][] = [
    ['b1.avi', 50, { codec: 'mpeg4', bFrames: 1, gop: 12 }],
    ['b2.avi', 50, { codec: 'mpeg4', bFrames: 2, gop: 9 }],
    ['b3.avi', 13, { codec: 'mpeg4', bFrames: 2 }],
    ['h264.avi', 50, { codec: 'libx264', bFrames: 2, gop: 10 }],
    ['none.avi', 50, { codec: 'mpeg4', gop: 12 }],
    ['one.avi', 1, { codec: 'mpeg4', bFrames: 2 }],
    ['jpeg.avi', 50, { codec: 'mjpeg' }],
    ['mpeg2.avi', 50, { codec: 'mpeg2video', bFrames: 2 }],
  ]
  for (const [name, n, options] of cases) {
    const path = await write(name, n, options)
    assert.equal(await numbers(path, n), upTo(n), name)
    for (const order of [[n - 1], [0, n - 1], [n >> 1, n - 2, 0, n - 1]]) {
      const video = await openVideo(path)
      try {
        for (const i of order.filter((k) => k >= 0))
          assert.is(barNumber(await video.frameAt((i + 0.5) / 25)), i, `${name}: ${i} of ${order}`)
      } finally {
        await video.close()
      }
    }
  }
})

test('4: stamps that say when pictures are decoded, in any container, at once or later', async () => {
  for (const [name, options] of [
    ['dts.mp4', { bFrames: 2, gop: 10 }],
    ['dts.mov', { bFrames: 3, gop: 25 }],
    ['dts4.mp4', { codec: 'mpeg4', bFrames: 2 }],
    ['dts.mkv', { bFrames: 2, gop: 10 }],
    ['dts4.mkv', { codec: 'mpeg4', bFrames: 2 }],
    ['dts.flv', { bFrames: 3 }],
  ] as const) {
    for (const decodingTimes of [0, 1]) {
      const path = await write(name, 50, { ...options, decodingTimes })
      assert.equal(await numbers(path, 50), upTo(50), `${name}, ${decodingTimes} late`)
      assert.equal(await numbers(path, 2, { start: 1, end: 2 }), [31, 43], `${name}, ${decodingTimes} late`)
    }
  }
})

test('4: a program stream that stamps few of its pictures', async () => {
  for (const [name, options] of [
    ['few.mpg', { bFrames: 2 }],
    ['few.vob', { bFrames: 2, gop: 25, sound: 3 }],
    ['few2.mpg', { codec: 'mpeg2video', bFrames: 2, offset: 1000 }],
  ] as const) {
    const path = await write(name, 50, options)
    assert.equal(await numbers(path, 4), [6, 18, 31, 43], name)
    assert.equal(await numbers(path, 50), upTo(50), name)
  }
})

test('5: streams joined end to end: all of them, in order', async () => {
  const join = (name: string, ...parts: string[]): string => {
    writeFileSync(folder.at(name), Buffer.concat(parts.map((p) => readFileSync(p))))
    return folder.at(name)
  }
  const ts = await write('one.ts', 50, { bFrames: 2, gop: 12 })
  const again = join('twice.ts', ts, ts)
  assert.equal(await numbers(again, 4), [12, 37, 12, 37])
  assert.equal(await numbers(again, 100), [...upTo(50), ...upTo(50)])
  assert.equal(await numbers(again, 2, { start: 2, end: 4 }), [12, 37])
  assert.equal(await numbers(join('thrice.ts', ts, ts, ts), 6), [12, 37, 12, 37, 12, 37])
  const later = await write('later.ts', 50, { bFrames: 2, offset: 3_600_000 }) // an hour on
  assert.equal(await numbers(join('leap.ts', ts, later), 4), [12, 37, 12, 37])
  assert.equal(await numbers(join('back.ts', later, ts), 4), [12, 37, 12, 37])
  const mpeg2 = await write('mpeg2.ts', 50, { codec: 'mpeg2video', bFrames: 2 })
  assert.equal(await numbers(join('mpeg2-twice.ts', mpeg2, mpeg2), 4), [12, 37, 12, 37])
  const ps = await write('one.mpg', 50, { codec: 'mpeg2video', bFrames: 2 })
  assert.equal(await numbers(join('twice.mpg', ps, ps), 4), [12, 37, 12, 37])
  for (const overlap of [1960, 1920]) {
    const next = await write('next.ts', 50, { bFrames: 2, offset: overlap }) // the clock goes on, and a picture or two too early
    assert.equal(await numbers(join('overlap.ts', ts, next), 100), [...upTo(50), ...upTo(50)], `${overlap}`)
  }
})

test('5: joined in other containers; and where the pictures go on in another stream', async () => {
  for (const [name, options] of [
    ['one.mkv', { bFrames: 2 }],
    ['one.webm', { codec: 'libvpx-vp9' }],
  ] as const) {
    const path = await write(name, 50, options)
    const bytes = readFileSync(path)
    writeFileSync(path, Buffer.concat([bytes, bytes]))
    assert.equal(await numbers(path, 4), [12, 37, 12, 37], name)
    assert.equal(await numbers(path, 100), [...upTo(50), ...upTo(50)], name)
  }
  const one = readFileSync(await write('stream.ts', 50, { bFrames: 2 }))
  const container = { mpegts_start_pid: '512', mpegts_pmt_start_pid: '5000' }
  for (const [name, options] of [
    ['stream2.ts', { bFrames: 2 }],
    ['stream3.ts', { codec: 'mpeg2video' }],
  ] as const) {
    const two = readFileSync(await write(name, 50, { ...options, container }))
    for (const parts of [
      [one, two],
      [two, one],
    ]) {
      writeFileSync(folder.at('streams.ts'), Buffer.concat(parts))
      await refused(
        folder.at('streams.ts'),
        /files joined end to end with different streams of pictures \((h264|mpeg2)/,
      )
    }
  }
})

test('5: packets that do not count on are no damage where the decoder took them', async () => {
  for (const [name, codec] of [
    ['count.ts', 'libx264'],
    ['count2.ts', 'mpeg2video'],
  ] as const) {
    const path = await write(name, 50, { codec, bFrames: 2 })
    const bytes = readFileSync(path)
    for (let at = 188 * 40; at < bytes.length; at += 188)
      bytes[at + 3] = (bytes[at + 3]! & 0xf0) | ((bytes[at + 3]! + 5) & 0x0f)
    writeFileSync(path, bytes)
    assert.equal(await numbers(path, 50), upTo(50), name)
  }
})

test('6: a display matrix is a hint: zero, scaled, skewed', async () => {
  const one = 65536
  const last = 1 << 30
  const upright = {
    zero: [0, 0, 0, 0, 0, 0, 0, 0, 0],
    twice: [2 * one, 0, 0, 0, 2 * one, 0, 0, 0, last],
    half: [one / 2, 0, 0, 0, one / 2, 0, 0, 0, last],
    wide: [3 * one, 0, 0, 0, one, 0, 0, 0, last],
    tilted: [one, 900, 0, -900, one, 0, 0, 0, last],
    flat: [one, 0, 0, one, 0, 0, 0, 0, last],
  }
  for (const [name, display] of Object.entries(upright)) {
    for (const ext of ['mp4', 'mov'])
      assert.equal(await numbers(await write(`${name}.${ext}`, 50, { display }), 4), [6, 18, 31, 43], name)
  }
  const path = await write('turned.mp4', 5, { display: [0, 2 * one, 0, -2 * one, 0, 0, 0, 0, last] })
  const [frame] = await readFrames({ video: path }, { frames: 1, sampling: { kind: 'first' } })
  assert.equal([frame!.width, frame!.height], [32, 64])
})

test('7: elementary streams without time stamps', async () => {
  const cases: [string, VideoOptions][] = [
    ['raw.h264', { bFrames: 2 }],
    ['raw2.h264', { gop: 5 }],
    ['raw.hevc', { codec: 'libx265' }],
    ['raw.m4v', { codec: 'mpeg4', bFrames: 2, format: 'm4v' }],
    ['raw2.m4v', { codec: 'mpeg4', format: 'm4v' }],
    ['raw.m2v', { codec: 'mpeg2video', bFrames: 2 }],
    ['raw.mjpeg', { codec: 'mjpeg' }],
  ]
  for (const [name, options] of cases) {
    const path = await write(name, 50, options)
    assert.equal(await numbers(path, 4), [6, 18, 31, 43], name)
    assert.equal(await numbers(path, 50), upTo(50), name)
    assert.equal(await numbers(path, 2, { start: 1, end: 2 }), [31, 43], name)
  }
})

test('7: transparency is on black, in a video as in a folder of the same pictures', async () => {
  const picture: Picture = (x, y) =>
    y < 8 ? [200, 40, 90, 255] : x < 16 ? [200, 40, 90, 128] : [255, 255, 255, x < 24 ? 0 : 77]
  mkdirSync(folder.at('alpha'))
  const raw = Buffer.alloc(32 * 16 * 4)
  for (let y = 0; y < 16; y++)
    for (let x = 0; x < 32; x++)
      raw.set([...(picture as (x: number, y: number) => Iterable<number>)(x, y)], 4 * (32 * y + x))
  await sharp(raw, { raw: { width: 32, height: 16, channels: 4 } })
    .png()
    .toFile(folder.at('alpha/0.png'))
  const [image] = await readFrames({ video: folder.at('alpha'), fps: 1 }, { frames: 1, sampling: { kind: 'first' } })
  for (const [name, codec] of [
    ['a.mov', 'qtrle'],
    ['b.mov', 'png'],
    ['c.mkv', 'png'],
  ] as const) {
    const path = await writeVideo(folder.at(name), [picture, picture], { codec })
    const [frame] = await readFrames({ video: path }, { frames: 1, sampling: { kind: 'first' } })
    assert.equal(frame!.data, new Uint8Array(image!.data), name)
  }
  assert.equal(pixel(image!, 20, 12), [0, 0, 0])
  const flat: Picture = () => [200, 40, 90, 128]
  const path = await writeVideo(folder.at('d.webm'), [flat, flat], { codec: 'libvpx-vp9', alpha: true })
  const [frame] = await readFrames({ video: path }, { frames: 1, sampling: { kind: 'first' } })
  for (const [i, want] of [100, 20, 45].entries())
    assert.ok(Math.abs(pixel(frame!, 16, 8)[i]! - want) < 6, `WebM: ${pixel(frame!, 16, 8)}`)
})

test.run()
