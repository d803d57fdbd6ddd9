import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { CodecContext } from 'node-av/lib'
import sharp from 'sharp'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { clips, frameOrder, renderClips, renderStills, stills } from '../../examples/tiny-world/render.js'
import { writeVideo } from '../../examples/tiny-world/render-video.js'
import { SIZE, film } from '../../examples/tiny-world/world.js'
import { decode, psnr } from './decode.js'

const test = suite('tiny world: files')

const dir = await mkdtemp(join(tmpdir(), 'tiny-world-'))
test.after(() => rm(dir, { recursive: true }))

interface Line {
  id: string
  video: string
  fps?: number
  qformerText: string
  prompt: string
  answer: string
  choices?: string[]
  task: string
}
const read = async (manifest: string): Promise<Line[]> =>
  (await readFile(manifest, 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)

const job = { dir, seed: 0, split: 'train', clips: 12 }
/** Colours survive: pixel noise of 0.02 alone would be 34 dB. */
const LEAST_PSNR = 40

test('a video decodes to the painted frames: 8 of them at 8 a second, at least 40 dB each', async () => {
  const seen: number[] = []
  const manifest = await renderClips({ ...job, progress: (done, total) => void seen.push(done / total) })
  assert.is(manifest, join(dir, 'train', 'manifest.jsonl'))
  assert.equal(
    seen,
    Array.from({ length: 12 }, (_, i) => (i + 1) / 12),
  )
  for (const { id, scene } of clips(0, 'train', 12)) {
    const video = decode(join(dir, 'train', `${id}.mp4`))
    assert.equal([video.codec, video.fps, video.seconds, video.frames.length], ['h264', 8, 1, 8])
    for (const [f, frame] of film(scene).entries()) {
      const db = psnr(frame, video.frames[f]!)
      assert.ok(db >= LEAST_PSNR, `clip ${id}, frame ${f}: ${db} dB`)
    }
  }
})

test('one line a question, with the question for the Q-Former too, and a file behind every line', async () => {
  const lines = await read(join(dir, 'train', 'manifest.jsonl'))
  const asked = clips(0, 'train', 12).flatMap((c) => c.questions)
  assert.equal(
    lines.map((l) => l.prompt),
    asked.map((q) => q.prompt.join(' ')),
  )
  assert.is(new Set(lines.map((l) => l.id)).size, lines.length)
  for (const line of lines) {
    assert.is(line.qformerText, line.prompt)
    assert.ok(line.choices!.includes(line.answer))
    assert.ok((await stat(join(dir, 'train', line.video))).size > 1000)
  }
})

test('the same set is used again; another one replaces it; the same seed gives the same files', async () => {
  const file = join(dir, 'train', '000003.mp4')
  const before = { bytes: await readFile(file), time: (await stat(file)).mtimeMs }
  await renderClips(job)
  assert.is((await stat(file)).mtimeMs, before.time)
  await renderClips({ ...job, clips: 4 })
  assert.is((await readdir(join(dir, 'train'))).length, 4 + 2)
  assert.ok((await readFile(file)).equals(before.bytes)) // a report of assert.equal would show an empty file
  await renderClips({ ...job, clips: 4, seed: 1 })
  assert.not.ok((await readFile(file)).equals(before.bytes))
})

test('a set rendered twice is the same to the byte', async () => {
  const sets = await Promise.all(
    ['once', 'twice'].map(async (place) => {
      const set = dirname(await renderClips({ ...job, dir: join(dir, place), clips: 150 }))
      const names = (await readdir(set)).sort()
      const digests = names.map(
        async (name) =>
          `${name} ${createHash('sha256')
            .update(await readFile(join(set, name)))
            .digest('hex')}`,
      )
      return Promise.all(digests)
    }),
  )
  for (const place of ['once', 'twice']) await rm(join(dir, place), { recursive: true })
  assert.is(sets[0]!.length, 150 + 2)
  assert.equal(sets[1], sets[0])
})

test('memory collected between a frame and its encoding changes nothing', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const films = clips(0, 'train', 6).map(({ scene }) => film(scene))
  const write = async (frames: Uint8Array[]): Promise<Buffer> => {
    const file = join(dir, 'video.mp4')
    await writeVideo(file, frames)
    return readFile(file)
  }
  const undisturbed: Buffer[] = []
  for (const frames of films) undisturbed.push(await write(frames))
  const { sendFrame } = CodecContext.prototype
  let filled = 0
  CodecContext.prototype.sendFrame = async function (frame) {
    collect()
    await setTimeout(1) // array buffers are freed in the background
    const taken = Array.from({ length: 50 }, (_, i) => Buffer.alloc(3 * SIZE * SIZE, i)) // what was free
    filled += taken.length
    return sendFrame.call(this, frame)
  }
  try {
    for (const [i, frames] of films.entries()) assert.ok((await write(frames)).equals(undisturbed[i]!), `video ${i}`)
  } finally {
    CodecContext.prototype.sendFrame = sendFrame
    await rm(join(dir, 'video.mp4'))
  }
  assert.is(filled, 6 * 9 * 50) // 8 frames and the end of each video
})

