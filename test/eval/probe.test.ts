// Whether a model looks at the video: what each view shows, what is said of the figures, and `eval --probe`.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { FeatureData } from '../../lib/data/cache.js'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { predictSamples, type Prediction } from '../../lib/eval/evaluate.js'
import { judged, probe, views, type ProbeRow, type View } from '../../lib/eval/probe.js'
import { openCheckpoint, type Checkpoint } from '../../lib/session/checkpoint.js'
import { Features } from '../../lib/session/features.js'
import { cli } from '../support/cli.js'
import { makeWorld, type World } from '../support/world.js'

const FRAMES = 3
let world: World
let checkpoint: Checkpoint
let samples: Sample[]
let features: Features
test.before(async () => {
  world = await makeWorld()
  checkpoint = await openCheckpoint(world.model)
  samples = await readManifest(world.train)
  features = new Features(checkpoint, { frames: FRAMES, sampling: { kind: 'uniform' } })
})
test.after(() => checkpoint.model.dispose())

/** The features of each frame. */
function framesOf(data: FeatureData): string[] {
  const size = data.length / FRAMES
  return Array.from({ length: FRAMES }, (_, t) => data.subarray(t * size, (t + 1) * size).join())
}

test('views show the same frames in another order, one of them, black ones, and those of another clip', async () => {
  const shown = await views(features, samples, 0)
  assert.equal([...shown.keys()], ['as they are', 'shuffled', 'one repeated', 'blank', "another clip's", 'text alone'])
  const of = async (view: View, sample: Sample): Promise<string[]> =>
    framesOf(await (shown.get(view) as Features).of(sample))
  const blank = await of('blank', samples[0]!)
  assert.is(new Set(blank).size, 1)
  for (const sample of samples) {
    const own = await of('as they are', sample)
    const shuffled = await of('shuffled', sample)
    assert.equal([...shuffled].sort(), [...own].sort())
    assert.not.equal(shuffled, own)
    assert.equal(await of('one repeated', sample), [own[1], own[1], own[1]])
    assert.equal(await of('blank', sample), blank)
    const other = await of("another clip's", sample)
    const owners = []
    for (const s of samples) if ((await of('as they are', s)).join() === other.join()) owners.push(s.video)
    assert.ok(owners.length && !owners.includes(sample.video))
  }
  // Black frames are those of a black picture.
  const { default: sharp } = await import('sharp')
  const { width, height } = checkpoint.preprocessor.size
  const folder = join(world.root, 'black')
  mkdirSync(folder)
  const png = await sharp({ create: { width, height, channels: 3, background: 'black' } })
    .png()
    .toBuffer()
  writeFileSync(join(folder, '1.png'), png)
  assert.equal(framesOf(await features.of({ video: folder, fps: 1 })), blank)
})

test('views that cannot differ are left out', async () => {
  const one = new Features(checkpoint, { frames: 1, sampling: { kind: 'uniform' } })
  const same = samples.filter((s) => s.video === samples[0]!.video)
  assert.equal([...(await views(one, same, 0)).keys()], ['as they are', 'blank', 'text alone'])
})

test('with text alone no clip is read, and the dialogue stands before the question', async () => {
  const ask = async (list: Sample[]): Promise<Prediction[]> => {
    const all: Prediction[] = []
    for await (const p of predictSamples(checkpoint, features, list, { textOnly: true })) all.push(p)
    return all
  }
  const nowhere = samples.map((s) => ({ ...s, video: '/no/such/clip.mp4' }))
  const closed = await ask(nowhere)
  assert.is(closed.length, samples.length)
  assert.ok(closed.every((p) => Object.values(p.losses!).every(Number.isFinite)))
  const told = await ask(nowhere.map((s) => ({ ...s, qformerText: 'the red circle moves up' })))
  const inPrompt = await ask(
    nowhere.map((s) => ({ ...s, qformerText: undefined, prompt: `the red circle moves up\n${s.prompt}` })),
  )
  assert.equal(
    told.map((p) => p.losses),
    inPrompt.map((p) => p.losses),
  )
  assert.not.equal(told[0]!.losses, closed[0]!.losses)
  const open = await ask(nowhere.slice(0, 2).map(({ choices: _, ...s }) => s))
  assert.equal(
    open.map((p) => typeof p.prediction),
    ['string', 'string'],
  )
})

