import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { writeFileSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { findPreprocessor, preprocess, readPreprocessor, resize, type Preprocessor } from '../../lib/data/preprocess.js'
import { InputError } from '../../lib/errors.js'
import { random } from '../oracle/random.js'
import { hasPython, python } from '../support/python.js'
import { temporaryFolder } from './videos.js'

const test = suite('preprocess')
const folder = temporaryFolder()
test.after(() => folder.remove())

const MEAN = [0.48145466, 0.4578275, 0.40821073]
const STD = [0.26862954, 0.26130258, 0.27577711]
const plain = (height: number, width: number): Preprocessor => ({
  size: { height, width },
  mean: [0, 0, 0],
  std: [1, 1, 1],
  rescale: 1,
  resample: 'cubic',
})

let count = 0
function model(config?: unknown): string {
  const path = folder.at(`m${count++}`)
  mkdirSync(path)
  if (config !== undefined)
    writeFileSync(`${path}/preprocessor_config.json`, typeof config === 'string' ? config : JSON.stringify(config))
  return path
}

test('what the file omits, or the absent file, is CLIP at the size of the vision tower', async () => {
  const clip = { size: { height: 224, width: 224 }, mean: MEAN, std: STD, rescale: 1 / 255, resample: 'cubic' }
  assert.equal(await readPreprocessor(model(), 224), clip)
  assert.equal(await readPreprocessor(model({}), 224), clip)
  for (const size of [224, { height: 224, width: 224 }, { shortest_edge: 224 }]) {
    assert.equal(
      await readPreprocessor(
        model({ size, do_resize: true, do_convert_rgb: true, image_processor_type: 'BlipImageProcessor' }),
        224,
      ),
      clip,
    )
  }
  const own = { size: 32, image_mean: [0.5, 0.4, 0.3], image_std: [0.2, 0.3, 0.4], rescale_factor: 0.5, resample: 2 }
  assert.equal(await readPreprocessor(model(own), 32), {
    size: { height: 32, width: 32 },
    mean: [0.5, 0.4, 0.3],
    std: [0.2, 0.3, 0.4],
    rescale: 0.5,
    resample: 'linear',
  })
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
    [{ do_pad: true }, /do_pad: expected false, since this program does not take that step, but got true/],
    [{ do_flip_channel_order: true, do_convert_rgb: true }, /do_flip_channel_order: expected false/],
    [{ resample: 9 }, /resample: expected 0 \(nearest\)/],
    ['{', /expected a readable JSON file/],
  ]
  for (const [config, message] of cases) {
    await readPreprocessor(model(config), 224).then(
      () => assert.unreachable(String(message)),
      (error: unknown) => {
        assert.instance(error, InputError)
        assert.match((error as Error).message, message)
      },
    )
  }
})

const HALF = {
  size: { height: 32, width: 32 },
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
  rescale_factor: 1 / 255,
  resample: 2,
}
const OTHER = { ...HALF, image_mean: [0.1, 0.2, 0.3] }

test('transformers 5 keeps it in processor_config.json; the first that is there is read, and says so', async () => {
  const write = (files: Record<string, unknown>): string => {
    const path = model()
    for (const [name, value] of Object.entries(files)) writeFileSync(`${path}/${name}.json`, JSON.stringify(value))
    return path
  }
  const older = { num_query_tokens: 32, processor_class: 'InstructBlipVideoProcessor' }
  for (const [files, mean, from] of [
    [{ processor_config: { ...older, image_processor: HALF } }, 0.5, /processor_config\.json, image_processor$/],
    [{ processor_config: { ...older, video_processor: HALF } }, 0.5, /processor_config\.json, video_processor$/],
    [{ processor_config: { image_processor: HALF, video_processor: OTHER } }, 0.5, /image_processor$/],
    [{ processor_config: { image_processor: null, video_processor: OTHER } }, 0.1, /video_processor$/],
    [{ processor_config: older, video_preprocessor_config: OTHER }, 0.1, /video_preprocessor_config\.json$/],
    [
      { preprocessor_config: OTHER, processor_config: { image_processor: HALF } },
      0.1,
      /m\d+.preprocessor_config\.json$/,
    ],
  ] as const) {
    const found = await findPreprocessor(write(files), 32)
    assert.is(found.preprocessor.mean[0], mean)
    assert.match(found.from!, from)
    assert.is(found.preprocessor.resample, 'linear')
  }
  const two = await findPreprocessor(
    write({ preprocessor_config: OTHER, processor_config: { image_processor: HALF } }),
    32,
  )
  assert.is(two.notes.length, 1)
  assert.match(
    two.notes[0]!,
    /processor_config\.json, image_processor: has another image_mean than \S+preprocessor_config\.json, which was used\.$/,
  )
  const wrong = write({ processor_config: { image_processor: { ...HALF, size: 384 } } })
  await findPreprocessor(wrong, 32).then(
    () => assert.unreachable(),
    (e: Error) =>
      assert.match(
        e.message,
        /processor_config\.json, image_processor, size: expected the vision tower's image size, 32 × 32, but got 384/,
      ),
  )
  await findPreprocessor(write({ processor_config: { image_processor: [HALF] } }), 32).then(
    () => assert.unreachable(),
    (e: Error) => assert.match(e.message, /image_processor: expected an object/),
  )
})

