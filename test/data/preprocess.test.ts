import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { createHash } from 'node:crypto'
import { writeFileSync, mkdirSync } from 'node:fs'
import { preprocess, readPreprocessor, type Preprocessor } from '../../lib/data/preprocess.js'
import { resize, type Resample } from '../../lib/data/resize.js'
import { InputError } from '../../lib/errors.js'
import { temporaryFolder } from './videos.js'

const test = suite('preprocess')
const folder = temporaryFolder()
test.after(() => folder.remove())

const MEAN = [0.48145466, 0.4578275, 0.40821073]
const STD = [0.26862954, 0.26130258, 0.27577711]
const plain = (height: number, width: number): Preprocessor => ({ size: { height, width }, mean: [0, 0, 0], std: [1, 1, 1], rescale: 1, resample: 'cubic' })

let count = 0
function model(config?: unknown): string {
  const path = folder.at(`m${count++}`)
  mkdirSync(path)
  if (config !== undefined) writeFileSync(`${path}/preprocessor_config.json`, typeof config === 'string' ? config : JSON.stringify(config))
  return path
}

test('what the file omits, or the absent file, is CLIP at the size of the vision tower', async () => {
  const clip = { size: { height: 224, width: 224 }, mean: MEAN, std: STD, rescale: 1 / 255, resample: 'cubic' }
  assert.equal(await readPreprocessor(model(), 224), clip)
  assert.equal(await readPreprocessor(model({}), 224), clip)
  for (const size of [224, { height: 224, width: 224 }, { shortest_edge: 224 }]) {
    assert.equal(await readPreprocessor(model({ size, do_resize: true, do_convert_rgb: true, image_processor_type: 'BlipImageProcessor' }), 224), clip)
  }
  const own = { size: 32, image_mean: [0.5, 0.4, 0.3], image_std: [0.2, 0.3, 0.4], rescale_factor: 0.5, resample: 2 }
  assert.equal(await readPreprocessor(model(own), 32), { size: { height: 32, width: 32 }, mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4], rescale: 0.5, resample: 'linear' })
  const off = await readPreprocessor(model({ ...own, do_normalize: false, do_rescale: false }), 32)
  assert.equal([off.mean, off.std, off.rescale], [[0, 0, 0], [1, 1, 1], 1])
})

