// The committed image model is what its card says: it answers questions about stills it has not seen.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { renderStills } from '../../examples/tiny-world/render.js'
import { readManifest } from '../../lib/data/manifest.js'
import { openCheckpoint } from '../../lib/session/checkpoint.js'
import { accuracy, predictSamples, type Prediction } from '../../lib/eval/evaluate.js'
import { Features } from '../../lib/session/features.js'

const stored = fileURLToPath(new URL('../../examples/tiny-world/checkpoint', import.meta.url))

test('at least 80 % of held-out still questions, through files, tokenizers and the loader', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'mt-stills-'))
  const checkpoint = await openCheckpoint(stored)
  try {
    const samples = await readManifest(await renderStills({ dir: folder, split: 'test-stills', seed: 11, stills: 60 }))
    const closed = samples.filter((s) => s.choices)
    assert.ok(closed.length > 150)
    const predictions: Prediction[] = []
    for await (const p of predictSamples(
      checkpoint,
      new Features(checkpoint, { frames: 1, sampling: { kind: 'uniform' } }),
      closed,
    ))
      predictions.push(p)
    const { overall } = accuracy(predictions)
    assert.ok(overall.accuracy >= 0.8, `${overall.correct} of ${overall.total}`)
  } finally {
    checkpoint.model.dispose()
    await rm(folder, { recursive: true, force: true })
  }
})

test('it fits in a repository', async () => {
  assert.ok((await stat(join(stored, 'model.safetensors'))).size < 4_000_000)
})

test.run()
