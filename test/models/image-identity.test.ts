// Where an adapter adds nothing, the video model is the image model: to the bit where every number is computed the same
// way, within a millionth where routing or the mean changes the order of operations.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import type { ImageModel, QFormerText, VideoAdapter } from '../../lib/models/image-model.js'
import { qformerForward } from '../../lib/models/qformer.js'
import { full, write } from '../../lib/ops/copy.js'
import { Random } from '../../lib/ops/random.js'
import { mean } from '../../lib/ops/reduce.js'
import { concat, expand, narrow, reshape } from '../../lib/ops/views.js'
import { scope } from '../../lib/tensor/scope.js'
import { noGrad } from '../../lib/tensor/tape.js'
import type { Tensor } from '../../lib/tensor/tensor.js'
import { relativeError } from '../oracle/array.js'
import { tinyInputs } from '../oracle/tiny.js'
import { type Both, float32, openTiny, qformerText, read } from '../support/tiny.js'

const [B, T] = [2, 3]

for (const kind of ['instructblip', 'blip2'] as const) {
  let opened: Both | undefined
  const fusion = kind === 'instructblip'
  /** Runs `f` with a batch of videos and its text. */
  const within = async (
    f: (features: Tensor, text: QFormerText | undefined, model: ImageModel) => Promise<void>,
  ): Promise<void> => {
    const { native, config } = (opened ??= await openTiny(kind, 5))
    await scope(() =>
      noGrad(() => {
        const batch = tinyInputs(config, 3, { videos: B, frames: T })
        return f(native.features(float32(batch.pixelValues!)), qformerText(batch), native)
      }),
    )
  }
  const parts = { frames: T, fusion, lora: { r: 3 }, dar: { spatialWindows: [3, 2, 1], temporalWindows: [1, 1, 0] } }
  const same = async (a: Tensor, b: Tensor, what: string): Promise<void> => {
    assert.equal(a.shape, b.shape, what)
    assert.equal(await a.data(), await b.data(), what)
  }
  /** The image model's visual tokens of every frame alone, averaged: [B,L,D]. */
  const average = (features: Tensor, text: QFormerText | undefined, model: ImageModel): Tensor => {
    const frames = Array.from({ length: T }, (_, t) => model.visualTokens(narrow(features, 1, t, 1), text))
    return mean(
      concat(
        frames.map((x) => reshape(x, [B, 1, ...x.shape.slice(1)])),
        1,
      ),
      1,
    )
  }

  test(`${kind}: without an adapter, frames together are the image model on each alone, to the bit`, () =>
    within(async (features, text, model) => {
      const { queries } = model.qformer
      const [L, D] = queries.shape.slice(1) as [number, number]
      const run = (image: Tensor, said: QFormerText | undefined, layers?: object[]): Tensor =>
        qformerForward(model.qformer, {
          queries: expand(reshape(queries, [1, 1, L, D]), [image.dim(0), image.dim(1), L, D]),
          image,
          text: said,
          adapters: layers,
        })
      const together = run(features, text)
      for (let t = 0; t < T; t++) {
        await same(narrow(together, 1, t, 1), run(narrow(features, 1, t, 1), text), `frame ${t}`)
        for (let b = 0; b < B; b++) {
          // Five queries alone: products of up to eight rows add up in another order.
          const said = text && { ids: narrow(text.ids, 0, b, 1), mask: narrow(text.mask, 0, b, 1) }
          const alone = run(narrow(narrow(features, 0, b, 1), 1, t, 1), said)
          const error = relativeError(await read(narrow(narrow(together, 0, b, 1), 1, t, 1)), await read(alone))
          assert.ok(error <= 1e-6, `video ${b}, frame ${t}: relative error ${error}`)
        }
      }
      await same(
        run(
          features,
          text,
          model.qformer.layers.map(() => ({})),
        ),
        together,
        'layer adapters without members',
      )
      // The visual tokens of one frame: nothing is averaged.
      const one = narrow(features, 1, 0, 1)
      const nothing: VideoAdapter = {
        fusion,
        aggregate: 'mean',
        joint: false,
        positions: { frame: full([4, D], 0), query: full([L, D], 0) },
        layers: () => [],
      }
      await same(
        model.visualTokens(one, text, nothing),
        model.visualTokens(one, text),
        'an adapter with positions of zero',
      )
    }))

  test(`${kind}: a new adapter without routing and temporal attention is the image model, to the bit`, () =>
    within(async (features, text, model) => {
      for (const aggregate of ['mean', 'concat'] as const) {
        const config = parseAdapterConfig({
          ...parts,
          aggregate,
          temporal: { attention: 'none' },
          dar: { ...parts.dar, mode: 'off' },
        })
        const adapter = new Adapter(model.config, config, { seed: 3 })
        const video = model.visualTokens(features, text, adapter)
        if (aggregate === 'mean') await same(video, model.visualTokens(features, text), 'mean')
        else
          for (let t = 0; t < T; t++)
            await same(narrow(video, 1, t * 5, 5), model.visualTokens(narrow(features, 1, t, 1), text), `frame ${t}`)
        adapter.dispose()
      }
    }))

  for (const mode of ['attention', 'score', 'off'] as const) {
    test(`${kind}: a gated adapter begins as the mean of the image model over frames (routing ${mode}, globalBias 100)`, () =>
      within(async (features, text, model) => {
        const config = parseAdapterConfig({
          ...parts,
          temporal: { residual: 'gated' },
          dar: { ...parts.dar, mode, globalBias: 100 },
        })
        const adapter = new Adapter(model.config, config, { seed: 3 })
        const video = model.visualTokens(features, text, adapter)
        // Without routing not one bit differs; a mixture of softmaxes of which one counts (exp(-100) of the others) is
        // added up in another order.
        const image = model.visualTokens(features, text)
        if (mode === 'off') await same(video, image, 'one pass over all frames')
        else assert.ok(relativeError(await read(video), await read(image)) <= 1e-6, 'one pass over all frames')
        // Projected before the mean instead of after it: the same but for rounding.
        const error = relativeError(await read(video), await read(average(features, text, model)))
        assert.ok(error <= 1e-6, `frame by frame: relative error ${error}`)
        adapter.dispose()
      }))
  }

  test.after(() => opened?.native.dispose())

  test(`${kind}: it differs from the image model as soon as something is trained`, () =>
    within(async (features, text, model) => {
      const config = parseAdapterConfig({
        ...parts,
        temporal: { residual: 'gated' },
        dar: { ...parts.dar, globalBias: 100 },
      })
      const image = await read(model.visualTokens(features, text))
      for (const name of [
        'layer.0.temporal.gate',
        'temporal_position',
        'spatial_position',
        'layer.1.spatial.q.lora_B',
        'layer.2.cross.v.lora_B',
      ]) {
        const adapter = new Adapter(model.config, config, { seed: 3 })
        const t = adapter.parameters.get(name)!
        write(t, new Random(9).normal(t.shape, 0, 0.5)) // (a shift by one number would be lost in the LayerNorm)
        const error = relativeError(await read(model.visualTokens(features, text, adapter)), image)
        assert.ok(error > 1e-4, `${name}: ${error}`)
        adapter.dispose()
      }
    }))
}

test('the same seed begins with the same bits, another with others', async () => {
  const { native } = await openTiny('instructblip', 5)
  const values = (seed: number): Promise<unknown[]> => {
    const adapter = new Adapter(native.config, parseAdapterConfig({ lora: { r: 3 } }), { seed })
    return Promise.all([...adapter.parameters.values()].map((t) => t.data())).finally(() => adapter.dispose())
  }
  const [a, b, c] = [await values(1), await values(1), await values(2)]
  assert.equal(a, b)
  assert.not.equal(a, c)
  native.dispose()
})

test.run()
