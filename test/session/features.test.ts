// Cached features are returned only where they are right: the key on disk holds the vision tower's weights,
// preprocessing and precision, and nothing that features do not depend on.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cpSync, readFileSync, readdirSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { FeatureCache, type FeatureData } from '../../lib/data/cache.js'
import type { Precision } from '../../lib/tensor/dtype.js'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { Features } from '../../lib/session/features.js'
import { poison } from '../support/poison.js'
import { makeWorld, type World } from '../support/world.js'

let world: World
let clip: Sample
test.before(async () => {
  world = await makeWorld()
  clip = (await readManifest(world.train))[0]!
})

/** A copy of the checkpoint with something changed. */
async function variant(name: string, change: (folder: string) => unknown): Promise<string> {
  const folder = join(world.root, name)
  cpSync(world.model, folder, { recursive: true })
  await change(folder)
  return folder
}
const cache = (): string => join(world.root, 'shared-cache')
const entries = (): number =>
  (readdirSync(cache(), { recursive: true }) as string[]).filter((f) => f.endsWith('.safetensors')).length

/** Features through the shared cache and without one. */
async function both(folder: string, precision: Precision = 'float32'): Promise<[FeatureData, FeatureData]> {
  const checkpoint = await openCheckpoint(folder, { precision })
  const options = { frames: 2, sampling: { kind: 'uniform' } } as const
  const found: [FeatureData, FeatureData] = [
    await new Features(checkpoint, { ...options, cache: cache() }).of(clip),
    await new Features(checkpoint, options).of(clip),
  ]
  checkpoint.model.dispose()
  return found
}
const json = (folder: string, name: string, change: (value: any) => void): void => {
  const value = JSON.parse(readFileSync(join(folder, name), 'utf8'))
  change(value)
  writeFileSync(join(folder, name), JSON.stringify(value))
}

test('whatever features depend on makes others, and the cache never hands out the wrong ones', async () => {
  const seen = new Set<string>()
  const runs: [string, string, Precision?][] = [
    ['as it is', world.model],
    ['bfloat16', world.model, 'bfloat16'],
    [
      'a weight of the tower',
      await variant('weight', (f) =>
        poison(join(f, 'model.safetensors'), 'vision_model.encoder.layers.1.mlp.fc2.weight', 2),
      ),
    ],
    [
      'the mean',
      await variant('mean', (f) => json(f, 'preprocessor_config.json', (p) => void (p.image_mean = [0.4, 0.5, 0.6]))),
    ],
    [
      'eps of the tower',
      await variant('eps', (f) => json(f, 'config.json', (c) => void (c.vision_config.layer_norm_eps = 0.1))),
    ],
  ]
  for (const [i, [what, folder, precision]] of runs.entries()) {
    const [cached, fresh] = await both(folder, precision)
    assert.equal(cached, fresh, what)
    assert.is(entries(), i + 1, what)
    seen.add(Buffer.from(cached.buffer).toString('hex'))
  }
  assert.is(seen.size, runs.length)
})

test('what features do not depend on shares them', async () => {
  await both(world.model)
  const before = entries()
  for (const folder of [
    await variant('language', (f) => poison(join(f, 'model.safetensors'), 'language_model.lm_head.weight', 2)),
    await variant('qformer', (f) =>
      poison(join(f, 'model.safetensors'), 'qformer.encoder.layer.0.output_query.dense.bias', 2),
    ),
    await variant('moved', () => {}),
  ]) {
    const [cached, fresh] = await both(folder)
    assert.equal(cached, fresh)
    assert.is(entries(), before)
  }
})

/** The only file of features below a folder. */
const only = (folder: string): string =>
  join(folder, (readdirSync(folder, { recursive: true }) as string[]).find((f) => f.endsWith('.safetensors'))!)

test('features in bfloat16 that an earlier version cached as float32 are the same ones', async () => {
  const checkpoint = await openCheckpoint(world.model, { precision: 'bfloat16' })
  const folder = join(world.root, 'earlier')
  const options = { frames: 2, sampling: { kind: 'uniform' }, cache: folder } as const
  const data = await new Features(checkpoint, options).of(clip)
  assert.instance(data, Uint16Array)
  const key = only(folder).split('/').at(-1)!.replace('.safetensors', '')
  const bits = Uint32Array.from(data, (half) => half << 16)
  await new FeatureCache(folder).put(key, new Features(checkpoint, options).shape, new Float32Array(bits.buffer))
  const before = readFileSync(only(folder))
  assert.equal(await new Features(checkpoint, options).of(clip), data)
  assert.equal(readFileSync(only(folder)), before, 'they were not computed again')
  checkpoint.model.dispose()
})

test('a cache that cannot be written is said once, and costs nothing but the next computation', async () => {
  const checkpoint = await openCheckpoint(world.model)
  const cache = join(world.root, 'taken')
  writeFileSync(cache, 'a file')
  const notices: string[] = []
  const features = new Features(checkpoint, {
    frames: 2,
    sampling: { kind: 'uniform' },
    cache,
    onNotice: (sentence) => void notices.push(sentence),
  })
  for (const sample of (await readManifest(world.train)).slice(0, 4)) await features.of(sample)
  assert.is(notices.length, 1)
  assert.match(
    notices[0]!,
    /taken: expected a folder that can be written.*; features that are not in the cache are computed again\.$/,
  )
  checkpoint.model.dispose()
})

test('a video that changed and kept its size and time stamp is found out with verify', async () => {
  const checkpoint = await openCheckpoint(world.model)
  const cache = join(world.root, 'verified')
  const [one, other] = [join(world.root, 'one'), (await readManifest(world.train))[2]!]
  const at = { ...clip, video: one }
  const put = (video: string): void => {
    cpSync(video, one, { recursive: true })
    const files = statSync(one).isDirectory() ? readdirSync(one).map((f) => join(one, f)) : [one]
    // Of one size: FFmpeg and sharp ignore what follows the picture.
    for (const file of files) {
      truncateSync(file, 1 << 17)
      utimesSync(file, 1e6, 1e6)
    }
  }
  const of = (verify: boolean) =>
    new Features(checkpoint, { frames: 2, sampling: { kind: 'uniform' }, cache, verify }).of(at)
  put(clip.video)
  const before = await of(false)
  put(other.video)
  assert.equal(await of(false), before)
  const after = await of(true)
  assert.not.equal(after, before)
  assert.equal(await of(false), after)
  checkpoint.model.dispose()
})

test.run()
