/** Bad video input: one clear error each, nothing open, the process alive. */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdirSync, readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import sharp from 'sharp'
import { openVideo, readClip as readFrames, type Clip, type Sampling } from '../../lib/data/frames.js'
import { InputError } from '../../lib/errors.js'
import { temporaryFolder, writeAudio, writeVideo, type Colour } from './videos.js'

const test = suite('bad video input')
const folder = temporaryFolder()
const colours = (n: number): Colour[] => Array.from({ length: n }, (_, i) => [(i * 37) % 256, (i * 91 + 40) % 256, 90])
/** Pictures that take bytes, so that a cut in the middle of the file is a cut in the middle of the pictures. */
const noisy = (n: number) =>
  Array.from(
    { length: n },
    (_, i) =>
      (x: number, y: number): Colour => [(x * 37 + i * 11) % 256, (y * 53 + i * 7) % 256, (x * y + i) % 256],
  )

test.after(() => {
  const open = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return ''
    }
  })
  folder.remove()
  assert.equal(
    open.filter((path) => path.startsWith(folder.path)),
    [],
    'nothing stays open',
  )
})

async function refused(
  clip: Clip,
  message: RegExp,
  frames = 4,
  sampling: Sampling = { kind: 'uniform' },
): Promise<void> {
  try {
    await readFrames(clip, { frames, sampling })
  } catch (error) {
    assert.instance(error, InputError)
    const text = (error as Error).message
    assert.match(text, message)
    assert.ok(!text.includes('\n') && text.endsWith('.'), text)
    return
  }
  assert.unreachable(`${clip.video} was read`)
}

test('a missing file, an empty file, neither file nor folder', async () => {
  await refused({ video: folder.at('none.mp4') }, /none\.mp4: expected .* but got ENOENT/)
  writeFileSync(folder.at('empty.mp4'), '')
  await refused({ video: folder.at('empty.mp4') }, /expected a readable video file, but got an empty file/)
  if (process.platform === 'linux') await refused({ video: '/dev/null' }, /neither a file nor a folder/)
})

test('a file that may not be read', async () => {
  const path = await writeVideo(folder.at('secret.mp4'), colours(3))
  await readFrames({ video: path }, { frames: 1, sampling: { kind: 'uniform' } })
  const root = process.getuid?.() === 0
  if (root)
    process.seteuid!(65534) // the folder belongs to root alone
  else (await import('node:fs')).chmodSync(path, 0)
  try {
    await refused({ video: path }, /secret\.mp4: expected .* but got EACCES/)
  } finally {
    if (root) process.seteuid!(0)
  }
})

test('files that are not videos: bytes, a text, a picture, sound', async () => {
  writeFileSync(folder.at('noise.mp4'), Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * i * 31 + 7) % 251)))
  await refused({ video: folder.at('noise.mp4') }, /expected a video file, but got something that FFmpeg cannot read/)
  writeFileSync(folder.at('a.txt'), 'Once upon a time there was no video.\n'.repeat(50))
  await refused({ video: folder.at('a.txt') }, /expected a video file, but got a text/)
  await sharp({ create: { width: 32, height: 32, channels: 3, background: '#123456' } })
    .png()
    .toFile(folder.at('a.png'))
  await refused({ video: folder.at('a.png') }, /a still image; put it into a folder/)
  await refused({ video: writeAudio(folder.at('a.wav')) }, /sound without pictures/)
  writeFileSync(
    folder.at('list.m3u8'),
    '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n',
  )
  await refused({ video: folder.at('list.m3u8') }, /expected a video file/)
})

test('a truncated MP4: the index missing', async () => {
  const path = await writeVideo(folder.at('whole.mp4'), noisy(30))
  const bytes = readFileSync(path)
  writeFileSync(folder.at('headless.mp4'), bytes.subarray(0, bytes.length >> 1))
  await refused({ video: folder.at('headless.mp4') }, /without its index \(moov\); it is truncated/)
  writeFileSync(folder.at('stub.mp4'), bytes.subarray(0, 20))
  await refused({ video: folder.at('stub.mp4') }, /stub\.mp4: expected a video file/)
})

test('a video cut in the middle: frames before the cut are read, frames past it are refused', async () => {
  for (const [name, options] of [
    ['cut.mp4', { faststart: true }],
    ['cutb.mp4', { faststart: true, bFrames: 2 }],
    ['cut.mkv', {}],
  ] as const) {
    const path = await writeVideo(folder.at(`whole-${name}`), noisy(100), { fps: 10, gop: 10, ...options })
    const bytes = readFileSync(path)
    const cut = folder.at(name)
    writeFileSync(cut, bytes.subarray(0, Math.floor(bytes.length * 0.55)))
    const whole = await readFrames({ video: path, end: 4 }, { frames: 3, sampling: { kind: 'uniform' } })
    assert.equal(await readFrames({ video: cut, end: 4 }, { frames: 3, sampling: { kind: 'uniform' } }), whole, name)
    await refused({ video: cut }, /cut.*: expected a frame at .* truncated/)
    await refused({ video: cut, start: 8 }, /cut.*: expected a frame at 9 s, but got/, 1)
    await refused({ video: cut }, /cut.*: expected (a frame at|at least 80 frames)/, 80, { kind: 'first' })
  }
})