test('assumptions are noted, and nothing else', async () => {
  const { image_mean: _, rescale_factor: __, ...without } = HALF
  for (const [value, notes] of [
    [HALF, []],
    [{ ...without, do_normalize: false, do_rescale: false }, []],
    [without, [/preprocessor_config\.json: image_mean, rescale_factor not given; assumed: CLIP's mean, 1\/255\.$/]],
    [{ ...HALF, resample: null }, [/resample not given; assumed: bicubic\.$/]],
    [
      undefined,
      [
        /: no file states the preprocessing \(preprocessor_config\.json, or image_processor in processor_config\.json\); assumed: CLIP's mean and std, 1\/255, bicubic, 32 × 32\.$/,
      ],
    ],
  ] as const) {
    const found = await findPreprocessor(model(value), 32)
    assert.is(found.notes.length, notes.length, `${found.notes}`)
    notes.forEach((note, i) => assert.match(found.notes[i]!, note))
    assert.is(found.from === undefined, value === undefined)
  }
})

test('channels first, divided by 255, normalised; no pixel changes where the size is right', async () => {
  const data = Uint8Array.from({ length: 3 * 4 * 4 }, (_, i) => (i * 5) % 256)
  const out = await preprocess(
    { data, width: 4, height: 4 },
    { ...plain(4, 4), mean: MEAN as never, std: STD as never, rescale: 1 / 255 },
  )
  assert.is(out.length, 48)
  for (const c of [0, 1, 2]) {
    for (let i = 0; i < 16; i++)
      assert.ok(Math.abs(out[c * 16 + i]! - (data[3 * i + c]! / 255 - MEAN[c]!) / STD[c]!) < 1e-6)
  }
})

/** PIL's filters: each a kernel and its support. Shrinking stretches both. */
const sinc = (x: number): number => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x))
const FILTERS = {
  linear: [1, (x: number) => Math.max(0, 1 - Math.abs(x))],
  cubic: [
    2,
    (x: number) => {
      const a = Math.abs(x)
      return a < 1 ? (1.5 * a - 2.5) * a * a + 1 : a < 2 ? ((-0.5 * a + 2.5) * a - 4) * a + 2 : 0
    },
  ],
  lanczos3: [3, (x: number) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
} as const

/** Antialiased resampling as PIL and torchvision define it, columns first, each pass cut to a byte's range; float64. */
function resampled(
  filter: keyof typeof FILTERS | 'nearest',
  data: ArrayLike<number>,
  [width, height]: readonly [number, number],
  [w, h]: readonly [number, number],
): number[] {
  const weights = (from: number, to: number) => {
    const scale = from / to
    const stretch = Math.max(1, scale)
    return Array.from({ length: to }, (_, i) => {
      const centre = (i + 0.5) * scale
      if (filter === 'nearest') return { low: Math.floor(centre), ws: [1] }
      const [support, kernel] = FILTERS[filter]
      const [low, high] = [
        Math.max(0, Math.floor(centre - support * stretch + 0.5)),
        Math.min(from, Math.floor(centre + support * stretch + 0.5)),
      ]
      const ws = Array.from({ length: high - low }, (_, k) => kernel((low + k + 0.5 - centre) / stretch))
      const sum = ws.reduce((a, b) => a + b, 0)
      return { low, ws: ws.map((x) => x / sum) }
    })
  }
  const cut = (v: number): number => Math.min(255, Math.max(0, v))
  const across = weights(width, w)
  const rows = Array.from({ length: height }, (_, y) =>
    Array.from({ length: 3 * w }, (_, i) => {
      const { low, ws } = across[Math.floor(i / 3)]!
      return cut(ws.reduce((v, a, k) => v + a * data[3 * (y * width + low + k) + (i % 3)]!, 0))
    }),
  )
  return weights(height, h).flatMap(({ low, ws }) =>
    Array.from({ length: 3 * w }, (_, i) => cut(ws.reduce((v, b, k) => v + b * rows[low + k]![i]!, 0))),
  )
}

const rng = random(12)
const PICTURES: Record<string, (x: number, y: number, width: number, height: number) => number[]> = {
  smooth: (x, y, w, h) => [(255 * x) / w, x > w / 3 && y > h / 4 ? 220 : 30, 127 + 120 * Math.sin(x / 5 + y / 7)],
  // Where a filter overshoots, the range of a byte cuts it between the passes.
  'black and white': (x, y) => [((x >> 2) + (y >> 2)) & 1 ? 255 : 0, (x >> 3) & 1 ? 255 : 0, (y >> 1) & 1 ? 255 : 0],
  noise: () => [rng.uniform() * 256, rng.uniform() * 256, rng.uniform() * 256],
}

for (const filter of ['cubic', 'linear', 'lanczos3', 'nearest'] as const)
  test(`the resize is PIL's, ${filter}, antialiased, straight to the square, within rounding`, async () => {
    for (const [width, height, size] of [
      [64, 48, 32],
      [40, 90, 32],
      [20, 12, 32],
      [32, 90, 32],
      [90, 32, 32],
      [160, 120, 224],
      [320, 180, 28],
      [500, 40, 28],
      [640, 360, 56],
      // Fewer pixels than a filter has taps.
      [1, 1, 28],
      [2, 3, 28],
      [3, 500, 28],
    ] as const)
      for (const [name, pixel] of Object.entries(PICTURES)) {
        const data = new Uint8Array(3 * width * height)
        for (let y = 0; y < height; y++)
          for (let x = 0; x < width; x++) data.set(pixel(x, y, width, height), 3 * (y * width + x))
        const got = await preprocess({ data, width, height }, { ...plain(size, size), resample: filter })
        const want = resampled(filter, data, [width, height], [size, size])
        let worst = 0
        for (let i = 0; i < size * size; i++)
          for (const c of [0, 1, 2]) worst = Math.max(worst, Math.abs(got[c * size * size + i]! - want[3 * i + c]!))
        assert.ok(worst < 0.501, `${name}, ${width} × ${height} to ${size}: worst ${worst} of 255`)
      }
  })

test('ten pictures beside Pillow itself, within 1 of 255 (MT_PYTHON, with Pillow)', async () => {
  if (!hasPython('PIL')) return
  const sizes = [
    [64, 48, 32],
    [640, 360, 224],
    [160, 120, 224],
    [33, 500, 100],
    [320, 180, 28],
  ] as const
  const { path: folder, remove } = temporaryFolder()
  const source = `
import sys
from PIL import Image
folder, side, width, height = sys.argv[1], *map(int, sys.argv[2:])
picture = Image.frombytes('RGB', (width, height), open(folder + '/in', 'rb').read())
open(folder + '/out', 'wb').write(picture.resize((side, side), Image.Resampling.BICUBIC).tobytes())`
  let most = 0
  for (const [width, height, side] of sizes)
    for (const pixel of [PICTURES['black and white']!, PICTURES.noise!]) {
      const data = new Uint8Array(3 * width * height)
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) data.set(pixel(x, y, width, height), 3 * (y * width + x))
      writeFileSync(join(folder, 'in'), data)
      python(source, folder, ...[side, width, height].map(String))
      const theirs = readFileSync(join(folder, 'out'))
      const ours = resize({ data, width, height }, { size: { width: side, height: side }, resample: 'cubic' }).data
      for (const [i, byte] of theirs.entries()) most = Math.max(most, Math.abs(byte - ours[i]!))
    }
  remove()
  console.log(`bytes differ from Pillow's by at most ${most}`)
  assert.ok(most <= 1, String(most))
})

test('a picture whose bytes do not fit its size', async () => {
  for (const [bytes, width, height] of [
    [10, 2, 2],
    [12, 2.5, 2],
    [0, 0, 0],
  ] as const) {
    await preprocess({ data: new Uint8Array(bytes), width, height }, plain(2, 2)).then(
      () => assert.unreachable(),
      (error: Error) => assert.match(error.message, /rgb: expected a picture with 3·width·height bytes/),
    )
  }
})

test.run()
