// Builders ask for each weight by name and shape: what a recording Finder lists, and what a checkpoint's answers to.
import { suite } from 'uvu'
import * as assert from 'uvu/assert'
import { parseModelConfig } from '../../lib/checkpoint/config.js'
import { finder, recorded } from '../../lib/models/finder.js'
import { wantedTensors } from '../../lib/models/image-model.js'
import { full } from '../../lib/ops/copy.js'
import { scope } from '../../lib/tensor/scope.js'

const test = suite('finder')

test('what is asked for is listed in order, by full name, shape and marks; a pack itself is in no file', () => {
  const list = recorded((root) => {
    const at = root.at('a')
    at.norm('n', 3, 1e-5)
    at.linear('l', 4, 3, { bias: false })
    const { parts, packed } = at.pack('qk', { q: 2, k: 1 }, 3)
    assert.equal(
      [parts.map((p) => p.weight.shape), packed],
      [
        [
          [2, 3],
          [1, 3],
        ],
        undefined,
      ],
    )
    at.get('table', [7, 3], { rows: true })
    assert.is(root.find('head', [7, 3], { rows: true }), undefined)
    assert.throws(() => parts[0]!.weight.handle) // nothing computes while recording
  })
  assert.equal(list, [
    { name: 'a.n.weight', shape: [3] },
    { name: 'a.n.bias', shape: [3] },
    { name: 'a.l.weight', shape: [4, 3] },
    { name: 'a.q.weight', shape: [2, 3], pack: 'a.qk.weight' },
    { name: 'a.q.bias', shape: [2], pack: 'a.qk.bias' },
    { name: 'a.k.weight', shape: [1, 3], pack: 'a.qk.weight' },
    { name: 'a.k.bias', shape: [1], pack: 'a.qk.bias' },
    { name: 'a.table', shape: [7, 3], rows: true },
    { name: 'head', shape: [7, 3], optional: true, rows: true },
  ])
})

test('a weight of another shape, or none, is refused by name; a vocabulary has the rows that the file has', () =>
  scope(() => {
    const at = finder(
      new Map([
        ['w.weight', full([4, 3], 0)],
        ['table', full([9, 3], 0)],
      ]),
    )
    assert.equal(at.linear('w', 4, 3, { bias: false }).weight.shape, [4, 3])
    assert.equal(at.get('table', [7, 3], { rows: true }).shape, [9, 3])
    assert.throws(() => at.linear('w', 3, 4), /w\.weight: expected shape \[3,4\], but got \[4,3\]/)
    assert.throws(() => at.get('table', [7, 2], { rows: true }), /table: expected shape \[rows,2\], but got \[9,3\]/)
    assert.throws(() => at.linear('w', 4, 3), /weights: expected a tensor named w\.bias/)
  }))

test('linear layers of one input lie in packs: query, key and value; key and value over an image; gate and up', () => {
  const config = parseModelConfig({
    model_type: 'instructblip',
    qformer_config: { num_hidden_layers: 1 },
    text_config: { model_type: 'llama', num_hidden_layers: 1 },
  })
  const packs = new Map<string, string[]>()
  for (const { name, pack } of wantedTensors(config))
    if (pack?.endsWith('.weight')) packs.set(pack, [...(packs.get(pack) ?? []), name.split('.').at(-2)!])
  const [layer, decoder] = ['qformer.encoder.layer.0', 'language_model.model.layers.0']
  assert.equal(
    packs,
    new Map([
      [`${layer}.attention.attention.query_key_value.weight`, ['query', 'key', 'value']],
      [`${layer}.crossattention.attention.key_value.weight`, ['key', 'value']],
      [`${decoder}.self_attn.qkv_proj.weight`, ['q_proj', 'k_proj', 'v_proj']],
      [`${decoder}.mlp.gate_up_proj.weight`, ['gate_proj', 'up_proj']],
    ]),
  )
})

test.run()