test('a truncated AVI, which has its index at the end', async () => {
  const bytes = readFileSync(await writeVideo(folder.at('whole.avi'), noisy(50), { codec: 'mpeg4' }))
  writeFileSync(folder.at('cut.avi'), bytes.subarray(0, bytes.length >> 1))
  await refused({ video: folder.at('cut.avi') }, /the first \d+ bytes of an AVI file of \d+ bytes; it is truncated/)
})

test('damage in the middle: no frame is silently replaced, and the next keyframe is good again', async () => {
  const path = await writeVideo(folder.at('good.mp4'), noisy(60), { fps: 10, gop: 10 })
  const bytes = readFileSync(path)
  const at = bytes.indexOf('mdat')
  const middle = at + Math.floor((bytes.readUInt32BE(at - 4) - 8) * 0.38) // somewhere after 2 s
  bytes.fill(0, middle, middle + 300)
  writeFileSync(folder.at('damaged.mp4'), bytes)
  const good = await readFrames({ video: path }, { frames: 60, sampling: { kind: 'uniform' } })
  const video = await openVideo(folder.at('damaged.mp4'))
  const state: string[] = []
  try {
    for (const [i, want] of good.entries()) {
      const got = await video.frameAt(i / 10 + 0.05).catch((error: unknown) => error)
      if (got instanceof InputError) state.push('x')
      else {
        assert.equal(got, want, `frame ${i}`)
        state.push('.')
      }
    }
  } finally {
    await video.close()
  }
  assert.match(state.join(''), /^\.{20,29}x{1,10}\.{30}$/)
})

test('start and end: in order, and within the video, whose duration is named', async () => {
  const path = await writeVideo(folder.at('short.mp4'), colours(20), { fps: 10 })
  await refused({ video: path, start: 1, end: 0.5 }, /end: expected a time after start \(1 s\), but got 0\.5/)
  await refused({ video: path, start: 1, end: 1 }, /end: expected a time after start/)
  await refused({ video: path, start: -1 }, /start: expected seconds, from 0 on, but got -1/)
  await refused({ video: path, start: NaN }, /start: expected seconds/)
  await refused(
    { video: path, start: 2 },
    /start: expected a time before the end of .*short\.mp4, which lasts 2 s, but got 2/,
  )
  await refused({ video: path, end: 2.5 }, /end: expected a time within .*short\.mp4, which lasts 2 s, but got 2\.5/)
})

test('T below 1, and clips too short for the sampling', async () => {
  const path = await writeVideo(folder.at('tiny.mp4'), colours(5), { fps: 10 })
  for (const frames of [0, -3, 2.5, NaN])
    await refused({ video: path }, /frames: expected a whole number from 1 on/, frames)
  await refused({ video: path }, /at least 6 frames from 0 s to 0\.5 s, but got 5/, 6, { kind: 'first' })
  await refused({ video: path }, /a clip that lasts more than 0\.6 s for 4 frames at 5 fps, but got 0\.5 s/, 4, {
    kind: 'fps',
    fps: 5,
  })
})

test('folders: no image, no fps, an image that is none', async () => {
  mkdirSync(folder.at('hollow'))
  await refused(
    { video: folder.at('hollow'), fps: 5 },
    /hollow: expected a folder of frame images .* but got a folder without any/,
  )
  await sharp({ create: { width: 8, height: 8, channels: 3, background: '#123456' } })
    .png()
    .toFile(folder.at('hollow/1.png'))
  await refused({ video: folder.at('hollow') }, /fps of .*hollow: expected the frames per second/)
  await refused({ video: folder.at('hollow'), fps: 0 }, /a number above 0, but got 0/)
  await refused({ video: folder.at('hollow'), fps: 1, end: 9 }, /end: expected a time within .*hollow, which lasts 1 s/)
  writeFileSync(folder.at('hollow/2.png'), readFileSync(folder.at('hollow/1.png')).subarray(0, 60))
  writeFileSync(folder.at('hollow/10.jpg'), 'no picture')
  await refused(
    { video: folder.at('hollow'), fps: 1, start: 1, end: 2 },
    /2\.png: expected an image that can be decoded/,
    1,
  )
  await refused({ video: folder.at('hollow'), fps: 1, start: 2 }, /10\.jpg: expected an image that can be decoded/, 1)
})

test('FFmpeg prints nothing, whatever happens', () => {
  const code = `import { readFrames } from ${JSON.stringify(new URL('../../lib/data/frames.ts', import.meta.url).href)}
    for (const name of ['noise.mp4', 'headless.mp4', 'cut.mp4', 'damaged.mp4', 'a.wav', 'list.m3u8']) {
      await readFrames({ video: ${JSON.stringify(folder.path)} + '/' + name }, { frames: 40, sampling: { kind: 'uniform' } }).then(() => process.exit(1), () => {})
    }
    console.log('alive')`
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', code],
    { encoding: 'utf8' },
  )
  assert.equal({ stdout, stderr, status }, { stdout: 'alive\n', stderr: '', status: 0 })
})

test.run()
