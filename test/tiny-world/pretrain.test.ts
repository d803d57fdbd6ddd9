import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { groups, patches, singles, words } from '../../examples/tiny-world/pretrain-batch.js'
import { freshHeads, freshModel, headTensors } from '../../examples/tiny-world/pretrain-model.js'
import { losses, rate } from '../../examples/tiny-world/pretrain-steps.js'
import { STANDARD, pretrain, pretrainTo, type Pretraining } from '../../examples/tiny-world/pretrain.js'
import { stills } from '../../examples/tiny-world/render.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { encode, imageTextConfig } from '../../lib/session/encode.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import { bytes, settled } from '../support/memory.js'

const test = suite('tiny world: pre-training')

const dir = await mkdtemp(join(tmpdir(), 'pretrain-'))
test.after(() => rm(dir, { recursive: true }))

const SHORT: Pretraining = {
  ...STANDARD,
  seed: 3,
  vision: { steps: 3, images: 4, lr: 1e-3 },
  steps: 20,
  warmup: 4,
  ...{ images: 4, each: 2, several: 4, severalShare: 0.5, every: 20, watch: 4, heldOut: 4 },
}

test('a few steps lower the loss on answers', async () => {
  const before = await settled()
  const batch = singles(3, 'test', { images: 8, each: 2, several: 0 })
  const fresh = freshModel(3)
  const { model } = await pretrain(SHORT)
  const heads = freshHeads(3)
  const [first, last] = await Promise.all(
    [fresh, model].map((m) => scope(() => noGrad(() => losses(m, heads, batch).answer.item()))),
  )
  assert.ok(last! < 0.8 * first!, `${first} before, ${last} after`)
  fresh.dispose()
  model.dispose()
  for (const t of headTensors(heads)) t.dispose()
  assert.is(await bytes(), before, 'and nothing stays behind')
})

test('the folder loads, and the same seed writes the same bytes', async () => {
  const lines: string[] = []
  const short = { ...SHORT, steps: 6 }
  const folders = ['a', 'b'].map((name) => join(dir, name))
  for (const folder of folders) await pretrainTo(folder, short, { log: (line) => lines.push(line) })
  const files = (await readdir(folders[0]!, { recursive: true })).sort()
  assert.equal(files, [
    ...['README.md', 'config.json', 'generation_config.json', 'model.safetensors', 'preprocessor_config.json'],
    ...[
      'qformer_tokenizer',
      'qformer_tokenizer/special_tokens_map.json',
      'qformer_tokenizer/tokenizer.json',
      'qformer_tokenizer/tokenizer_config.json',
    ],
    ...['special_tokens_map.json', 'tokenizer.json', 'tokenizer_config.json'],
  ])
  const [a, b] = await Promise.all(folders.map((folder) => readFile(join(folder, 'model.safetensors'))))
  assert.ok(a!.equals(b!), 'model.safetensors')
  assert.match(await readFile(join(folders[0]!, 'README.md'), 'utf8'), '--seed 3 --steps 6')
  assert.ok(
    lines.some((line) => /answers 6\/6 {2}loss \d.*held out: one image .*% .*s left/.test(line)),
    lines.join('\n'),
  )
  assert.equal((await readdir(dir)).sort(), ['a', 'b'], 'and nothing half-written beside it')

  const checkpoint = await openCheckpoint(folders[0]!)
  const { questions } = singles(3, 'test', { images: 2, each: 2, several: 0 })
  const own = words(questions)
  const config = imageTextConfig(checkpoint, 1)
  const rows = questions.map((q) =>
    encode(checkpoint, config, { prompt: q.prompt.join(' '), answer: q.answer.join(' ') }),
  )
  const width = own.text.ids.length / questions.length
  for (const [i, { prompt, answer }] of rows.entries()) {
    assert.equal(
      [...own.text.ids.subarray(i * width, (i + 1) * width)].slice(0, prompt.length + answer.length),
      [...prompt, ...answer],
      'ids as the tokenizer has them',
    )
  }
  const qformer = [...own.qformer.ids.dataBlocking()].map(Number)
  assert.equal(qformer.slice(0, rows[0]!.qformer!.length), rows[0]!.qformer)
  checkpoint.model.dispose()
})

test('when it is stopped, nothing is written', async () => {
  const stop = new AbortController()
  stop.abort()
  let message = ''
  await pretrainTo(join(dir, 'stopped'), SHORT, { signal: stop.signal }).catch((error: Error) => (message = error.name))
  assert.is(message, 'AbortError')
  assert.not((await readdir(dir)).some((name) => name.includes('stopped')))
})

test('a folder that is no checkpoint is left alone', async () => {
  const folder = join(dir, 'mine')
  await mkdir(folder)
  await writeFile(join(folder, 'notes.txt'), 'mine')
  let message = ''
  // at once, not after the training
  await pretrainTo(folder, STANDARD).catch((error: Error) => (message = error.message))
  assert.match(message, 'or a checkpoint written earlier')
  assert.equal(await readdir(folder), ['notes.txt'])
})

test('what a patch is asked for', async () => {
  const list = stills(1, 4, { split: 'patches', things: 2 })
  const { color, shape, centre, there, objects } = patches(list)
  assert.equal(color.shape, [4 * 36])
  const [colors, shapes, centres, mask] = [color, shape, centre, there].map((t) =>
    [...t.dataBlocking()].map(Number),
  ) as [number[], number[], number[], number[]]
  assert.is(colors.filter((c) => c < 5).length, objects)
  assert.is(shapes.filter((s) => s >= 0).length, objects)
  assert.is(
    mask.reduce((a, b) => a + b),
    2 * objects,
  )
  for (const [k, { scene }] of list.entries()) {
    for (const thing of scene.things) {
      const at = 36 * k + 6 * Math.floor(thing.y / 8) + Math.floor(thing.x / 8) // the patch that its centre is in
      assert.ok(
        Math.abs(centres[2 * at]! - (thing.x / 24 - 1)) < 1e-6 &&
          Math.abs(centres[2 * at + 1]! - (thing.y / 24 - 1)) < 1e-6,
      )
    }
  }
})

test('groups show different stills, and some the same one throughout', () => {
  const { shown, questions } = groups(1, 'test', { images: 6, each: 0, several: 40 }, 4)
  assert.is(questions.length, 40)
  const same = shown.filter((group) => new Set(group).size === 1)
  assert.ok(same.length > 1 && same.length < 20)
  assert.ok(shown.every((group) => group.length === 4 && [1, 4].includes(new Set(group).size)))
  assert.is(questions.filter((q) => /image|which|images/.test(q.task)).length, 40 - same.length)
})

test('the rate warms up, stays, and falls to 2 %', () => {
  assert.equal(
    [0, 9, 500, 599, 800, 1000].map((step) => Number(rate(step, 1000, 9).toFixed(3))),
    [0.1, 1, 1, 1, 0.51, 0.02],
  )
})

test.run()
