// train.recompute: layers computed again in the backward pass give the losses, the gradients and the trained tensors of
// layers that are not, to the bit, for less memory.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readManifest } from '../../lib/data/manifest.js'
import { outlineOf } from '../../lib/session/footprint.js'
import { RECOMPUTE } from '../../lib/train/config.js'
import { sizesOf, trainFootprint } from '../../lib/train/footprint.js'
import { train } from '../../lib/train/loop.js'
import { sameBits } from '../support/recompute.js'
import { jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'

let world: World
test.before(async () => {
  world = await makeWorld()
})

for (const precision of ['float32', 'bfloat16'] as const)
  test(`LLaMA in ${precision}: the same bits`, () => sameBits(world, { precision }))
test('OPT, without text in the Q-Former: the same bits', () =>
  sameBits(world, { kind: 'blip2', more: { fusion: false } }))
for (const [name, more] of Object.entries({
  'fresh weights over time, gated, one mask a token': {
    temporal: { weights: 'fresh', residual: 'gated' },
    dar: { mode: 'score', routerHidden: 8 },
  },
  'joint attention, all frames to the language model, no routing': {
    temporal: { attention: 'joint' },
    aggregate: 'concat',
    dar: { mode: 'off' },
  },
}))
  test(`${name}: the same bits`, () => sameBits(world, { more }))

test('each choice takes less memory than the one before, and plan says so', async () => {
  const outline = await outlineOf(world.model)
  const samples = await readManifest(world.train)
  const taken: number[] = []
  for (const recompute of RECOMPUTE) {
    const config = trainConfig(world, 'none', { train: { recompute } })
    const sizes = await sizesOf(world.model, outline, config, samples)
    const { rows } = await trainFootprint(outline, config, sizes, { device: 'cpu', precision: 'float32' })
    taken.push(rows.find((r) => r.part === 'activations')!.bytes)
  }
  const [none, language, all] = taken as [number, number, number]
  assert.ok(language < 0.95 * none && all < 0.95 * language, `${taken}`)
})

test('a run may be resumed with another choice, and learns the same', async () => {
  const run = async (output: string, choices: readonly string[]): Promise<number[]> => {
    for (const [i, recompute] of choices.entries())
      await train(trainConfig(world, output, { train: { epochs: i + 1, recompute }, data: { val: undefined } }), {
        resume: i > 0,
        extend: i > 0,
      })
    return jsonLines(`${world.root}/${output}/metrics.jsonl`)
      .filter((l) => l['kind'] === 'step')
      .map((l) => l['loss'])
  }
  const [plain, changed] = [await run('plain', ['none', 'none']), await run('changed', ['all', 'language'])]
  assert.is(plain.length, 6)
  assert.equal(changed, plain)
})

test.run()
