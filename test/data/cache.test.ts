import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { contentHash, featureKey, FeatureCache, recordedHash, type FeatureSource } from '../../lib/data/cache.js'
import { readHeader } from '../../lib/files/safetensors.js'
import { fullDisk } from '../support/full-disk.js'
import { temporaryFolder } from './videos.js'

const test = suite('feature cache')
const folder = temporaryFolder()
test.after(() => folder.remove())

const source: FeatureSource = {
  content: 'c'.repeat(64),
  sampling: { kind: 'uniform' },
  frames: 4,
  visionFingerprint: 'v',
  preprocessor: {
    size: { height: 32, width: 32 },
    mean: [0, 0, 0],
    std: [1, 1, 1],
    rescale: 1 / 255,
    resample: 'cubic',
  },
}

test('the key depends on everything that the features depend on, and on nothing else', () => {
  const { preprocessor: p } = source
  const variants: FeatureSource[] = [
    source,
    { ...source, content: 'd'.repeat(64) },
    { ...source, start: 1 },
    { ...source, end: 1 },
    { ...source, fps: 1 },
    { ...source, frames: 8 },
    { ...source, sampling: { kind: 'first' } },
    { ...source, sampling: { kind: 'fps', fps: 1 } },
    { ...source, sampling: { kind: 'fps', fps: 2 } },
    { ...source, visionFingerprint: 'w' },
    { ...source, preprocessor: { ...p, size: { height: 64, width: 64 } } },
    { ...source, preprocessor: { ...p, mean: [0.1, 0, 0] } },
    { ...source, preprocessor: { ...p, std: [1, 2, 1] } },
    { ...source, preprocessor: { ...p, rescale: 1 } },
    { ...source, preprocessor: { ...p, resample: 'linear' } },
  ]
  assert.is(new Set(variants.map(featureKey)).size, variants.length)
  assert.match(featureKey(source), /^[0-9a-f]{64}$/)
  const reordered = {
    ...source,
    start: 0,
    end: undefined,
    preprocessor: { resample: p.resample, std: p.std, rescale: p.rescale, mean: p.mean, size: p.size },
  }
  assert.is(featureKey(reordered), featureKey(source))
})

test('the content hash follows the bytes, not the name; a folder counts names and order', async () => {
  writeFileSync(folder.at('a.mp4'), 'abc')
  writeFileSync(folder.at('b.mp4'), 'abc')
  assert.is(await contentHash(folder.at('a.mp4')), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
  assert.is(await contentHash(folder.at('b.mp4')), await contentHash(folder.at('a.mp4')))
  writeFileSync(folder.at('b.mp4'), 'abd')
  utimesSync(folder.at('b.mp4'), 1, 1)
  assert.is.not(
    await contentHash(folder.at('b.mp4')),
    await contentHash(folder.at('a.mp4')),
    'a changed file is read again',
  )
  for (const [name, files] of [
    ['f', ['1.png', '2.png']],
    ['g', ['1.png', '3.png']],
    ['h', ['1.png', '2.png']],
  ] as const) {
    mkdirSync(folder.at(name))
    for (const file of files) writeFileSync(folder.at(`${name}/${file}`), file[0] === '1' ? 'x' : 'y')
  }
  assert.is(await contentHash(folder.at('f')), await contentHash(folder.at('h')))
  assert.is.not(await contentHash(folder.at('f')), await contentHash(folder.at('g')))
  await contentHash(folder.at('none.mp4')).then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /none\.mp4: expected a readable video file/),
  )
})

test('a video whose size and time stamp are those of its record is not read, unless that is asked for', async () => {
  const [video, cache] = [folder.at('recorded.mp4'), folder.at('records')]
  const hash = (text: string) => createHash('sha256').update(text).digest('hex')
  const write = (text: string, time = 1e6): void => {
    writeFileSync(video, text)
    utimesSync(video, time, time)
  }
  const records = () =>
    (existsSync(cache) ? (readdirSync(cache, { recursive: true }) as string[]) : []).filter((f) => f.endsWith('.json'))
  write('one', Date.now() / 1000)
  assert.is(await recordedHash(video, cache), hash('one'))
  assert.equal(records(), [], 'it may change again before its time stamp does')
  write('two')
  assert.is(await recordedHash(video, cache, 'recorded'), undefined)
  assert.is(await recordedHash(video, cache), hash('two'))
  assert.is(records().length, 1)
  assert.is(await recordedHash(video, cache, 'recorded'), hash('two'))
  write('new')
  assert.is(await recordedHash(video, cache), hash('two'), 'it was read')
  assert.is(await recordedHash(video, cache, 'verify'), hash('new'))
  assert.is(await recordedHash(video, cache), hash('new'))
  write('ahead', Date.now() / 1000 + 1e6)
  assert.is(await recordedHash(video, cache), hash('ahead'))
  assert.is(await recordedHash(video, cache, 'recorded'), undefined, 'a file of the future, where a clock jumped')
  write('later', 2e6)
  assert.is(await recordedHash(video, cache), hash('later'))
  const record = `${cache}/${records()[0]}`
  for (const damage of ['', '{', 'null', '{"hash":"x"}', readFileSync(record, 'utf8').replace('recorded', 'another')]) {
    writeFileSync(record, damage)
    assert.is(await recordedHash(video, cache, 'recorded'), undefined, damage)
  }
  mkdirSync(folder.at('recorded'))
  for (const name of ['1.png', '2.png']) {
    writeFileSync(folder.at(`recorded/${name}`), name)
    utimesSync(folder.at(`recorded/${name}`), 1e6, 1e6)
  }
  const images = await recordedHash(folder.at('recorded'), cache)
  assert.is(images, await contentHash(folder.at('recorded')))
  assert.is(await recordedHash(folder.at('recorded'), cache, 'recorded'), images)
  utimesSync(folder.at('recorded/2.png'), 2e6, 2e6)
  assert.is(await recordedHash(folder.at('recorded'), cache, 'recorded'), undefined)
  await recordedHash(folder.at('none.mp4'), cache).then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /none\.mp4: expected a readable video file/),
  )
  assert.is(await recordedHash(video, folder.at('recorded.mp4')), hash('later'), 'a folder that cannot be written')
})

