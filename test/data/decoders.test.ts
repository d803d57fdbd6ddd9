/** Decoding in processes that can be given up: the same pictures, a time limit, crashes, files that never yield. */
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { contentHash } from '../../lib/data/cache.js'
import { Decoders } from '../../lib/data/decoders.js'
import { hashVideo, readClip, readFrames, type ReadOptions } from '../../lib/data/frames.js'
import { InputError } from '../../lib/errors.js'
import { bars, temporaryFolder, writeVideo } from './videos.js'

const test = suite('decoding processes')
const folder = temporaryFolder()
test.after(() => folder.remove())

const options: ReadOptions = { frames: 4, sampling: { kind: 'uniform' } }
const video = (name: string, n = 10) =>
  writeVideo(
    folder.at(name),
    Array.from({ length: n }, (_, i) => bars(i)),
    { width: 64, height: 32 },
  )

async function refused(work: Promise<unknown>, message: RegExp): Promise<void> {
  const error = await work.then(
    () => new Error('it was read'),
    (e: Error) => e,
  )
  assert.instance(error, InputError, error.message)
  assert.match(error.message, message, error.message)
}

/** A decoding process of our own: `body` handles each `line`; `reply(object, bytes?)` answers. */
function fake(name: string, body: string): URL {
  writeFileSync(
    folder.at(name),
    `
    import { writeSync } from 'node:fs'
    import { createInterface } from 'node:readline'
    const reply = (o, bytes) => { writeSync(3, JSON.stringify({ rss: 1, ...o }) + '\\n'); if (bytes) writeSync(3, bytes) }
    const picture = { pictures: [{ width: 1, height: 1, time: 0 }], order: [0, 0] }
    createInterface({ input: process.stdin }).on('line', (line) => {
      const { clip, hash } = JSON.parse(line)
      ${body}
    }).on('close', () => process.exit())
    reply({ ready: true })`,
  )
  return pathToFileURL(folder.at(name))
}

/** Whether a process of this id is alive: not a zombie. */
const alive = (pid: number): boolean =>
  spawnSync('ps', ['-o', 'stat=', '-p', `${pid}`], { encoding: 'utf8' })
    .stdout.trim()
    .replace(/^Z.*/, '') !== ''

test('the pictures are those of decoding here, repeated ones are one object, and a size is made there', async () => {
  const path = await video('a.mp4', 3)
  for (const [frames, sampling] of [
    [4, { kind: 'uniform' }],
    [3, { kind: 'first' }],
    [8, { kind: 'uniform' }],
  ] as const) {
    const there = await readFrames({ video: path }, { frames, sampling })
    assert.equal(there, await readClip({ video: path }, { frames, sampling }))
    assert.is(new Set(there).size, 3)
  }
  const resize = { size: { width: 24, height: 24 }, resample: 'cubic' } as const
  const small = await readFrames({ video: path }, { ...options, resize })
  assert.equal(
    small.map((f) => [f.width, f.height, f.data.length]),
    Array(4).fill([24, 24, 3 * 24 * 24]),
  )
  assert.equal(small, await readClip({ video: path }, { ...options, resize }))
})

test('an error is the one of decoding here', async () => {
  writeFileSync(folder.at('noise.mp4'), Buffer.alloc(3000, 7))
  for (const clip of [
    { video: folder.at('noise.mp4') },
    { video: folder.at('none.mp4') },
    { video: await video('b.mp4'), start: 5 },
  ]) {
    const here = await readClip(clip, options).catch((e: Error) => e.message)
    await readFrames(clip, options).then(
      () => assert.unreachable(),
      (e: Error) => assert.is(e.message, here),
    )
  }
  await refused(readFrames({ video: 'x' }, { ...options, timeout: 0 }), /timeout: expected seconds above 0, but got 0/)
})

test('many clips at once share a few processes', async () => {
  const path = await video('c.mp4')
  const first = await readClip({ video: path }, options)
  const all = await Promise.all(Array.from({ length: 20 }, () => readFrames({ video: path }, options)))
  for (const frames of all) assert.equal(frames, first)
})

