// The training step in PyTorch (bench/peers/step.py) is the step that we train with: at tiny size and in float32 its
// loss, its gradients and one update of AdamW are those of lib/train, before any of its times counts. Needs a Python
// with torch and transformers (MT_PYTHON, or what npm run bench:peers made, or python3); nothing is installed here.
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { pythons } from '../../bench/peers/python.js'
import { scope } from '../../lib/tensor/scope.js'
import { tensor, type Tensor } from '../../lib/tensor/tensor.js'
import { forwardBackward } from '../../lib/train/graphs.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { array, map, relativeError } from '../oracle/array.js'
import { random } from '../oracle/random.js'
import { readSafetensors, writeSafetensors } from '../oracle/safetensors.js'
import { tinyCheckpoint, tinyInputs } from '../oracle/tiny.js'
import { bothAdapters, float32, openTiny, qformerText, temporaryFolder, textRows } from '../support/tiny.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const python = pythons()[0]!
const asked = spawnSync(python, ['-c', 'import torch, transformers'], { encoding: 'utf8' })
const reason = asked.error?.message ?? (asked.status === 0 ? undefined : asked.stderr.trim().split('\n').at(-1))
if (reason !== undefined)
  console.error(
    `test/bench/peers-step.test.ts: SKIPPED, the training step in PyTorch is not tested: ${python}: ${reason}`,
  )

const [seed, frames, lr] = [7, 4, 1e-2]
const trained = {
  lora: { r: 3, alpha: 5 },
  t_max: 6,
  dar: { router_hidden: 9, choices: 4, spatial_windows: [3, 2, 1], temporal_windows: [2, 1, 0] },
}

;(reason === undefined ? test : test.skip)('loss, gradients and an update are those of lib/train', () =>
  scope(async () => {
    const both = await openTiny('instructblip', seed)
    const { native: model } = both
    const { native: adapter } = bothAdapters(both, trained, frames, 3) // nothing of it is zero
    const { numQueryTokens, vision } = model.config
    // Two videos, whose texts and prompts are of two lengths.
    const batch = tinyInputs(both.config, 5, { frames })
    const rng = random(11)
    const features = map(array([2, frames, vision.tokens, vision.hiddenSize]), () => Math.fround(rng.normal()))
    const text = model.upload(textRows(batch), numQueryTokens)
    const factor = 1 / text.answers!.indices.size

    const numbers = async (t: Tensor): Promise<Float32Array> => ((await t.data()) as Float32Array).slice()
    const before = new Map<string, Float32Array>()
    for (const [name, t] of adapter.parameters) before.set(name, await numbers(t))
    const folder = temporaryFolder('step')
    const [tensors, out, path] = [
      join(folder, 'tensors.safetensors'),
      join(folder, 'out.safetensors'),
      join(folder, 'case.json'),
    ]
    writeSafetensors(
      tensors,
      new Map([
        ...[...tinyCheckpoint('instructblip', seed).tensors].filter(([name]) => !name.startsWith('vision_model.')),
        ...[...before].map(([name, data]) => [name, array(adapter.parameters.get(name)!.shape, data)] as const),
        ['features', features],
      ]),
    )
    const rows = (values: ArrayLike<number>): number[][] =>
      [0, 1].map((b) => Array.from(values).slice((b * values.length) / 2, ((b + 1) * values.length) / 2))
    const { lora, dar, t_max } = trained
    writeFileSync(
      path,
      JSON.stringify({
        config: both.config,
        tensors,
        out,
        lr,
        factor,
        adapter: {
          frames: t_max,
          rank: lora.r,
          alpha: lora.alpha,
          choices: dar.choices,
          hidden: dar.router_hidden,
          bias: adapter.config.dar.globalBias,
          spatial: dar.spatial_windows,
          temporal: dar.temporal_windows,
        },
        integers: {
          text: rows(batch.qformerIds!.data),
          tokens: rows(batch.qformerMask!.data),
          ids: rows(batch.inputIds.data),
          attended: rows(await numbers(text.mask)),
          positions: rows(await numbers(text.positions!)),
          places: [...(await numbers(text.answers!.indices))],
          targets: [...(await numbers(text.answers!.targets))],
        },
      }),
    )
    const { status, stderr } = spawnSync(python, ['bench/peers/step.py', path], { cwd: root, encoding: 'utf8' })
    assert.is(status, 0, stderr)
    const theirs = (name: string): Float64Array => Float64Array.from(readSafetensors(out).tensors.get(name)!.data)

    const loss = forwardBackward(model, adapter, {
      features: float32(features),
      qformer: qformerText(batch),
      text,
      factor: tensor(Float32Array.of(factor), []),
    })
    const apart = Math.abs((await loss.item()) / theirs('loss')[0]! - 1)
    assert.ok(apart <= 1e-5, `losses differ by ${apart}`)
    for (const [name, p] of adapter.parameters) {
      const error = relativeError(await numbers(p.grad!), theirs(`d.${name}`))
      assert.ok(error <= 1e-4, `the gradient of ${name} differs by ${error}`)
    }
    assert.is(
      adapter.parameters.size,
      [...readSafetensors(out).tensors.keys()].filter((name) => name.startsWith('d.')).length,
    )

    const optimizer = new AdamW(
      adapter.trained().map((p) => ({ ...p, tensor: adapter.parameters.get(p.name)! })),
      { lr, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.05, clip: 1 },
    )
    await optimizer.step()
    for (const [name, was] of before) {
      const [mine, other] = [await numbers(adapter.parameters.get(name)!), theirs(`after.${name}`)]
      const error = relativeError(
        mine.map((x, i) => x - was[i]!),
        other.map((x, i) => x - was[i]!),
      )
      assert.ok(error <= 1e-3, `the update of ${name} differs by ${error}`)
    }
    optimizer.dispose()
    adapter.dispose()
    model.dispose()
  }),
)

test.run()