test('a file that does not fit is refused by name', async () => {
  const cases: [unknown, RegExp][] = [
    [{ size: 384 }, /preprocessor_config\.json, size: expected the vision tower's image size, 224 × 224, but got 384/],
    [{ size: { height: 224, width: 200 } }, /size: expected the vision tower's image size/],
    [{ size: 'large' }, /size: expected a number, \{height, width\}/],
    [{ image_mean: [1, 2] }, /image_mean: expected three numbers/],
    [{ image_std: [1, 0, 1] }, /image_std: expected three numbers above 0/],
    [{ do_center_crop: true }, /do_center_crop: expected false/],
    [{ resample: 9 }, /resample: expected 0 \(nearest\)/],
    ['{', /expected a readable JSON file/],
  ]
  for (const [config, message] of cases) {
    await readPreprocessor(model(config), 224).then(() => assert.unreachable(String(message)), (error: unknown) => {
      assert.instance(error, InputError)
      assert.match((error as Error).message, message)
    })
  }
})

test('channels first, divided by 255, normalised; no pixel changes where the size is right', async () => {
  const data = Uint8Array.from({ length: 3 * 4 * 4 }, (_, i) => (i * 5) % 256)
  const out = await preprocess({ data, width: 4, height: 4 }, { ...plain(4, 4), mean: MEAN as never, std: STD as never, rescale: 1 / 255 })
  assert.is(out.length, 48)
  for (const c of [0, 1, 2]) {
    for (let i = 0; i < 16; i++) assert.ok(Math.abs(out[c * 16 + i]! - (data[3 * i + c]! / 255 - MEAN[c]!) / STD[c]!) < 1e-6)
  }
})

/**
 * What Pillow 12.3 made of the picture below: filter, size, new size, and the first 16 digits of the SHA-256 of the result
 * of `Image.fromarray(picture).resize((w, h), filter)`.
 */
const PILLOW: [Resample, number, number, number, number, string][] = [
  ['nearest', 64, 48, 32, 32, 'a7041cd43a963db7'],
  ['lanczos3', 64, 48, 32, 32, 'eabde17eaea1336a'],
  ['linear', 64, 48, 32, 32, '684add2499defb66'],
  ['cubic', 64, 48, 32, 32, 'd1e0da8a59dd717c'],
  ['nearest', 40, 90, 32, 32, '7e3f01904378e4ea'],
  ['lanczos3', 40, 90, 32, 32, '6ea663cd5e41bb26'],
  ['linear', 40, 90, 32, 32, '057d48128bf31f26'],
  ['cubic', 40, 90, 32, 32, 'b49b68e4d7ebc29d'],
  ['nearest', 20, 12, 32, 32, 'dcc870d9059334c8'],
  ['lanczos3', 20, 12, 32, 32, '8e664a57e22cd718'],
  ['linear', 20, 12, 32, 32, '0b168571a6aa300d'],
  ['cubic', 20, 12, 32, 32, '9d1bc556b14b0bae'],
  ['nearest', 320, 180, 28, 28, '94c601ee0f0aaa58'],
  ['lanczos3', 320, 180, 28, 28, '5a446ef58926292e'],
  ['linear', 320, 180, 28, 28, '7c95b6fff84d17c4'],
  ['cubic', 320, 180, 28, 28, '98fd79a080c315e3'],
  ['nearest', 224, 100, 224, 224, '3c0395d6001b3572'],
  ['lanczos3', 224, 100, 224, 224, '90fd2967d8952b27'],
  ['linear', 224, 100, 224, 224, 'd12b4638f4acf71f'],
  ['cubic', 224, 100, 224, 224, '8813fdd29bbf91b4'],
  ['nearest', 37, 41, 5, 3, '6ef9b480c53c9432'],
  ['lanczos3', 37, 41, 5, 3, '4d387d1f6ed5deec'],
  ['linear', 37, 41, 5, 3, '9467a00c96f359ca'],
  ['cubic', 37, 41, 5, 3, 'aa353910eed491c4'],
]

test('the resize equals PIL\'s to the byte', async () => {
  for (const [filter, width, height, toWidth, toHeight, digest] of PILLOW) {
    const data = Uint8Array.from({ length: 3 * width * height }, (_, n) => (n * n * 7 + n * 13 + (n >> 5) * 29) % 256)
    const out = await resize(data, width, height, toWidth, toHeight, filter)
    assert.is(createHash('sha256').update(out).digest('hex').slice(0, 16), digest, `${filter}, ${width} × ${height} to ${toWidth} × ${toHeight}`)
  }
  const out = await preprocess({ data: new Uint8Array(3 * 9 * 5).fill(77), width: 9, height: 5 }, plain(4, 4))
  assert.equal(out, new Float32Array(48).fill(77))
})

test('a large picture does not hold up the event loop', async () => {
  const data = new Uint8Array(3 * 1920 * 1080)
  let [turns, longest, last] = [0, 0, performance.now()]
  const timer = setInterval(() => { const now = performance.now(); turns++; longest = Math.max(longest, now - last); last = now }, 1)
  await preprocess({ data, width: 1920, height: 1080 }, plain(224, 224))
  clearInterval(timer)
  assert.ok(turns >= 3 && longest < 100, `${turns} turns, the longest pause ${longest} ms`)
})

test('a picture whose bytes do not fit its size', async () => {
  for (const [bytes, width, height] of [[10, 2, 2], [12, 2.5, 2], [0, 0, 0]] as const) {
    await preprocess({ data: new Uint8Array(bytes), width, height }, plain(2, 2)).then(() => assert.unreachable(), (error: Error) =>
      assert.match(error.message, /rgb: expected a picture with 3·width·height bytes/))
  }
})

test.run()