test('a decoder that spins or waits is abandoned: the clip is named, the process ended, and the next clip read', async () => {
  for (const [name, body] of [
    ['spin.mjs', 'while (true);'],
    ['wait.mjs', 'setInterval(() => {}, 1000)'],
    ['half.mjs', 'reply(picture, Buffer.alloc(2))'],
  ] as const) {
    const decoders = new Decoders({
      size: 1,
      program: fake(
        name,
        `if (clip.video !== 'bad.mp4') { reply(picture, Buffer.from([1, 2, process.pid & 255])); return } reply; ${body}`,
      ),
    })
    const before = await decoders.read({ video: 'good.mp4' }, options, 30)
    assert.is(before.length, 2)
    assert.is(before[0], before[1])
    const { pid } = (decoders as unknown as { all: Set<{ child: { pid: number } }> }).all.values().next().value!.child
    const work = decoders.read({ video: 'bad.mp4' }, options, 0.3)
    const queued = decoders.read({ video: 'good.mp4' }, options, 30)
    await refused(
      work,
      /^bad\.mp4: expected its frames within 0\.3 s, but got none; .* raise the limit \(data\.timeout of/,
    )
    assert.is((await queued).length, 2)
    assert.is(decoders.lost, 1)
    for (let i = 0; alive(pid) && i < 100; i++) await new Promise((r) => setTimeout(r, 50))
    assert.not(alive(pid))
    decoders.close()
  }
})

test('a decoder that crashes costs its clip alone', async () => {
  const decoders = new Decoders({
    size: 1,
    program: fake(
      'crash.mjs',
      `if (clip.video === 'bad.mp4') process.kill(process.pid, 'SIGSEGV'); else reply(picture, Buffer.alloc(3))`,
    ),
  })
  const work = [decoders.read({ video: 'bad.mp4' }, options, 30), decoders.read({ video: 'good.mp4' }, options, 30)]
  await refused(work[0]!, /bad\.mp4: expected a video that can be decoded, but got a decoder that crashed \(SIGSEGV\)/)
  assert.is((await work[1]!)[0]!.data.length, 3)
  decoders.close()
  const broken = folder.at('broken.mjs')
  writeFileSync(broken, 'throw new Error("no such library")')
  await refused(
    new Decoders({ size: 1, program: pathToFileURL(broken) }).read({ video: 'a.mp4' }, options, 30),
    /its process did not start/,
  )
})

test('a pipe that never yields is refused, wherever it stands', async () => {
  if (process.platform === 'win32') return
  execFileSync('mkfifo', [folder.at('pipe.mp4')])
  mkdirSync(folder.at('images'))
  execFileSync('mkfifo', [folder.at('images/1.png')])
  await refused(
    readFrames({ video: folder.at('pipe.mp4') }, { ...options, timeout: 20 }),
    /pipe\.mp4: .* neither a file nor a folder/,
  )
  await refused(
    readFrames({ video: folder.at('images'), fps: 1 }, { ...options, frames: 1, timeout: 20 }),
    /1\.png: .* not a file/,
  )
  await refused(contentHash(folder.at('pipe.mp4')), /neither a file nor a folder/)
  await refused(contentHash(folder.at('images')), /neither a file nor a folder/)
})

test('a disk that never answers is given up while a video is hashed, too', async () => {
  const path = await video('hash.mp4')
  mkdirSync(folder.at('hashed'))
  writeFileSync(folder.at('hashed/1.png'), 'bytes')
  for (const what of [path, folder.at('hashed')]) assert.is(await hashVideo(what), await contentHash(what))
  await refused(hashVideo(folder.at('none.mp4')), /none\.mp4: expected a readable video file/)
  const program = fake('disk.mjs', `if (hash === 'good.mp4') reply({ hash: 'abc' }); else while (true);`)
  const decoders = new Decoders({ size: 1, program })
  const work = [decoders.hash('bad.mp4', 0.3), decoders.hash('good.mp4', 30)]
  await refused(work[0]!, /^bad\.mp4: expected its bytes within 0\.3 s, but got none/)
  assert.is(await work[1], 'abc')
  const stop = new AbortController()
  const stuck = decoders.hash('bad.mp4', 600, stop.signal)
  setTimeout(() => stop.abort(new Error('enough')), 50)
  assert.is(await stuck.catch((error: Error) => error.message), 'enough')
  assert.is(await decoders.hash('good.mp4', 30), 'abc')
  decoders.close()
})

test('a process ends by itself when a clip was given up and others are idle', async () => {
  const lib = (name: string): string => JSON.stringify(new URL(`../../lib/data/${name}`, import.meta.url).href)
  const code = `import { Decoders } from ${lib('decoders.ts')}
    import { readFrames } from ${lib('frames.ts')}
    const options = { frames: 2, sampling: { kind: 'uniform' } }
    const frames = await readFrames({ video: ${JSON.stringify(await video('d.mp4'))} }, options)
    const stuck = new Decoders({ program: new URL(${JSON.stringify(fake('stuck.mjs', 'while (true);').href)}) })
    const error = await stuck.read({ video: 'bad.mp4' }, options, 0.3).catch((e) => e)
    console.log(frames.length, error.message.slice(0, 40))`
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', code],
    { encoding: 'utf8', timeout: 120_000 },
  )
  assert.equal(
    { stdout, stderr, status },
    { stdout: '2 bad.mp4: expected its frames within 0.3 \n', stderr: '', status: 0 },
  )
})

test.run()
