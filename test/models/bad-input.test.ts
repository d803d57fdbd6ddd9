// Errors that only the model itself can detect: too many frames, an id without a row, a sequence past the positions.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { InputError } from '../../lib/errors.js'
import type { LanguageConfig } from '../../lib/models/language.js'
import type { VisionConfig } from '../../lib/models/vit.js'
import { embedTokens } from '../../lib/models/decoder.js'
import type { ImageModel } from '../../lib/models/image-model.js'
import { scope } from '../../lib/tensor/scope.js'
import { sync } from '../../lib/tensor/runtime.js'
import { tensor } from '../../lib/tensor/tensor.js'
import { full } from '../../lib/ops/copy.js'
import { openTiny } from '../support/tiny.js'

const test = suite('bad input to the model')
let model: ImageModel
let vision: VisionConfig
let language: LanguageConfig
test.before(async () => {
  model = (await openTiny('instructblip', 3)).native
  ;({ vision, language } = model.config)
})
test.after(() => model.dispose())

test('more frames than temporal.maxFrames are refused by that name', () =>
  scope(() => {
    const adapter = new Adapter(
      model.config,
      parseAdapterConfig({ frames: 2, temporal: { maxFrames: 2 }, lora: { r: 2 } }),
    )
    try {
      const features = full([1, 3, vision.tokens, vision.hiddenSize], 0)
      assert.throws(
        () => model.visualTokens(features, undefined, adapter),
        (e: unknown) =>
          e instanceof InputError &&
          /frames: expected at most 2 frames, but got 3; raise temporal\.maxFrames/.test(e.message),
      )
    } finally {
      adapter.dispose()
    }
  }))

test('a token id past the embedding rejects the next await with the id and the rows; then all is well again', () =>
  scope(async () => {
    const rows = embedTokens(model.language, tensor(Int32Array.of(language.vocabSize), [1, 1]), 'float32')
    const message = await rows.data().then(
      () => 'nothing',
      (e: Error) => e.message,
    )
    assert.match(
      message,
      new RegExp(`embedding_forward: id ${language.vocabSize} is outside the embedding's ${language.vocabSize} rows`),
    )
    await sync()
    assert.is(
      (await embedTokens(model.language, tensor(Int32Array.of(0), [1, 1]), 'float32').data()).length,
      language.hiddenSize,
    )
  }))

test("visual and text tokens past the language model's positions are refused with their numbers", () =>
  scope(() => {
    const n = language.maxPositions
    const visual = full([1, n, language.hiddenSize], 0)
    const text = { rows: 1, ids: Int32Array.of(1), mask: Uint8Array.of(1) }
    assert.throws(
      () => model.hidden(visual, text),
      (e: unknown) =>
        e instanceof InputError &&
        e.message.includes(
          `${n} visual tokens and 1 text tokens make ${n + 1}, but the language model has ${n} positions`,
        ),
    )
  }))

test.run()
