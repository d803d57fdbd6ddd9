// How many nodes the CUDA graph of a training step has. The emulator counts them while it captures the step; none runs.
// Depths are those of the full model, 12 layers of the Q-Former and 32 of LLaMA, with B = 4 and T = 8. Widths are small:
// the number of nodes does not depend on them, except where a factor is padded first, such as the vocabulary's.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { inputsOf, randomModel, type Sizes } from '../../bench/full-model.js'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { native } from '../../lib/native.js'
import { devices } from '../../lib/tensor/device.js'
import { Graph } from '../../lib/tensor/cuda-graph.js'
import { keep, scope } from '../../lib/tensor/scope.js'
import { syncBlocking } from '../../lib/tensor/runtime.js'
import { forwardBackward } from '../../lib/train/graphs.js'

const device = devices().cuda.devices[0]?.device
const sizes: Sizes = { B: 4, T: 8, text: 32, prompt: 64, answers: 16 }

/** One head of each kind, as wide as in the full model. */
const narrow = (qformer: number, language: number): object => ({
  model_type: 'instructblip',
  num_query_tokens: 32,
  vision_config: {
    hidden_size: 64,
    num_attention_heads: 1,
    image_size: 224,
    patch_size: 14,
    num_hidden_layers: 1,
    intermediate_size: 8,
  },
  qformer_config: {
    hidden_size: 64,
    num_attention_heads: 1,
    intermediate_size: 16,
    num_hidden_layers: qformer,
    encoder_hidden_size: 64,
    vocab_size: 50,
  },
  text_config: {
    model_type: 'llama',
    vocab_size: 60,
    hidden_size: 128,
    num_attention_heads: 1,
    intermediate_size: 256,
    num_hidden_layers: language,
  },
})

/** Nodes of forward and backward. */
const nodes = (qformer: number, language: number): number =>
  scope(() => {
    const model = randomModel(device!, 'bfloat16', narrow(qformer, language))
    const adapter = new Adapter(model.config, parseAdapterConfig({ frames: sizes.T }), { seed: 3, device: device! })
    const inputs = inputsOf(model, sizes)
    adapter.layers(sizes.T, sizes.text) // uploads the masks, once
    syncBlocking()
    const counted = (): number => native().devices().counts!.nodes!
    const before = counted()
    const { graph, result } = Graph.capture(device!, () => keep(forwardBackward(model, adapter, inputs).detach()))
    syncBlocking()
    const count = counted() - before
    result.dispose()
    graph.dispose()
    adapter.dispose()
    model.dispose()
    return count
  })

if (!device || !native().devices().counts)
  test.skip('nodes of a training step: they are counted by the emulator alone', () => {})
else {
  test('a layer of LLaMA is nine nodes forward and nine backward', () => {
    assert.is(nodes(1, 3) - nodes(1, 2), 18)
  })

  test('a training step of 12 and 32 layers has at most 1,300 nodes', () => {
    const count = nodes(12, 32)
    console.log(`nodes of a training step: ${count}`)
    assert.ok(count <= 1300, `${count}`)
  })
}

test.run()