test('stored features are returned to the bit, and no others', async () => {
  const cache = new FeatureCache(folder.at('cache'))
  const key = featureKey(source)
  assert.is(await cache.get(key), undefined)
  const data = Float32Array.from({ length: 24 }, (_, i) => Math.fround(Math.sin(i) * 10 ** (i - 12)))
  await cache.put(key, [2, 3, 4], data)
  assert.equal(await cache.get(key), { data, shape: [2, 3, 4] })
  assert.equal(await new FeatureCache(folder.at('cache')).get(key), { data, shape: [2, 3, 4] })
  assert.is(await cache.get(featureKey({ ...source, frames: 2 })), undefined)
  await cache.put(
    key,
    [24],
    data.map((x) => -x),
  )
  assert.equal((await cache.get(key))!.shape, [24])
  const half = Uint16Array.from({ length: 24 }, (_, i) => 0x3f80 + i)
  await cache.put(key, [2, 3, 4], half)
  assert.equal(await cache.get(key), { data: half, shape: [2, 3, 4] }, 'bfloat16 in its bits')
  const view = new Float32Array(new Float32Array(10).fill(3).buffer, 8, 4)
  await cache.put(key, [4], view)
  assert.equal((await cache.get(key))!.data, view, 'a part of a buffer')
  await cache.put(key, [5], view).then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /5 values for the shape \[5\], but got 4/),
  )
  assert.equal((await cache.get(key))!.shape, [4], 'a refused write leaves what was there')
  await cache.get('../../etc').then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /a key made by featureKey/),
  )
})

test("a damaged file counts as absent and is deleted; so does another key's file", async () => {
  const cache = new FeatureCache(folder.at('damaged'))
  const key = featureKey(source)
  const other = featureKey({ ...source, frames: 2 })
  const path = folder.at(`damaged/${key.slice(0, 2)}/${key}.safetensors`)
  const write = () => cache.put(key, [8], new Float32Array(8).fill(1))
  await write()
  const { size } = await readHeader(path)
  const harm: (() => void)[] = [
    () => truncateSync(path, size - 4),
    () => truncateSync(path, 5),
    () => writeFileSync(path, ''),
    () => writeFileSync(path, 'nonsense'.repeat(9)),
    () => {
      const bytes = readFileSync(path)
      bytes[size - 3]! ^= 1
      writeFileSync(path, bytes)
    },
  ]
  for (const damage of harm) {
    await write()
    assert.ok(await cache.get(key))
    damage()
    assert.is(await cache.get(key), undefined)
    assert.not(existsSync(path))
  }
  await cache.put(other, [8], new Float32Array(8))
  writeFileSync(path, readFileSync(folder.at(`damaged/${other.slice(0, 2)}/${other}.safetensors`)))
  assert.is(await cache.get(key), undefined)
})

test('writers at the same time leave one whole file and no other', async () => {
  const cache = new FeatureCache(folder.at('race'))
  const key = featureKey(source)
  await Promise.all(Array.from({ length: 8 }, (_, i) => cache.put(key, [1000], new Float32Array(1000).fill(i))))
  const { data } = (await cache.get(key))!
  assert.ok(data.every((x) => x === data[0]))
  assert.is(readdirSync(folder.at(`race/${key.slice(0, 2)}`)).length, 1)
})

test('a disk that fills up while features are written: one clear error, and nothing half-written', async () => {
  const key = featureKey(source)
  const path = folder.at(`full/${key.slice(0, 2)}`)
  const data = new Float32Array(1000).fill(3)
  await new FeatureCache(folder.at('full'), fullDisk(1)).put(key, [1000], data).then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /cannot be written: the disk is full \(ENOSPC\); nothing was left/),
  )
  assert.equal(readdirSync(path), [])
  const cache = new FeatureCache(folder.at('full'))
  assert.is(await cache.get(key), undefined)
  await cache.put(key, [1000], data)
  assert.equal((await cache.get(key))!.data, data)
})

test('a folder that cannot be written is one clear error', async () => {
  writeFileSync(folder.at('file'), '')
  const cache = new FeatureCache(folder.at('file/cache'))
  await cache.put(featureKey(source), [1], new Float32Array(1)).then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /file\/cache: expected a folder that can be written/),
  )
})

test.run()