test('a set is whole or absent, and other folders are not touched', async () => {
  const stop = new AbortController()
  const progress = (done: number): void => void (done === 2 && stop.abort())
  const name = await renderClips({ ...job, split: 'val', signal: stop.signal, progress }).catch(
    (error: Error) => error.name,
  )
  assert.is(name, 'AbortError')
  await mkdir(join(dir, 'mine'))
  await writeFile(join(dir, 'mine', 'thesis.txt'), 'x')
  const message = await renderClips({ ...job, split: 'mine' }).catch((error: Error) => error.message)
  assert.match(message, /mine: expected an empty place, or a set written earlier, but got "other files"; remove them/)
  assert.equal(await readdir(join(dir, 'mine')), ['thesis.txt'])
  assert.equal((await readdir(dir)).sort(), ['mine', 'train'])
  assert.match(
    await renderClips({ ...job, clips: 0 }).catch((error: Error) => error.message),
    /clips: expected a whole number/,
  )
})

test('controls show the same clips in another order, or one frame throughout', async () => {
  const small = { ...job, split: 'test', clips: 6 }
  const normal = await renderClips(small)
  for (const order of ['shuffled', 'still'] as const) {
    const manifest = await renderClips({ ...small, order })
    assert.is(dirname(manifest), join(dir, `test-${order}`))
    assert.equal(await read(manifest), await read(normal))
    for (const [i, { id, scene }] of clips(0, 'test', 6).entries()) {
      const frames = film(scene)
      const shown = frameOrder(order, 0, 'test', i)
      const decoded = decode(join(dir, `test-${order}`, `${id}.mp4`)).frames
      for (const [f, from] of shown.entries()) assert.ok(psnr(frames[from]!, decoded[f]!) >= LEAST_PSNR)
    }
  }
  for (let i = 0; i < 200; i++) {
    const shuffled = frameOrder('shuffled', 0, 'test', i)
    assert.ok(shuffled.some((f, at) => f !== at))
    assert.equal([...shuffled].sort(), [0, 1, 2, 3, 4, 5, 6, 7])
    assert.is(new Set(frameOrder('still', 0, 'test', i)).size, 1)
  }
  assert.equal(frameOrder('normal', 0, 'test', 0), [0, 1, 2, 3, 4, 5, 6, 7])
})

test('stills: PNG files with exactly the painted pixels, one folder each, or several in order', async () => {
  const manifest = await renderStills({ dir, seed: 0, split: 'stills', stills: 5 })
  const expected = stills(0, 5, { split: 'stills' })
  const lines = await read(manifest)
  assert.equal(
    lines.map((l) => l.answer),
    expected.flatMap((s) => s.questions.map((q) => q.answer.join(' '))),
  )
  for (const [i, { rgb }] of expected.entries()) {
    const png = await sharp(join(dir, 'stills', `00000${i}`, '0.png'))
      .raw()
      .toBuffer()
    assert.equal(new Uint8Array(png), rgb)
  }
  const several = await read(await renderStills({ dir, seed: 0, split: 'several', stills: 5, images: 3, questions: 2 }))
  assert.is(several.length, 10)
  for (const line of several) {
    assert.is(line.fps, 1)
    assert.equal((await readdir(join(dir, 'several', line.video))).sort(), ['0.png', '1.png', '2.png'])
  }
})

test('stills of another seed or split are others; so are stills with a given number of objects', () => {
  const key = (list: ReturnType<typeof stills>): string => JSON.stringify(list.map((s) => s.scene.things))
  const sets = [stills(0, 20), stills(1, 20), stills(0, 20, { split: 'held-out' }), stills(0, 20, { things: 1 })].map(
    key,
  )
  assert.is(new Set(sets).size, 4)
  assert.is(key(stills(0, 20)), sets[0])
  assert.ok(stills(0, 50, { things: 1 }).every((s) => s.scene.things.length === 1))
})

test.run()
