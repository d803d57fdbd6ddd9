// `modality`: with `text` every clip is black frames, in answers and in training; with `video` the dialogue is unheard.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { readManifest, type Sample } from '../../lib/data/manifest.js'
import { predictSamples } from '../../lib/eval/evaluate.js'
import { probe } from '../../lib/eval/probe.js'
import { openCheckpoint, type Checkpoint } from '../../lib/session/checkpoint.js'
import { Features } from '../../lib/session/features.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { Trainer } from '../../lib/train/trainer.js'
import { makeWorld } from '../support/world.js'

type Modality = 'both' | 'video' | 'text'

let checkpoint: Checkpoint
let features: Features
let samples: Sample[]
test.before(async () => {
  const world = await makeWorld()
  checkpoint = await openCheckpoint(world.model)
  features = new Features(checkpoint, { frames: 3, sampling: { kind: 'uniform' } })
  const some = await readManifest(world.train)
  samples = some.filter((s, i) => some.findIndex((o) => o.video === s.video) === i).slice(0, 4)
})
test.after(() => checkpoint.model.dispose())

const adapterOf = (modality: Modality): Adapter =>
  new Adapter(checkpoint.model.config, parseAdapterConfig({ frames: 3, modality, lora: { r: 2 } }), { seed: 3 })

/** Losses of every choice, sample by sample. */
async function losses(modality: Modality, of: readonly Sample[]): Promise<Record<string, number>[]> {
  const adapter = adapterOf(modality)
  const all: Record<string, number>[] = []
  for await (const p of predictSamples(checkpoint, features, of, { adapter })) all.push(p.losses!)
  adapter.dispose()
  return all
}

/** The samples with the clips of others. */
const swapped = (): Sample[] => samples.map((s, i) => ({ ...s, video: samples[(i + 1) % samples.length]!.video }))
const silent = (): Sample[] => samples.map(({ qformerText, ...rest }) => rest)
const said = (text: string): Sample[] => samples.map((s) => ({ ...s, qformerText: text }))

test('the clip matters to video and to both, and not to text', async () => {
  for (const modality of ['both', 'video'] as const)
    assert.not.equal(await losses(modality, swapped()), await losses(modality, samples), modality)
  assert.equal(await losses('text', swapped()), await losses('text', samples))
})

test('the dialogue matters to text and to both, and not to video', async () => {
  for (const modality of ['both', 'text'] as const)
    assert.not.equal(await losses(modality, said('red')), await losses(modality, said('blue circle')), modality)
  assert.equal(await losses('video', said('red')), await losses('video', silent()))
})

test('a step of training sees the same: its loss does not depend on the clip with text', async () => {
  const step = async (modality: Modality, of: readonly Sample[]): Promise<{ loss: number; norm: number }> => {
    const adapter = adapterOf(modality)
    const parameters = adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! }))
    const optimizer = new AdamW(parameters, { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0 })
    const trainer = new Trainer(checkpoint, adapter, features, optimizer)
    const { loss, norm } = await trainer.step([of])
    trainer.dispose()
    optimizer.dispose()
    adapter.dispose()
    return { loss, norm }
  }
  assert.equal(await step('text', swapped()), await step('text', samples))
  assert.not.equal(await step('both', swapped()), await step('both', samples))
})

test('a probe of an adapter of text alone says that the pictures change nothing', async () => {
  const adapter = adapterOf('text')
  const { video, rows } = await probe(checkpoint, features, samples, { adapter })
  adapter.dispose()
  assert.is(video, false)
  assert.equal(
    rows.filter((r) => r.view !== 'text alone').map((r) => r.changed),
    rows.filter((r) => r.view !== 'text alone').map(() => 0),
  )
})

test.run()