const row = (view: View, low: number, high: number, changed = 0.5): ProbeRow => {
  const loss = { difference: (low + high) / 2, interval: { low, high, groups: 50 }, p: 0.5, answers: 50 }
  return { view, value: 0.5, interval: undefined, changed, loss: view === 'as they are' ? undefined : loss }
}
const rows = (...differences: [number, number, number?][]): ProbeRow[] =>
  (['as they are', 'shuffled', 'one repeated', 'blank', "another clip's", 'text alone'] as const).map((view, i) =>
    row(view, ...(i ? differences[i - 1]! : ([0, 0, 0] as [number, number, number]))),
  )

test('findings: the video is needed, its order is not, it is not needed, it changes nothing, it harms', () => {
  const needed: [number, number] = [0.1, 0.3]
  const even: [number, number] = [-0.1, 0.1]
  assert.equal(judged(rows(needed, needed, needed, needed, needed), 50), { findings: [], video: true })
  const unordered = judged(rows(even, even, needed, needed, needed), 50)
  assert.ok(unordered.video)
  assert.match(unordered.findings.join(), /^the order of frames is not seen to matter/)
  const unseen = judged(rows(even, even, even, even, needed), 50)
  assert.not.ok(unseen.video)
  assert.match(
    unseen.findings[0]!,
    /^50 samples do not show that the video helps: answers are as good with another clip's/,
  )
  const nothing = judged(rows([0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], needed), 50)
  assert.equal(nothing.findings, [
    'the pictures change no answer of 50 samples: what the model answers comes from the texts',
  ])
  const harmful = judged(rows(even, even, even, even, [-0.3, -0.1]), 50)
  assert.is(harmful.findings.at(-1), 'answers are better with "text alone" than with the frames as they are')
})

test('a clip that cannot be used costs its sample alone; answers that are there are not asked for again', async () => {
  const bad = { ...samples[0]!, id: 'bad', video: join(world.root, 'bad.mp4') }
  writeFileSync(bad.video, 'no video')
  const found = await probe(checkpoint, features, [...samples.slice(0, 4), bad])
  assert.is(found.samples, 4)
  assert.is(found.metric, 'accuracy')
  const known = samples.slice(0, 4).map((s) => ({ ...s, prediction: 'nothing', correct: false }))
  const told = await probe(checkpoint, features, samples.slice(0, 4), { known })
  assert.is(told.rows[0]!.value, 0)
  assert.ok(told.rows.slice(1).every((r) => r.changed === 1))
})

test('eval --metrics: the figures of score, and a tool that is not there is named before anything is predicted', async () => {
  const output = join(world.root, 'scored.jsonl')
  const args = ['eval', '--model', world.model, '--data', world.train, '--frames', '3', '--output', output]
  const { code, out, err } = await cli(...args, '--metrics', 'accuracy', 'exact')
  assert.is(code, 0, err)
  const score = await cli('score', output, '--data', world.train, '--metrics', 'accuracy', 'exact')
  assert.ok(out.endsWith(score.out), `${out} ends with ${score.out}`)
  const without = await cli(...args.slice(0, -1), join(world.root, 'none.jsonl'), '--metrics', 'meteor:1.5')
  assert.is(without.code, 1)
  assert.match(without.err, /--metrics: meteor:1\.5 is computed by its own jar/)
  assert.not.ok(existsSync(join(world.root, 'none.jsonl')))
})

test('eval --probe: a table after the accuracy, a warning where the video changes nothing, the same as JSON', async () => {
  const output = join(world.root, 'predictions.jsonl')
  const args = ['eval', '--model', world.model, '--data', world.train, '--frames', '3', '--output', output]
  const { code, out, err } = await cli(...args, '--probe', '8')
  assert.is(code, 0, err)
  assert.match(
    out,
    /\noverall +\S+ % +\d+\/12\nprobe of 8 samples, in %; loss: against the frames as they are, paired\n/,
  )
  assert.match(
    out,
    /\nframes +accuracy +answers changed +loss +95 % interval +p\nas they are +\S+ +0\.0 +- +- +-\nshuffled .*\none repeated .*\nblank .*\nanother clip's .*\ntext alone .*\nwarning: (8 samples do not show that the video helps|the pictures change no answer of 8 samples)/,
  )
  const record = JSON.parse(readFileSync(join(world.root, 'predictions.probe.json'), 'utf8'))
  assert.equal([record.samples, record.rows.length, record.video], [8, 6, false])
  const again = await cli(...args, '--probe', '8', '--resume')
  assert.is(again.out, out)
})

test.run()
